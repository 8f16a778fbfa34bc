"""llama-bench: argv for one K/V pair at one depth, and the rows that it prints.

One process serves pp and tg of a pair at a depth: llama-bench prefills the depth once, keeps the state in host memory
and restores it for the next test at the same depth (`ctx_state` in tools/llama-bench/llama-bench.cpp). One crash
therefore costs one pair at one depth. `-v` makes it say which cache types, rotation and buffers it really used; nothing
is logged while a sample is timed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from turbobench.errors import MeasurementError
from turbobench.kvtypes import KVPair


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchRequest:
    """What one llama-bench process measures. `n_prompt` or `n_gen` 0 is no such test; `n_threads` None its default.

    `n_gpu_layers` is how many layers to put on the GPU, None for a build without one; `kv_center` the means of K that
    a centred pair needs, `kv_types` the file of one with a policy. The pair's `env` goes with the command line.
    """

    pair: KVPair
    n_depth: int
    n_prompt: int
    n_gen: int
    repetitions: int
    n_threads: int | None = None
    n_ubatch: int = 512
    n_gpu_layers: int | None = None
    kv_center: Path | None = None
    kv_types: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchRow:
    """One test as llama-bench reports it; `samples_ns` holds the wall time of each repetition."""

    test: str
    pair: KVPair
    n_depth: int
    n_tokens: int
    n_threads: int
    samples_ns: tuple[int, ...]
    cpu_info: str
    backends: str

    @property
    def samples_tokens_per_s(self) -> tuple[float, ...]:
        return tuple(1e9 * self.n_tokens / ns for ns in self.samples_ns)


def argv(program: Path, model: Path, request: BenchRequest) -> list[str]:
    """Return the command line that measures `request`."""
    return [
        str(program),
        *("-m", str(model)),
        *("-o", "jsonl"),
        *("-fa", "1"),
        *request.pair.argv(request.kv_center, request.kv_types),
        *(() if request.n_threads is None else ("-t", str(request.n_threads))),
        *(() if request.n_gpu_layers is None else ("-ngl", str(request.n_gpu_layers))),
        *("-ub", str(request.n_ubatch)),
        *("-p", str(request.n_prompt), "-n", str(request.n_gen)),
        *("-d", str(request.n_depth)),
        *("-r", str(request.repetitions)),
        "-v",
    ]


def parse(stdout: str) -> list[BenchRow]:
    """Read every row of `-o jsonl`; raises MeasurementError for no rows, a torn row, or a sample that is no time."""
    lines = [line for line in stdout.splitlines() if line.startswith("{")]
    if not lines:
        raise MeasurementError("llama-bench printed no rows", "its log says why")
    return [_row(line) for line in lines]


def check_asked(rows: Sequence[BenchRow], request: BenchRequest) -> None:
    """Raise MeasurementError unless `rows` hold exactly the tests asked for, with the types and the depth asked for."""
    wanted = {f"pp{request.n_prompt}"} if request.n_prompt else set()
    wanted |= {f"tg{request.n_gen}"} if request.n_gen else set()
    missing = wanted - {row.test for row in rows}
    if missing:
        raise MeasurementError(f"llama-bench printed no row for {', '.join(sorted(missing))}", "its log says why")
    # Of a policy it says only -ctk and -ctv, which are left out; the log has the types of the layers.
    types = request.pair.types if request.pair.policy is None else ("f16", "f16")
    for row in rows:
        if (row.pair.types, row.n_depth) != (types, request.n_depth):
            raise MeasurementError(
                f"llama-bench was asked for {request.pair} at depth {request.n_depth} "
                f"and reports {row.pair} at depth {row.n_depth}",
                "the build does not fit this version of turbobench; run 'turbobench build'",
            )


def _row(line: str) -> BenchRow:
    try:
        raw: dict[str, Any] = json.loads(line)
        n_prompt, n_gen = int(raw["n_prompt"]), int(raw["n_gen"])
        samples_ns = tuple(int(ns) for ns in raw["samples_ns"])
        row = BenchRow(
            test=f"tg{n_gen}" if n_gen else f"pp{n_prompt}",
            pair=KVPair(raw["type_k"], raw["type_v"]),
            n_depth=int(raw["n_depth"]),
            n_tokens=n_prompt + n_gen,
            n_threads=int(raw["n_threads"]),
            samples_ns=samples_ns,
            cpu_info=str(raw["cpu_info"]),
            backends=str(raw["backends"]),
        )
    except (ValueError, KeyError, TypeError, OverflowError) as failure:
        raise MeasurementError(
            f"llama-bench printed a row that cannot be read: {failure!r}", "its log holds the row"
        ) from None
    if not samples_ns or any(ns <= 0 or not math.isfinite(ns) for ns in samples_ns):
        raise MeasurementError(f"llama-bench reports {row.test} without a sample that is a time: {samples_ns}")
    return row
