"""Centred keys: exact where nothing is quantized, better where it is, and refused where they would be wrong."""

from __future__ import annotations

import json
import re
import urllib.error
from pathlib import Path

import numpy as np
import pytest

from tests.llama_cpp import tiny_models
from tests.llama_cpp.servers import running
from turbobench import proc
from turbobench.build import Build
from turbobench.calibrate import Calibration, calibrate
from turbobench.corpora import Corpus
from turbobench.kv_center import (
    Center,
    Provenance,
    Statistics,
    energy_left,
    make_center,
    read_statistics,
    write_center,
)
from turbobench.kvtypes import KVPair
from turbobench.model import read_facts
from turbobench.programs import kv_center as tool
from turbobench.programs import llama_bench, perplexity
from turbobench.programs.kv_center import CenterRequest
from turbobench.programs.perplexity import PplRequest, QualityStats

_N_CTX = 256
_NOISE = 2e-5  # KLD of f32 keys that are centred: the base file holds log-probs of 16 bits
_NOBODY = Provenance(model_name="m", model_sha256="x", text="t", text_sha256="x")


def _run(argv: list[str], **env: str) -> tuple[int, str]:
    lines: list[str] = []
    ended = proc.run(proc.Command(argv=argv, timeout_s=900, env=env), on_line=lines.append)
    return ended.returncode, "\n".join(lines)


class _Quality:
    """KLD against f32 keys and values on one model and text, `n_seq` sequences at once."""

    def __init__(self, build: Build, model: Path, text: Path, base: Path, n_seq: int = 1) -> None:
        self.program, self.model, self.base, self.n_seq = build.program("llama-perplexity"), model, base, n_seq
        code, output = _run(self._argv(perplexity.argv_base(self.program, model, text, base, self._request("f32"))))
        assert code == 0, output[-2000:]

    def of(self, pair: str, center: Path | None = None, *extra: str) -> QualityStats:
        code, output = self.run(pair, center, *extra)
        assert code == 0, output[-2000:]
        return perplexity.parse_kld(output)

    def run(self, pair: str, center: Path | None, *extra: str) -> tuple[int, str]:
        tokens = self.base.with_suffix(".tokens")
        argv = self._argv(perplexity.argv_kld(self.program, self.model, self.base, self._request(pair), tokens=tokens))
        return _run([*argv, *(("--kv-center", str(center)) if center else ()), *extra])

    def _request(self, pair: str) -> PplRequest:
        return PplRequest(pair=KVPair.parse(pair), n_ctx=_N_CTX, chunks=2 * self.n_seq)

    def _argv(self, argv: list[str]) -> list[str]:
        return [*argv, "-b", str(_N_CTX * self.n_seq)]


def _statistics(build: Build, model: Path, text: Path, out: Path, n_ctx: int) -> Statistics:
    request = CenterRequest(n_ctx=n_ctx, chunks=1)
    code, output = _run(tool.argv(build.program("llama-kv-center"), model, text, out, request))
    assert code == 0, output[-2000:]
    return read_statistics(out)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("center")


@pytest.fixture(scope="module")
def short_text(text: Corpus, folder: Path) -> Path:
    """A few thousand bytes: each is a token of the tiny model, and its tokenizer slow."""
    path = folder / "short.txt"
    path.write_bytes(text.path.read_bytes()[:8192])
    return path


@pytest.fixture(scope="module")
def center(cpu_build: Build, model_f16: Path, text: Corpus, folder: Path) -> Path:
    wanted = Calibration(
        model=read_facts(model_f16), text=text, n_ctx=512, n_tokens=512, out=folder / "model.kv-center.gguf"
    )
    return calibrate(wanted, cpu_build)


@pytest.fixture(scope="module")
def stats(cpu_build: Build, model_f16: Path, text: Corpus, folder: Path) -> Statistics:
    return _statistics(cpu_build, model_f16, text.path, folder / "stats", 512)


@pytest.fixture(scope="module")
def quality(cpu_build: Build, model_f16: Path, text: Corpus, folder: Path) -> _Quality:
    return _Quality(cpu_build, model_f16, text.path, folder / "base")


@pytest.fixture(scope="module")
def gemma(folder: Path) -> Path:
    return tiny_models.gemma(folder / "gemma3.gguf", version=3)


@pytest.fixture(scope="module")
def gemma_center(cpu_build: Build, gemma: Path, short_text: Path, folder: Path) -> Path:
    stats = _statistics(cpu_build, gemma, short_text, folder / "gemma.stats", _N_CTX)
    path = folder / "gemma.kv-center.gguf"
    write_center(make_center(stats), stats, _NOBODY, path)
    return path


def test_half_of_the_energy_of_keys_is_in_their_mean(stats: Statistics) -> None:
    assert sorted(stats.layers) == list(range(30))
    assert stats.layers[0].mean.shape[1:] == (3, 64)
    assert energy_left(stats, make_center(stats), 512) < 0.5


def test_centred_keys_that_are_not_quantized_change_nothing(quality: _Quality, center: Path) -> None:
    assert quality.of("f32", center).kld_mean < _NOISE
    assert quality.of("f16", center).kld_mean < 10 * _NOISE


def test_centred_keys_are_quantized_better(quality: _Quality, center: Path) -> None:
    for pair in ("turbo4", "turbo3/turbo4", "q4_0"):
        assert quality.of(pair, center).kld_mean < 0.8 * quality.of(pair).kld_mean, pair


def test_the_decode_path_is_centred_too(quality: _Quality, center: Path) -> None:
    prefill, decode = quality.of("turbo4", center), quality.of("turbo4", center, "-ub", "1")
    assert decode.kld_mean == pytest.approx(prefill.kld_mean, abs=prefill.kld_err + decode.kld_err)


def test_several_sequences_at_once_change_nothing(
    cpu_build: Build, model_f16: Path, text: Corpus, folder: Path, center: Path
) -> None:
    several = _Quality(cpu_build, model_f16, text.path, folder / "several", n_seq=4)
    for cache in ((), ("--kv-unified",)):
        assert several.of("f32", center, *cache).kld_mean < _NOISE


def test_sliding_windows_change_nothing(
    cpu_build: Build, gemma: Path, short_text: Path, folder: Path, gemma_center: Path
) -> None:
    quality = _Quality(cpu_build, gemma, short_text, folder / "gemma.base")
    assert _kld_of_first_chunk(quality.run("f32", gemma_center)[1]) < _NOISE
    assert _kld_of_first_chunk(quality.run("turbo4", gemma_center)[1]) > _NOISE


def _kld_of_first_chunk(output: str) -> float:
    """Return the running mean: of a run that is over at once, llama-perplexity's log at times loses the last lines."""
    found = re.search(r"^\s*1(?:\s+\S+ ±\s+\S+){2}\s+(\S+) ±", output, re.MULTILINE)
    assert found is not None, output[-2000:]
    return float(found[1])


@pytest.fixture(scope="module")
def planted(stats: Statistics, folder: Path) -> Path:
    """A center a hundred times as far off in every second head: the same attention, but for rounding."""
    good = make_center(stats)
    far = {il: mean * np.where(np.arange(3) % 2, 100.0, 1.0)[:, None] for il, mean in good.mean.items()}
    path = folder / "planted.kv-center.gguf"
    write_center(Center(mean=far, first=good.first), stats, _NOBODY, path)
    return path


def test_a_wrong_center_is_seen_in_the_quality(quality: _Quality, center: Path, planted: Path) -> None:
    assert quality.of("q8_0", planted).kld_mean > 10 * quality.of("q8_0", center).kld_mean


def test_a_file_of_another_model_is_refused(quality: _Quality, gemma_center: Path) -> None:
    code, output = quality.run("turbo4", gemma_center)
    assert "is for another model or context: its kv_center.architecture is 'gemma3', here it is 'llama'" in output
    assert "turbobench calibrate -m MODEL" in output
    assert "Mean    KLD" not in output
    assert code != 0


def test_other_weights_of_the_same_shape_are_refused(
    cpu_build: Build, gemma_center: Path, short_text: Path, tmp_path: Path
) -> None:
    other = tiny_models.gemma(tmp_path / "other.gguf", version=3, seed=1)
    _, output = _perplexity(cpu_build, other, short_text, gemma_center)
    assert "its kv_center.weights is '" in output


def test_another_rope_is_refused(quality: _Quality, center: Path) -> None:
    _, output = quality.run("turbo4", center, "--rope-freq-base", "50000")
    assert "its kv_center.rope is 'type 0, 64 values, base 100000, scale 1', here it is" in output


def test_another_shape_is_refused(
    cpu_build: Build, gemma: Path, gemma_center: Path, short_text: Path, tmp_path: Path
) -> None:
    stats = _statistics(cpu_build, gemma, short_text, tmp_path / "stats", _N_CTX)
    good = make_center(stats)
    short = Center(
        mean={il: mean[:, :32] for il, mean in good.mean.items()}, first={il: f[:, :32] for il, f in good.first.items()}
    )
    write_center(short, stats, _NOBODY, tmp_path / "c.gguf")
    _, output = _perplexity(cpu_build, gemma, short_text, tmp_path / "c.gguf")
    assert "has no vectors of 64 x 1 values for layer" in output


@pytest.mark.parametrize("kind", ["model", "text", "nothing"])
def test_a_file_that_is_no_center_is_refused(quality: _Quality, model_f16: Path, text: Corpus, kind: str) -> None:
    path = {"model": model_f16, "text": text.path, "nothing": Path("/nonexistent")}[kind]
    _, output = quality.run("turbo4", path)
    assert ("is no key center" if kind == "model" else "cannot be read as GGUF") in output


def test_capped_logits_are_refused(cpu_build: Build, short_text: Path, gemma_center: Path, tmp_path: Path) -> None:
    capped = tiny_models.gemma(tmp_path / "gemma2.gguf", version=2)
    _, output = _perplexity(cpu_build, capped, short_text, gemma_center)
    assert "this model's keys cannot be centred: it caps attention logits" in output


def test_latent_attention_is_refused(cpu_build: Build, gemma_center: Path, tmp_path: Path) -> None:
    model = tiny_models.deepseek2(tmp_path / "m.gguf")
    code, output = _bench(cpu_build, model, "q8_0", gemma_center)
    assert code != 0
    assert "this model's keys cannot be centred" in output


def test_a_context_far_beyond_the_measured_positions_is_warned_of(
    cpu_build: Build, gemma: Path, short_text: Path, gemma_center: Path
) -> None:
    _, covered = _perplexity(cpu_build, gemma, short_text, gemma_center, n_ctx=256)
    _, beyond = _perplexity(cpu_build, gemma, short_text, gemma_center, n_ctx=1024)
    assert "was measured at positions up to" not in covered
    assert "was measured at positions up to 256, the context has 1024" in beyond
    assert "--n-ctx 1024" in beyond


def test_llama_bench_reports_the_center(cpu_build: Build, gemma: Path, gemma_center: Path) -> None:
    code, output = _bench(cpu_build, gemma, "turbo4", gemma_center)
    assert code == 0, output[-2000:]
    rows = [json.loads(line) for line in output.splitlines() if line.startswith('{"build_commit')]
    assert [row["kv_center"] for row in rows] == [str(gemma_center)] * 2
    assert f"is centred by {gemma_center}" in output


def _bench(build: Build, model: Path, pair: str, center: Path) -> tuple[int, str]:
    request = llama_bench.BenchRequest(pair=KVPair.parse(pair), n_depth=0, n_prompt=8, n_gen=2, repetitions=1)
    argv = llama_bench.argv(build.program("llama-bench"), model, request)
    return _run([*argv, "--kv-center", str(center)])


def _perplexity(build: Build, model: Path, text: Path, center: Path, n_ctx: int = 256) -> tuple[int, str]:
    request = PplRequest(pair=KVPair("turbo4", "turbo4"), n_ctx=n_ctx, chunks=1)
    argv = perplexity.argv_plain(build.program("llama-perplexity"), model, text, request)
    return _run([*argv, "--kv-center", str(center)])


def test_a_slot_goes_on_only_with_the_center_it_was_saved_with(
    cpu_build: Build, model: Path, center: Path, tmp_path: Path
) -> None:
    """Keys less one vector beside keys less another would be attended to wrongly, without an error."""
    options = ("-c", "512", "-ctk", "q8_0", "-ctv", "q8_0", "-fa", "on", "--slot-save-path", str(tmp_path))
    with running(
        cpu_build, model, tmp_path / "a.log", *options, "--kv-center", str(center), "--context-shift"
    ) as server:
        assert "KV cache shifting is not supported for this context" in server.log.read_text()
        first = server.complete(0, "The lighthouse", 8)
        saved = server.post("/slots/0?action=save", filename="slot.bin")
        server.post("/slots/0?action=erase")
        assert server.post("/slots/0?action=restore", filename="slot.bin")["n_restored"] == saved["n_saved"] > 0
        assert server.complete(0, "The lighthouse", 8)["content"] == first["content"]
    with running(cpu_build, model, tmp_path / "b.log", *options) as server:
        with pytest.raises(urllib.error.HTTPError):
            server.post("/slots/0?action=restore", filename="slot.bin")
        assert "mismatched key type or key center" in server.log.read_text()
