"""The post-build smoke test: a build is good only after it decoded tokens of a real model with every cache type.

A compiler can produce code that this machine's CPU advertises and cannot run (AMX on some virtual machines dies by
SIGILL at its first tile instruction), so linking proves nothing.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from turbobench import backends, console, placement, proc
from turbobench.errors import BuildError, FetchError, TurbobenchError
from turbobench.kvtypes import KV_TYPES, KVPair
from turbobench.model import read_facts
from turbobench.models import resolve_model
from turbobench.paths import cache_dir
from turbobench.placement import Verdict
from turbobench.programs import llama_bench, perplexity
from turbobench.synth import SMOKE_SHAPE, write_model

SMOKE_TYPES = tuple(name for name in KV_TYPES if name not in {"f32", "bf16"})
_TIMEOUT_S = 300.0
_TEXT = (
    "The harbour was built of stone in the year 1204, and the market stood where the river met the road to the coast. "
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Subject:
    bin_dir: Path
    model: Path
    backend: str

    @property
    def n_gpu_layers(self) -> int | None:
        return backends.get(self.backend).N_GPU_LAYERS


def smoke(bin_dir: Path, *, backend: str = "cpu") -> None:
    """Decode with every cache type of the backend and evaluate a short text, on the default model; about 10 s.

    Where that model cannot be had, a tiny one of random weights takes its place. Raises CommandError for a program that
    dies (`completed.signal_name` says by what), BuildError for wrong output, and for a GPU whose attention ran on the
    CPU with f16 or a turbo type; with other types that is a warning.
    """
    subject = _Subject(bin_dir=bin_dir, model=_model(), backend=backend)
    names = [name for name in SMOKE_TYPES if KV_TYPES[name].runs_on(backend)]
    for name in names:
        _check_placement(name, _decode(subject, KVPair(name, name)), backend)
    _evaluate(subject, names[-1])


def _model() -> Path:
    try:
        return resolve_model(None)
    except FetchError as failure:
        console.warn(f"{failure.what}: the smoke test runs on random weights")
    path = cache_dir() / "models" / "smoke-random.gguf"
    write_model("smoke", SMOKE_SHAPE, path)
    return path


def _check_placement(name: str, verdict: Verdict, backend: str) -> None:
    if verdict.placement != "fallback":
        return
    what = f"smoke test on {backend} with cache type {name}: {verdict.reason}"
    if name == "f16" or KV_TYPES[name].is_turbo:
        raise BuildError(what, "its log, smoke.log in the cache's logs, shows where llama.cpp put each layer")
    console.warn(what)


def _decode(subject: _Subject, pair: KVPair) -> Verdict:
    """Prefill 64 tokens in one batch, which reaches the tiled attention path, and decode 4; returns what ran where."""
    request = llama_bench.BenchRequest(
        pair=pair, n_depth=64, n_prompt=8, n_gen=4, repetitions=1, n_gpu_layers=subject.n_gpu_layers
    )
    argv = llama_bench.argv(_program(subject.bin_dir, "llama-bench"), subject.model, request)
    lines: list[str] = []
    completed = proc.check(
        proc.Command(argv=argv, log=cache_dir() / "logs" / "smoke.log", timeout_s=_TIMEOUT_S),
        on_line=lines.append,
        hint=f"the build cannot run cache type {pair.type_k} on this machine",
    )
    try:
        llama_bench.check_asked(llama_bench.parse(completed.stdout), request)
    except TurbobenchError as failure:
        raise BuildError(f"smoke test with {pair}: {failure.what}", failure.hint) from None
    facts = read_facts(subject.model)
    observed = placement.observe(lines)
    return placement.judge(
        observed[-1] if observed else None,
        pair,
        backend=subject.backend,
        head_dims=(facts.head_dim_k, facts.head_dim_v),
    )


def _evaluate(subject: _Subject, name: str) -> None:
    """Evaluate a few hundred tokens: decoding can run on without an error while every logit is NaN."""
    lines: list[str] = []
    request = perplexity.PplRequest(pair=KVPair(name, name), n_ctx=128, chunks=1, n_gpu_layers=subject.n_gpu_layers)
    text = cache_dir() / "smoke.txt"
    text.parent.mkdir(parents=True, exist_ok=True)
    text.write_text(_TEXT * 20, encoding="utf-8")
    argv = perplexity.argv_plain(_program(subject.bin_dir, "llama-perplexity"), subject.model, text, request)
    proc.check(
        proc.Command(argv=argv, log=cache_dir() / "logs" / "smoke.log", timeout_s=_TIMEOUT_S), on_line=lines.append
    )
    try:
        perplexity.parse_plain("\n".join(lines))
    except TurbobenchError as failure:
        raise BuildError(f"smoke test with {request.pair}: {failure.what}", failure.hint) from None


def _program(bin_dir: Path, name: str) -> Path:
    return bin_dir / (f"{name}.exe" if sys.platform == "win32" else name)
