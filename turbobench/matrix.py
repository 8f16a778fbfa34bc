"""What a sweep consists of: cells, the processes that measure them, and their order. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

from turbobench.config import CodecSpec, QualitySpec, SpeedSpec, SweepSpec
from turbobench.kvtypes import KVPair

F16 = KVPair("f16", "f16")
# Nearly lossless: what KLD it shows with quantized weights is the CPU's activation rounding, not the cache type.
NEARLY_F16 = KVPair("f16", "q8_0")
_DECODE_UBATCH = 2  # up to this many queries at once, backends take the decode kernels


class HasSha256(Protocol):
    """All that a plan needs to know of a model; `model.ModelFacts` fits."""

    @property
    def sha256(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One thing to measure. Fields that do not apply are None; `params` holds JSON scalars.

    kind     test   pair    n_depth  n_ctx, chunks  path         params
    speed    pp512  any     tokens   -              prefill      threads, repetitions
    speed    tg16   any     tokens   -              decode       threads, repetitions
    quality  ppl    f16     -        yes            by n_ubatch  threads, n_ubatch, weights; writes the base log-probs
    quality  kld    others  -        yes            by n_ubatch  the same; PPL and KLD against that base
    floor    kld    f16     -        yes            by n_ubatch  the same; f16 against its own base, which holds 16-bit
                                                                 log-probs. With weights as-is also f16/q8_0.
    nmse     nmse   t/t     -        -              -            blocks, seed; model and corpus sha256 are None

    `model_sha256` is that of the file the user named also where the weights are expanded (`params["weights"]`).
    `params["threads"]` is missing where the program's default is used.
    """

    kind: Literal["speed", "quality", "floor", "nmse"]
    pair: KVPair
    test: str
    build_id: str
    device: str
    model_sha256: str | None = None
    corpus_sha256: str | None = None
    n_depth: int | None = None
    n_ctx: int | None = None
    chunks: int | None = None
    path: Literal["prefill", "decode"] | None = None
    params: Mapping[str, int | str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """16 hex digits that name what is measured: a hash of all fields, and of nothing else."""
        text = json.dumps(self.fields(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def fields(self) -> dict[str, Any]:
        """Return the fields as JSON values, the pair as `type_k` and `type_v`."""
        fields = asdict(self)
        return {**fields.pop("pair"), **fields, "params": dict(self.params)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One process and the cells it measures. A (cell id, round) that is finished is never run again."""

    cells: tuple[Cell, ...]
    round: int

    @property
    def makes_base(self) -> bool:
        """Whether this process writes the f16 log-probs that the KLD jobs after it need."""
        return self.cells[0].kind == "quality" and self.cells[0].test == "ppl"


def plan(
    spec: SweepSpec,
    *,
    build_id: str,
    model: HasSha256,
    corpus_sha256: str | None,
    device: str,
    threads: int | None = None,
) -> list[Job]:
    """Return the jobs of a sweep in the order to run them: codec, then quality, then speed (the machine is warm then).

    Speed rounds interleave the pairs and every second round takes them in reverse, so that a linear drift cancels.
    `threads` applies where the spec names none.
    """
    jobs: list[Job] = []
    if spec.codec is not None:
        jobs += _codec_jobs(spec.codec, build_id=build_id, device=device)
    common = {"build_id": build_id, "device": device, "model_sha256": model.sha256}
    if spec.quality is not None:
        at = {**common, "corpus_sha256": corpus_sha256}
        jobs += _quality_jobs(spec.quality, spec.quality_pairs, at, _threads(spec.quality.threads, threads))
    if spec.speed is not None:
        jobs += _speed_jobs(spec.speed, spec.speed_pairs, common, _threads(spec.speed.threads, threads))
    return jobs


def _threads(asked: int | None, default: int | None) -> dict[str, int | str]:
    chosen = default if asked is None else asked
    return {} if chosen is None else {"threads": chosen}


def _codec_jobs(spec: CodecSpec, *, build_id: str, device: str) -> Iterator[Job]:
    for name in spec.types:
        cell = Cell(
            kind="nmse",
            test="nmse",
            pair=KVPair(name, name),
            build_id=build_id,
            device=device,
            params={"blocks": spec.blocks, "seed": spec.seed},
        )
        yield Job(cells=(cell,), round=0)


def _quality_jobs(
    spec: QualitySpec, pairs: tuple[KVPair, ...], common: Mapping[str, Any], threads: Mapping[str, int | str]
) -> Iterator[Job]:
    def job(kind: Literal["quality", "floor"], test: str, pair: KVPair) -> Job:
        cell = Cell(
            kind=kind,
            test=test,
            pair=pair,
            n_ctx=spec.n_ctx,
            chunks=spec.chunks,
            path="decode" if spec.n_ubatch <= _DECODE_UBATCH else "prefill",
            params={**threads, "n_ubatch": spec.n_ubatch, "weights": spec.weights},
            **common,
        )
        return Job(cells=(cell,), round=0)

    yield job("quality", "ppl", F16)
    if spec.floor:
        yield job("floor", "kld", F16)
        if spec.weights == "as-is":
            yield job("floor", "kld", NEARLY_F16)
    for pair in pairs:
        if pair != F16:
            yield job("quality", "kld", pair)


def _speed_jobs(
    spec: SpeedSpec, pairs: tuple[KVPair, ...], common: Mapping[str, Any], threads: Mapping[str, int | str]
) -> Iterator[Job]:
    tests: list[tuple[str, Literal["prefill", "decode"]]] = []
    if spec.pp:
        tests.append((f"pp{spec.pp}", "prefill"))
    if spec.tg:
        tests.append((f"tg{spec.tg}", "decode"))

    def cell(pair: KVPair, depth: int, test: str, path: Literal["prefill", "decode"]) -> Cell:
        params = {**threads, "repetitions": spec.repetitions}
        return Cell(kind="speed", test=test, pair=pair, n_depth=depth, path=path, params=params, **common)

    for number in range(max(map(spec.rounds_of, spec.depths))):
        for depth in (depth for depth in spec.depths if number < spec.rounds_of(depth)):
            for pair in pairs if number % 2 == 0 else reversed(pairs):
                yield Job(cells=tuple(cell(pair, depth, *test) for test in tests), round=number)
