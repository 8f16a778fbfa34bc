"""From records to one row a measurement."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import pytest

from tests.sweeps import DATA, VERIFIED, cell_end, observed, speed_cell
from turbobench import tidy
from turbobench.errors import StoreError
from turbobench.kld_tokens import Part, TokenKld
from turbobench.kvtypes import KVPair
from turbobench.matrix import Cell
from turbobench.outcome import Divergence, Failed, Measured, Nmse
from turbobench.placement import Verdict
from turbobench.programs import perplexity
from turbobench.store import CellEnd, Record

# As design.md publishes them; checks outside the project read these names.
PUBLISHED = [
    *("set", "cell_id", "build_id", "tree_id", "backend", "device", "model", "model_sha256", "type_k", "type_v"),
    *("center", "bpv", "test", "path", "n_depth", "n_ctx", "tokens_per_s", "tokens_per_s_lo", "tokens_per_s_hi"),
    *("ratio_f16", "ratio_q8_0", "ppl", "kld_mean", "kld_p99", "kld_p999", "kld_max", "same_top_pct", "kv_mib"),
    *("placement", "disposition", "samples", "timestamp"),
]
S = 1_000_000_000


def header(*ends: CellEnd) -> Record:
    return {
        "schema": 1,
        "kind": "sweep",
        "sweep_id": "s1",
        "set": "demo",
        "date": "2026-11-01T10:00:00+00:00",
        "planned": list(dict.fromkeys(end.cell.id for end in ends)),
        "provenance": {
            "turbobench": "0.1.0",
            "spec": {"name": "demo", "description": "a demo"},
            "pin": "c" * 40,
            "tree_id": "t" * 40,
            "build_id": "b1",
            "backend": "cpu",
            "cmake_flags": ["-DGGML_NATIVE=ON"],
            "compiler": "gcc 14",
            "build_notes": ["without AMX"],
            "device": "a CPU, 2 cores",
            "machine": {"cpu": "a CPU", "cores": 2, "ram_gib": 4.0, "system": "Linux"},
            "model": {"file": "m.gguf", "file_type": "MOSTLY_Q4_1", "sha256": "ab" * 32},
            "corpus": {"name": "text", "sha256": "cd" * 32},
        },
    }


def result_set(*ends: CellEnd) -> tidy.ResultSet:
    return tidy.last_sweep([header(*ends), *(end.record("s1") for end in ends)])


def kld_end(
    pair: str = "q8_0/q4_0",
    kind: Literal["quality", "floor"] = "quality",
    *,
    path: Literal["prefill", "decode"] = "prefill",
    kld: float = 0.000503,
    chunks: int = 2,
    fingerprint: str = "",
    runs: tuple[tuple[float, ...], ...] = (),
) -> CellEnd:
    cell = Cell(
        kind=kind,
        pair=KVPair.parse(pair),
        test="kld",
        build_id="b1",
        device="a CPU, 2 cores",
        model_sha256="ab" * 32,
        corpus_sha256="cd" * 32,
        n_ctx=512,
        chunks=chunks,
        path=path,
        params={"n_ubatch": 512 if path == "prefill" else 1, "weights": "f16"},
    )
    stats = perplexity.parse_kld((DATA / "perplexity-kld.stdout").read_text(encoding="utf-8"))
    measured = Divergence(
        stats=replace(stats, kld_mean=kld),
        tokens=TokenKld(
            fingerprint=fingerprint or f"{pair} {kind} {path} {kld}",
            # The first chunk is worse than the others, so that comparing different chunks would show.
            chunks=tuple(part(256, 510, kld * (1.5 if n == 0 else 0.5), n=255) for n in range(chunks)),
            buckets=(part(256, 382, kld / 2), part(383, 510, kld * 1.5)),
            runs=runs,
        ),
    )
    return cell_end(cell, outcome=Measured(measurement=measured, observed=observed(cell.pair), verdict=VERIFIED))


def part(lo: int, hi: int, kld: float, n: int = 256) -> Part:
    return Part(pos_lo=lo, pos_hi=hi, n=n, kld_mean=kld, kld_err=0.00004)


def nmse_end(name: str, nmse: float) -> CellEnd:
    cell = Cell(kind="nmse", pair=KVPair(name, name), test="nmse", build_id="b1", device="a CPU, 2 cores", params={})
    return cell_end(cell, outcome=Measured(measurement=Nmse(nmse=nmse, n_values=4096), observed=None, verdict=VERIFIED))


def test_the_published_columns_come_first_and_in_their_order() -> None:
    columns = list(tidy.frame(result_set(kld_end())).columns)
    assert columns[: len(PUBLISHED)] == PUBLISHED
    assert len(set(columns)) == len(columns)


def test_no_figure_is_rounded_and_what_does_not_apply_is_empty() -> None:
    row = tidy.frame(result_set(kld_end())).to_dict("records")[0]
    assert (row["kld_mean"], row["kld_p999"], row["kld_max"], row["ppl"]) == (0.000503, 0.012622, 0.016310, 1.081946)
    assert (row["bpv"], row["kv_mib"], row["placement"]) == (6.5, 11.25, "verified")
    assert math.isnan(row["tokens_per_s"]) or row["tokens_per_s"] is None


def test_speed_is_the_mean_over_rounds_of_their_medians() -> None:
    cell = speed_cell("f16")
    ends = [cell_end(cell, round_=0, samples_ns=(S, S)), cell_end(cell, round_=1, samples_ns=(S // 2, S // 2))]
    (row,) = tidy.rows(result_set(*ends))
    assert (row["tokens_per_s"], row["rounds"], row["samples"]) == (24.0, 2, 4)
    assert row["tokens_per_s_lo"] < 24.0 < row["tokens_per_s_hi"]


def test_ratios_are_taken_within_a_round_so_that_drift_cancels() -> None:
    base, turbo = speed_cell("f16"), speed_cell("turbo4")
    ends = []
    for number, slowdown in enumerate((1, 3)):  # the machine is three times slower in round 1
        ends.append(cell_end(base, round_=number, samples_ns=(S * slowdown,)))
        ends.append(cell_end(turbo, round_=number, samples_ns=(S * slowdown // 2,)))
    row = next(row for row in tidy.rows(result_set(*ends)) if row["type_k"] == "turbo4")
    assert row["ratio_f16"] == pytest.approx(2.0)
    assert (row["ratio_f16_lo"], row["ratio_f16_hi"]) == pytest.approx((2.0, 2.0))
    assert row.get("ratio_q8_0") is None


def test_a_cell_is_compared_only_with_its_own_depth_and_test() -> None:
    ends = [cell_end(speed_cell("f16", depth=0)), cell_end(speed_cell("turbo4", depth=4096))]
    row = next(row for row in tidy.rows(result_set(*ends)) if row["type_k"] == "turbo4")
    assert row.get("ratio_f16") is None


def test_a_fallback_is_shown_and_never_compared() -> None:
    measured = cell_end(speed_cell("turbo4")).outcome
    assert isinstance(measured, Measured)
    fallback = Measured(
        measurement=measured.measurement,
        observed=measured.observed,
        verdict=Verdict(placement="fallback", reason="the cache was f16/f16"),
    )
    ends = [cell_end(speed_cell("f16")), cell_end(speed_cell("turbo4"), outcome=fallback)]
    row = next(row for row in tidy.rows(result_set(*ends)) if row["type_k"] == "turbo4")
    assert (row["placement"], row.get("ratio_f16"), row["reason"]) == ("fallback", None, "the cache was f16/f16")
    assert row["tokens_per_s"] > 0


def test_a_failure_is_a_row_with_its_reason_until_a_retry_measures_it() -> None:
    failed = cell_end(speed_cell("turbo4"), outcome=Failed(reason="SIGSEGV", ending="", log="", hint=""))
    (row,) = tidy.rows(result_set(failed))
    assert (row["disposition"], row["reason"]) == ("failed", "SIGSEGV")
    (row,) = tidy.rows(result_set(failed, cell_end(speed_cell("turbo4"))))
    assert (row["disposition"], row.get("reason")) == ("measured", None)


def test_cells_that_the_last_sweep_did_not_plan_are_left_out() -> None:
    old, new = cell_end(speed_cell("q4_0")), cell_end(speed_cell("turbo4"))
    records = [header(old), old.record("s0"), header(new), new.record("s1")]
    assert [row["type_k"] for row in tidy.rows(tidy.last_sweep(records))] == ["turbo4"]


def test_a_set_without_a_sweep_is_an_error() -> None:
    with pytest.raises(StoreError, match="no sweep"):
        tidy.last_sweep([])


def test_the_kld_of_positions_is_a_row_each_and_no_row_of_all_tokens() -> None:
    whole, *buckets = tidy.rows(result_set(kld_end()))
    assert (whole["test"], whole.get("pos_lo")) == ("kld", None)
    assert [(row["test"], row["kind"], row["pos_lo"], row["pos_hi"]) for row in buckets] == [
        ("kld_bucket", "bucket", 256, 382),
        ("kld_bucket", "bucket", 383, 510),
    ]
    assert buckets[1]["kld_mean"] == pytest.approx(0.000503 * 1.5)
    assert all(row.get(name) is None for row in buckets for name in ("ppl", "kld_p99", "same_top_pct", "fingerprint"))


def test_the_decode_path_is_set_against_prefill_on_the_same_chunks() -> None:
    rows = tidy.rows(result_set(kld_end(chunks=4), kld_end(path="decode", chunks=1), kld_end("turbo4", path="decode")))
    found = {row["type_k"]: row for row in rows if row["path"] == "decode" and row["test"] == "kld"}
    # The first chunk alone, and not the mean of all four.
    assert found["q8_0"]["kld_prefill"] == pytest.approx(0.000503 * 1.5)
    assert found["q8_0"]["kld_prefill_err"] == pytest.approx(0.00004)
    assert found["turbo4"].get("kld_prefill") is None


def test_properties_of_a_pair_are_columns_and_empty_where_it_has_none() -> None:
    pairs = ("q4_0", "q4_0:unrotated", "q4_0+c/q4_0")
    rows = [row for row in tidy.rows(result_set(*map(kld_end, pairs))) if row["test"] == "kld"]
    assert [(row["center"], row["unrotated"]) for row in rows] == [(None, None), (None, True), (True, None)]


def test_a_record_of_an_older_turbobench_has_no_positions() -> None:
    old = kld_end().record("s1")
    for name in ("fingerprint", "chunks", "buckets"):
        del old["measurement"][name]
    (row,) = tidy.rows(tidy.last_sweep([header(kld_end()), old]))
    assert (row["kld_mean"], row.get("fingerprint"), row["samples"]) == (0.000503, None, 2)


def test_codec_error_is_a_row() -> None:
    (row,) = tidy.rows(result_set(nmse_end("turbo4", 0.0065)))
    assert (row["test"], row["nmse"], row["samples"], row["model"]) == ("nmse", 0.0065, 4096, None)
