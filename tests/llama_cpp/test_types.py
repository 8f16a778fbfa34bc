"""The turbo types inside the real ggml: bytes, ops, decoding, quality."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from turbobench import proc
from turbobench.build import Build
from turbobench.codec.golden import extreme_blocks, random_blocks
from turbobench.codec.types import TURBO_NAMES, TurboName, dequantize, quantize
from turbobench.corpora import Corpus
from turbobench.kvtypes import KVPair
from turbobench.native import NativeCodec, gaussian_nmse
from turbobench.programs import llama_bench, perplexity
from turbobench.programs.perplexity import PplRequest, QualityStats


def _run(argv: list[str], *, env: dict[str, str] | None = None) -> tuple[proc.Completed, str]:
    lines: list[str] = []
    ended = proc.run(proc.Command(argv=argv, timeout_s=900, env=env), on_line=lines.append)
    return ended, "\n".join(lines)


@pytest.mark.parametrize("name", TURBO_NAMES)
def test_what_the_cache_stores_is_what_numpy_makes(cpu_build: Build, name: TurboName) -> None:
    x = np.concatenate([random_blocks(500 if name == "turbo3t" else 2000, seed=7), extreme_blocks()])
    native = NativeCodec(cpu_build.bin_dir)
    ours = quantize(name, x)
    assert native.quantize(name, x.ravel(), reference=True) == ours.tobytes()
    assert native.quantize(name, x.ravel()) == ours.tobytes()
    np.testing.assert_array_equal(native.dequantize(name, ours.tobytes()), dequantize(name, ours).ravel())


@pytest.mark.parametrize(("name", "bound"), [("turbo4", 0.0066), ("turbo3", 0.0273), ("turbo3t", 0.0160)])
def test_the_error_on_gaussian_blocks_is_within_the_promise(cpu_build: Build, name: str, bound: float) -> None:
    nmse, _ = gaussian_nmse(NativeCodec(cpu_build.bin_dir), name, blocks=20_000, seed=1)
    assert 0 < nmse <= bound


def test_ggml_accepts_the_quantizers_and_dot_products(cpu_build: Build) -> None:
    ended, output = _run([str(cpu_build.program("test-quantize-fns")), "-v"])
    assert ended.ok, output[-2000:]
    for name in TURBO_NAMES:
        assert f"Testing {name}" in output


def test_llama_bench_measures_a_mixed_pair_at_depth(cpu_build: Build, model: Path) -> None:
    request = llama_bench.BenchRequest(
        pair=KVPair("turbo4", "turbo3"), n_depth=256, n_prompt=64, n_gen=4, repetitions=1
    )
    ended, _ = _run(llama_bench.argv(cpu_build.program("llama-bench"), model, request))
    assert ended.ok
    rows = llama_bench.parse(ended.stdout)
    llama_bench.check_asked(rows, request)
    assert [row.test for row in rows] == ["pp64", "tg4"]


class _Kld:
    """Compares cache types with f16 on one text; `n_ubatch=1` goes through the decode kernel."""

    def __init__(self, build: Build, model: Path, base: Path, n_ctx: int) -> None:
        self.program, self.model, self.base, self.n_ctx = build.program("llama-perplexity"), model, base, n_ctx

    def request(self, pair: KVPair, n_ubatch: int) -> PplRequest:
        return PplRequest(pair=pair, n_ctx=self.n_ctx, chunks=1, n_ubatch=n_ubatch)

    def make_base(self, text: Corpus) -> None:
        request = self.request(KVPair("f16", "f16"), 512)
        ended, output = _run(perplexity.argv_base(self.program, self.model, text.path, self.base, request))
        assert ended.ok, output[-2000:]

    def of(self, name: str, *, n_ubatch: int = 512) -> QualityStats:
        request = self.request(KVPair.parse(name), n_ubatch)
        tokens = self.base.with_suffix(".tokens")
        ended, output = _run(perplexity.argv_kld(self.program, self.model, self.base, request, tokens=tokens))
        assert ended.ok, output[-2000:]
        return perplexity.parse_kld(output)


@pytest.fixture(scope="module")
def kld(cpu_build: Build, model_f16: Path, text: Corpus, tmp_path_factory: pytest.TempPathFactory) -> _Kld:
    measured = _Kld(cpu_build, model_f16, tmp_path_factory.mktemp("kld") / "base.logits", 1024)
    measured.make_base(text)
    return measured


@pytest.fixture(scope="module")
def short_kld(cpu_build: Build, model_f16: Path, text: Corpus, tmp_path_factory: pytest.TempPathFactory) -> _Kld:
    measured = _Kld(cpu_build, model_f16, tmp_path_factory.mktemp("short") / "base.logits", 256)
    measured.make_base(text)
    return measured


def test_turbo4_is_closer_to_f16_than_q4_0_with_fewer_bits(kld: _Kld) -> None:
    assert 0 < kld.of("turbo4").kld_mean < kld.of("q4_0").kld_mean


def test_the_trellis_is_closer_to_f16_than_turbo3_in_the_same_bytes(kld: _Kld) -> None:
    assert 0 < kld.of("turbo3t").kld_mean < 0.85 * kld.of("turbo3").kld_mean


def test_q8_0_is_nearly_exact(kld: _Kld) -> None:
    assert 0 < kld.of("q8_0").kld_mean <= 0.0005


@pytest.mark.parametrize("name", ["turbo4", "q8_0/turbo3", "turbo3/q4_1", "f16/turbo4", "turbo3t"])
def test_the_decode_kernel_agrees_with_prefill(short_kld: _Kld, name: str) -> None:
    """Perplexity at the default batch never runs the decode kernel, so a broken one would go unseen."""
    prefill, decode = short_kld.of(name), short_kld.of(name, n_ubatch=1)
    assert decode.kld_mean == pytest.approx(prefill.kld_mean, abs=prefill.kld_err + decode.kld_err)
