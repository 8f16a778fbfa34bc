"""The post-build smoke test: a build is good only after it decoded tokens of a real model with every cache type.

A compiler can produce code that this machine's CPU advertises and cannot run (AMX on some virtual machines dies by
SIGILL at its first tile instruction), so linking proves nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path

from turbobench import proc
from turbobench.errors import BuildError, TurbobenchError
from turbobench.kvtypes import KV_TYPES, KVPair
from turbobench.models import resolve_model
from turbobench.paths import cache_dir
from turbobench.programs import llama_bench, perplexity

SMOKE_TYPES = tuple(name for name in KV_TYPES if name not in {"f32", "bf16"})
_TIMEOUT_S = 300.0
_TEXT = (
    "The harbour was built of stone in the year 1204, and the market stood where the river met the road to the coast. "
)


def smoke(bin_dir: Path) -> None:
    """Decode with every cache type and evaluate a short text, on the default model; about 10 s.

    Raises CommandError for a program that dies (`completed.signal_name` says by what), BuildError for wrong output.
    """
    check_types(bin_dir, resolve_model(None), SMOKE_TYPES)


def check_types(bin_dir: Path, model: Path, types: tuple[str, ...]) -> None:
    """Run the smoke test with `types` only; see `smoke`."""
    for name in types:
        _decode(bin_dir, model, KVPair(name, name))
    _evaluate(bin_dir, model, types[-1])


def _decode(bin_dir: Path, model: Path, pair: KVPair) -> None:
    """Prefill 64 tokens in one batch, which reaches the tiled attention path, and decode 4."""
    request = llama_bench.BenchRequest(pair=pair, n_depth=64, n_prompt=8, n_gen=4, repetitions=1)
    argv = llama_bench.argv(_program(bin_dir, "llama-bench"), model, request)
    completed = proc.check(
        proc.Command(argv=argv, log=cache_dir() / "logs" / "smoke.log", timeout_s=_TIMEOUT_S),
        hint=f"the build cannot run cache type {pair.type_k} on this machine",
    )
    try:
        llama_bench.check_asked(llama_bench.parse(completed.stdout), request)
    except TurbobenchError as failure:
        raise BuildError(f"smoke test with {pair}: {failure.what}", failure.hint) from None


def _evaluate(bin_dir: Path, model: Path, name: str) -> None:
    """Evaluate a few hundred tokens: decoding can run on without an error while every logit is NaN."""
    lines: list[str] = []
    request = perplexity.PplRequest(pair=KVPair(name, name), n_ctx=128, chunks=1)
    text = cache_dir() / "smoke.txt"
    text.parent.mkdir(parents=True, exist_ok=True)
    text.write_text(_TEXT * 20, encoding="utf-8")
    argv = perplexity.argv_plain(_program(bin_dir, "llama-perplexity"), model, text, request)
    proc.check(
        proc.Command(argv=argv, log=cache_dir() / "logs" / "smoke.log", timeout_s=_TIMEOUT_S), on_line=lines.append
    )
    try:
        perplexity.parse_plain("\n".join(lines))
    except TurbobenchError as failure:
        raise BuildError(f"smoke test with {request.pair}: {failure.what}", failure.hint) from None


def _program(bin_dir: Path, name: str) -> Path:
    return bin_dir / (f"{name}.exe" if sys.platform == "win32" else name)
