"""llama-bench's command line and its rows, on captured output."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from turbobench.errors import MeasurementError
from turbobench.kvtypes import KVPair
from turbobench.layer_types import LayerRun, LayerTypes
from turbobench.programs import llama_bench
from turbobench.programs.llama_bench import BenchRequest

DATA = Path(__file__).parent.parent / "data"
ASKED = BenchRequest(pair=KVPair("q8_0", "q4_0"), n_depth=128, n_prompt=64, n_gen=4, repetitions=2, n_threads=2)


@pytest.fixture
def stdout() -> str:
    return (DATA / "llama-bench-q8_0-q4_0.stdout").read_text(encoding="utf-8")


def test_one_process_measures_prompt_and_generation_at_one_depth_of_one_pair() -> None:
    argv = llama_bench.argv(Path("bin/llama-bench"), Path("a.gguf"), ASKED)
    text = " ".join(argv)
    assert "-ctk q8_0 -ctv q4_0" in text
    assert "-p 64 -n 4 -d 128 -r 2" in text
    assert "-fa 1" in text


def test_layers_go_to_the_gpu_only_where_there_is_one() -> None:
    there = llama_bench.argv(Path("llama-bench"), Path("a.gguf"), replace(ASKED, n_gpu_layers=99))
    assert "-ngl 99" in " ".join(there)
    assert "-ngl" not in llama_bench.argv(Path("llama-bench"), Path("a.gguf"), ASKED)


def test_every_row_and_every_raw_sample_is_kept(stdout: str) -> None:
    pp, tg = llama_bench.parse(stdout)
    assert (pp.test, tg.test) == ("pp64", "tg4")
    assert pp.samples_ns == (504753580, 528664997)
    assert tg.n_tokens == 4
    assert tg.samples_tokens_per_s == pytest.approx((64.6091, 64.3321), rel=1e-5)
    assert pp.pair == KVPair("q8_0", "q4_0")
    llama_bench.check_asked([pp, tg], ASKED)


def test_a_run_that_printed_no_row_is_no_measurement() -> None:
    with pytest.raises(MeasurementError, match="no rows"):
        llama_bench.parse((DATA / "llama-bench-missing-model.stdout").read_text(encoding="utf-8"))


def test_a_row_torn_by_a_crash_is_no_measurement(stdout: str) -> None:
    with pytest.raises(MeasurementError, match="cannot be read"):
        llama_bench.parse(stdout[: len(stdout) - 200])


def test_a_sample_of_no_time_is_no_measurement(stdout: str) -> None:
    row = json.loads(stdout.splitlines()[0]) | {"samples_ns": [0]}
    with pytest.raises(MeasurementError, match="pp64"):
        llama_bench.parse(json.dumps(row))


def test_rows_of_another_cache_type_than_asked_are_refused(stdout: str) -> None:
    other = BenchRequest(pair=KVPair("turbo4", "q4_0"), n_depth=128, n_prompt=64, n_gen=4, repetitions=2, n_threads=2)
    with pytest.raises(MeasurementError, match="turbo4/q4_0 at depth 128 and reports q8_0/q4_0"):
        llama_bench.check_asked(llama_bench.parse(stdout), other)


def test_a_policy_is_asked_for_without_types_and_reported_as_f16(stdout: str) -> None:
    policy = LayerTypes("mine", "llama", 1, 64, (LayerRun(0, 0, 64, "turbo4", 64, "turbo3"),))
    asked = replace(ASKED, pair=KVPair.by_layer(policy), kv_types=Path("mine.kv-types"))
    argv = llama_bench.argv(Path("llama-bench"), Path("m.gguf"), asked)
    assert "-ctk" not in argv
    assert argv[argv.index("--kv-types") + 1] == "mine.kv-types"
    llama_bench.check_asked(llama_bench.parse(stdout.replace('"q8_0"', '"f16"').replace('"q4_0"', '"f16"')), asked)
    with pytest.raises(MeasurementError, match="policy:mine at depth 128 and reports q8_0/q4_0"):
        llama_bench.check_asked(llama_bench.parse(stdout), asked)


def test_a_missing_test_is_named(stdout: str) -> None:
    with pytest.raises(MeasurementError, match="no row for tg4"):
        llama_bench.check_asked(llama_bench.parse(stdout)[:1], ASKED)
