"""llama-perplexity's command lines and statistics, on captured output."""

from __future__ import annotations

from pathlib import Path

import pytest

from turbobench.errors import CorpusError, MeasurementError
from turbobench.kvtypes import KVPair
from turbobench.programs import perplexity
from turbobench.programs.perplexity import PplRequest

DATA = Path(__file__).parent.parent / "data"
REQUEST = PplRequest(pair=KVPair("q8_0", "turbo4"), n_ctx=512, chunks=2, n_threads=2)


def captured(name: str) -> str:
    return "".join((DATA / f"{name}.{stream}").read_text(encoding="utf-8") for stream in ("stdout", "stderr"))


def test_every_statistic_of_the_final_block_is_read() -> None:
    stats = perplexity.parse_kld(captured("perplexity-kld"))
    assert (stats.ppl, stats.ppl_err) == (1.081946, 0.016948)
    assert stats.ppl_base == 1.080999
    assert (stats.ppl_ratio, stats.ppl_ratio_err) == (1.000876, 0.000414)
    assert (stats.kld_mean, stats.kld_err, stats.kld_median) == (0.000503, 0.000055, 0.000124)
    assert (stats.kld_max, stats.kld_p999, stats.kld_p99) == (0.016310, 0.012622, 0.005646)
    assert (stats.kld_p95, stats.kld_p90, stats.kld_p10, stats.kld_p05) == (0.002138, 0.001111, 0.000005, 0.000001)
    assert (stats.kld_p01, stats.kld_min) == (-0.000001, -0.000018)
    assert (stats.rms_dp_pct, stats.same_top_pct, stats.same_top_err) == (0.560, 99.216, 0.391)


def test_the_plain_estimate_is_read_from_stderr() -> None:
    assert perplexity.parse_plain(captured("perplexity-base")) == (1.0810, 0.01699)


def test_a_text_that_is_too_short_is_the_texts_fault_though_the_program_exits_0() -> None:
    with pytest.raises(CorpusError, match="161 tokens where 1024 are needed"):
        perplexity.parse_plain(captured("perplexity-too-short"))
    with pytest.raises(CorpusError, match="gives 0 tokens"):
        perplexity.parse_plain(captured("perplexity-empty-text"))


def test_a_truncated_base_is_an_error_that_quotes_the_program() -> None:
    with pytest.raises(MeasurementError, match="failed reading evaluation tokens"):
        perplexity.parse_kld(captured("perplexity-kld-truncated-base"))
    with pytest.raises(MeasurementError, match="failed reading log-probs for chunk 1"):
        perplexity.parse_kld(captured("perplexity-kld-torn-base"))


def test_nan_is_no_measurement() -> None:
    output = captured("perplexity-kld").replace(
        "Mean    KLD:   0.000503 ±   0.000055", "Mean    KLD:        nan ±        nan"
    )
    with pytest.raises(MeasurementError, match="Mean KLD = nan"):
        perplexity.parse_kld(output)


@pytest.mark.parametrize(
    "line",
    [
        "0.01 E kl_divergence: inconsistent vocabulary (49152 vs 151936)",
        "0.01 E kl_divergence: b.logits has been computed with 1024, while the current context is 512",
    ],
)
def test_a_base_of_another_model_or_length_is_refused_though_the_program_goes_on(line: str) -> None:
    with pytest.raises(MeasurementError, match="the base is of another model or n_ctx"):
        perplexity.parse_kld(line + "\n" + captured("perplexity-kld"))


def test_a_perplexity_that_is_no_number_is_refused() -> None:
    output = captured("perplexity-base").replace("PPL = 1.0810", "PPL = nan")
    with pytest.raises(MeasurementError, match="PPL = nan"):
        perplexity.parse_plain(output)


def test_the_running_perplexity_of_each_chunk_is_read() -> None:
    assert perplexity.parse_chunks(captured("perplexity-base")) == [1.0715, 1.0810]


def test_logits_equal_to_f16_are_refused_for_any_other_type_and_kept_for_f16() -> None:
    output = (
        captured("perplexity-kld")
        .replace("Mean    KLD:   0.000503", "Mean    KLD:  -0.000000")
        .replace("RMS Δp    :  0.560", "RMS Δp    :  0.000")
        .replace("Same top p: 99.216", "Same top p: 100.000")
    )
    stats = perplexity.parse_kld(output)
    perplexity.check_differs(stats, KVPair("f16", "f16"))
    with pytest.raises(MeasurementError, match="q8_0/q8_0 shows exactly the logits of f16/f16"):
        perplexity.check_differs(stats, KVPair("q8_0", "q8_0"))


def test_a_base_file_has_the_predicted_size() -> None:
    # ls -l of the file that the captured run wrote: SmolLM2 (49152 tokens of vocabulary), 2 chunks of 512.
    assert perplexity.base_bytes(n_vocab=49152, n_ctx=512, chunks=2) == 50143236


def test_the_decode_path_is_one_token_a_batch() -> None:
    decode = PplRequest(pair=KVPair("f16", "f16"), n_ctx=512, chunks=2, n_threads=2, n_ubatch=1)
    argv = perplexity.argv_kld(Path("p"), Path("m"), Path("b"), decode, tokens=Path("t"))
    assert "-b 512 -ub 1" in " ".join(argv)
    assert "-b 512 -ub 512" in " ".join(perplexity.argv_base(Path("p"), Path("m"), Path("t"), Path("b"), REQUEST))


def test_finished_chunks_are_seen_in_both_modes() -> None:
    lines = captured("perplexity-kld").splitlines()
    assert [n for n in map(perplexity.chunk_of, lines) if n is not None] == [1, 2]
    assert perplexity.chunk_of("[1]1.0715,[2]1.0810,") == 2
