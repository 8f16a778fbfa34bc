"""The tables of quality: by type, by byte, by position and by path."""

from __future__ import annotations

import pytest

from tests.test_tidy import kld_end, result_set
from turbobench import tidy
from turbobench.quality_tables import quality_tables
from turbobench.store import CellEnd
from turbobench.table import Table


def tables(*ends: CellEnd) -> dict[str, Table]:
    return {table.title: table for table in quality_tables(tidy.rows(result_set(*ends)))}


def column(table: Table, header: str) -> dict[str, str]:
    """Return a column by the first cell of each row that names a pair."""
    name = table.headers.index("K/V")
    return {row[name]: row[table.headers.index(header)] for row in table.rows}


def test_every_statistic_of_the_tail_is_a_column() -> None:
    table = tables(kld_end())["Quality against f16 K/V at 512 tokens"]
    for header in ("PPL", "KLD mean", "median", "95 %", "99 %", "99.9 %", "max", "RMS Δp %", "top-1 %"):
        assert column(table, header)["q8_0/q4_0"] != "–"


def test_properties_of_a_pair_are_in_its_name() -> None:
    table = tables(*(kld_end(name) for name in ("q4_0", "q4_0:unrotated", "turbo4+c/turbo3")))
    names = [row[0] for row in table["Quality against f16 K/V at 512 tokens"].rows]
    assert names == ["q4_0", "q4_0:unrotated", "turbo4+c/turbo3"]


def test_paths_are_never_in_one_table_and_the_decode_floor_is_named() -> None:
    found = tables(
        kld_end("turbo4"), kld_end("turbo4", path="decode"), kld_end("f16", "floor", path="decode", kld=2e-5)
    )
    assert [row[0] for row in found["Quality against f16 K/V at 512 tokens"].rows] == ["turbo4"]
    decode = found["Quality against f16 K/V at 512 tokens, decode path"]
    assert [row[0] for row in decode.rows] == ["turbo4", "f16 (floor)"]
    assert any(
        "f16 through the decode kernels against the f16 base shows KLD 0.000020" in note for note in decode.notes
    )


def test_the_table_by_byte_marks_the_front_and_names_what_dominates() -> None:
    ends = [
        kld_end("turbo4", kld=0.03),
        kld_end("q4_0", kld=0.04),
        kld_end("q8_0", kld=0.0002),
        kld_end("f16", "floor"),
    ]
    table = tables(*ends)["Quality by byte at 512 tokens"]
    assert [row[1] for row in table.rows] == ["turbo4", "q4_0", "q8_0"]
    assert column(table, "front") == {"turbo4": "●", "q4_0": "", "q8_0": "●"}
    assert column(table, "dominated by")["q4_0"] == "turbo4"


def test_a_dominance_within_the_error_is_marked() -> None:
    table = tables(kld_end("turbo4", kld=0.03), kld_end("q4_0", kld=0.0301))["Quality by byte at 512 tokens"]
    assert column(table, "dominated by")["q4_0"] == "turbo4 ~"


def test_kld_by_position_has_the_ranges_as_columns_and_says_how_it_grows() -> None:
    table = tables(kld_end("turbo4", kld=0.03), kld_end("q4_0", kld=0.04))["KLD by position at 512 tokens"]
    assert table.headers == ("K/V", "256–382", "383–510", "last / first")
    assert column(table, "256–382")["turbo4"] == "0.01500 ± 0.00004"
    assert column(table, "last / first") == {"turbo4": "3.00", "q4_0": "3.00"}


@pytest.mark.parametrize(("decode", "verdict"), [(0.0451, "equal"), (1.9, "DIFFERS")])
def test_the_paths_are_compared_with_a_verdict(decode: float, verdict: str) -> None:
    ends = (kld_end("turbo4", kld=0.03), kld_end("turbo4", path="decode", kld=decode, chunks=1))
    table = tables(*ends)["Decode kernels against prefill"]
    assert column(table, "within error") == {"turbo4": verdict}
    assert column(table, "prefill") == {"turbo4": "0.04500"}


def test_pairs_that_gave_the_same_are_listed() -> None:
    table = tables(kld_end("turbo4", fingerprint="f"), kld_end("turbo3", fingerprint="f"))[
        "Pairs that cannot both be true"
    ]
    assert table.rows == (("turbo4", "turbo3"),)
