"""What the patches add to llama-perplexity: scoring by batch, fewer chunks than the base has, KLD of single tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from turbobench import kld_tokens, proc
from turbobench.build import Build
from turbobench.corpora import Corpus
from turbobench.kvtypes import KVPair
from turbobench.programs import perplexity
from turbobench.programs.perplexity import PplRequest

N_CTX, SCORED = 256, 127
F16 = PplRequest(pair=KVPair("f16", "f16"), n_ctx=N_CTX, chunks=2, n_ubatch=64)
TURBO = replace(F16, pair=KVPair("turbo4", "turbo3"))
Run = Callable[[list[str]], str]


@pytest.fixture(scope="module")
def run() -> Run:
    def run(argv: list[str]) -> str:
        lines: list[str] = []
        ended = proc.run(proc.Command(argv=argv, timeout_s=900), on_line=lines.append)
        output = "\n".join(lines)
        assert ended.ok, output[-2000:]
        return output

    return run


def in_batches(argv: list[str], size: int) -> list[str]:
    """Return the command with another logical batch; the micro-batches stay, so every product is the same."""
    at = argv.index("-b") + 1
    return [*argv[:at], str(size), *argv[at + 1 :]]


@pytest.fixture(scope="module")
def base(cpu_build: Build, model_f16: Path, text: Corpus, run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base") / "whole.logits"
    run(perplexity.argv_base(cpu_build.program("llama-perplexity"), model_f16, text.path, path, F16))
    return path


@pytest.fixture(scope="module")
def whole(cpu_build: Build, model_f16: Path, base: Path, run: Run) -> tuple[npt.NDArray[np.float32], str]:
    """Return the KLD of each token of both chunks, each a window in one batch, and what was printed."""
    tokens = base.with_name("whole.f32")
    program = cpu_build.program("llama-perplexity")
    output = run(perplexity.argv_kld(program, model_f16, base, TURBO, tokens=tokens))
    return np.fromfile(tokens, "<f4"), output


def test_scoring_each_batch_writes_the_base_of_the_whole_window(
    cpu_build: Build, model_f16: Path, text: Corpus, base: Path, run: Run
) -> None:
    by_batch = base.with_name("by-batch.logits")
    argv = perplexity.argv_base(cpu_build.program("llama-perplexity"), model_f16, text.path, by_batch, F16)
    run(in_batches(argv, 64))
    assert by_batch.read_bytes() == base.read_bytes()


# 100 does not divide the window: a batch begins in the unscored half and ends in the other.
@pytest.mark.parametrize("size", [64, 100])
def test_scoring_each_batch_gives_the_statistics_of_the_whole_window(
    cpu_build: Build, model_f16: Path, base: Path, whole: tuple[npt.NDArray[np.float32], str], run: Run, size: int
) -> None:
    tokens = base.with_name(f"{size}.f32")
    argv = perplexity.argv_kld(cpu_build.program("llama-perplexity"), model_f16, base, TURBO, tokens=tokens)
    stats = perplexity.parse_kld(run(in_batches(argv, size)))
    values, output = whole
    expected = perplexity.parse_kld(output)
    # 100 also makes other micro-batches, which round differently.
    assert np.fromfile(tokens, "<f4") == pytest.approx(values, abs=0 if size == 64 else 0.02)
    assert stats.kld_mean == pytest.approx(expected.kld_mean, rel=1e-5 if size == 64 else 0.05)
    assert stats.ppl_base == expected.ppl_base


def test_the_mean_of_the_tokens_is_the_printed_one(base: Path, whole: tuple[npt.NDArray[np.float32], str]) -> None:
    values, output = whole
    assert values.size == 2 * SCORED
    printed = perplexity.parse_kld(output).kld_mean
    found = kld_tokens.read(base.with_name("whole.f32"), n_ctx=N_CTX, chunks=2, printed_mean=printed)
    assert found.chunks[0].kld_mean == pytest.approx(values[:SCORED].mean())


def test_a_comparison_may_stop_after_fewer_chunks_than_the_base_has(
    cpu_build: Build, model_f16: Path, base: Path, whole: tuple[npt.NDArray[np.float32], str], run: Run
) -> None:
    tokens, program = base.with_name("one.f32"), cpu_build.program("llama-perplexity")
    output = run(perplexity.argv_kld(program, model_f16, base, replace(TURBO, chunks=1), tokens=tokens))
    assert np.array_equal(np.fromfile(tokens, "<f4"), whole[0][:SCORED])
    assert perplexity.parse_kld(output).kld_mean == pytest.approx(whole[0][:SCORED].mean(), abs=1e-6)
