"""When figures of quality must not be believed."""

from __future__ import annotations

import math
import operator
import statistics

import pytest

from tests.test_tidy import kld_end, result_set
from turbobench import quality_gate, tidy
from turbobench.quality_gate import allowed_difference, compare_paths, faults, twins
from turbobench.store import CellEnd


def rows(*ends: CellEnd) -> list[tidy.Row]:
    return tidy.rows(result_set(*ends))


def both_paths(decode: float, *, floor: float | None = None) -> list[tidy.Row]:
    """Return rows of a pair with KLD .0015 on prefill's first chunk, error .00004, and `decode` on the decode path."""
    floors = [kld_end("f16", "floor"), kld_end("f16", "floor", path="decode", kld=floor)] if floor is not None else []
    return rows(kld_end("turbo4", kld=0.001, chunks=2), kld_end("turbo4", path="decode", kld=decode, chunks=1), *floors)


ALLOWED = 3 * math.hypot(0.00004, 0.000055)  # of the prefill chunk, and of the capture's final block


@pytest.mark.parametrize(("off", "agrees"), [(0.0, True), (0.9, True), (-0.9, True), (1.1, False), (-1.1, False)])
def test_decode_equals_prefill_within_three_standard_errors(off: float, agrees: bool) -> None:
    (compared,) = compare_paths(both_paths(0.0015 + off * ALLOWED))
    assert compared.prefill == pytest.approx(0.0015)
    assert compared.allowed == pytest.approx(ALLOWED)
    assert compared.agrees is agrees


def test_where_records_have_the_runs_of_tokens_the_error_is_that_of_their_differences() -> None:
    hard_and_easy = (0.0001, 0.004, 0.0002, 0.0009)
    prefill = kld_end("turbo4", kld=0.001, chunks=2, runs=(hard_and_easy, (9.0, 9.0, 9.0, 9.0)))
    off = (0.00001, -0.00001, 0.00002, 0.0)
    decode = kld_end(
        "turbo4", path="decode", kld=0.00154, chunks=1, runs=(tuple(map(operator.add, hard_and_easy, off)),)
    )
    (compared,) = compare_paths(rows(prefill, decode))
    assert compared.allowed == pytest.approx(3 * statistics.stdev(off) / 2)
    assert not compared.agrees


def test_what_the_decode_path_does_to_f16_is_allowed_on_top() -> None:
    (compared,) = compare_paths(both_paths(0.0015, floor=0.0003))
    assert compared.allowed == pytest.approx(ALLOWED + 0.0003)


def test_a_fault_that_f16_shares_does_not_excuse_the_others() -> None:
    assert allowed_difference(0.0, 3.0) == 0.01
    assert faults(both_paths(2.0, floor=3.0))


def test_a_floor_below_zero_takes_nothing_away() -> None:
    assert allowed_difference(0.001, -0.5) == 0.003


def test_half_of_v_as_zeros_on_the_decode_path_is_a_fault_that_names_the_pair_and_both_figures() -> None:
    (fault,) = faults(both_paths(1.9))
    assert fault.startswith("turbo4 at 512 tokens has KLD 1.90000 through the decode kernels and 0.00150")


def test_sound_figures_have_no_fault() -> None:
    assert faults(both_paths(0.0015, floor=0.00002)) == []


def test_types_that_gave_the_same_for_every_token_are_found() -> None:
    same = rows(kld_end("turbo4", fingerprint="f"), kld_end("q8_0/turbo4", fingerprint="f"), kld_end("q4_0"))
    assert twins(same) == [("turbo4", "q8_0/turbo4")]
    assert "one of them was not in use" in faults(same)[0]


def test_f16_again_and_the_same_pair_on_the_other_path_are_no_twins() -> None:
    assert twins(rows(kld_end("f16", "floor", fingerprint="f"), kld_end("f16", fingerprint="f"))) == []
    assert twins(rows(kld_end("turbo4", fingerprint="f"), kld_end("q4_0", path="decode", fingerprint="f"))) == []


def test_the_rule_is_the_one_the_report_shows() -> None:
    assert quality_gate.compare_paths(rows(kld_end("turbo4"))) == []
