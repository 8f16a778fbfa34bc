"""What a sweep consists of: cells, the processes that measure them, and their order. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

from turbobench.config import CodecSpec, NiahSpec, QualityPart, QualitySpec, SpeedSpec, SweepSpec
from turbobench.kvtypes import KVPair

F16 = KVPair("f16", "f16")
# Nearly lossless: what KLD it shows with quantized weights is the CPU's activation rounding, not the cache type.
NEARLY_F16 = KVPair("f16", "q8_0")
F32 = KVPair("f32", "f32")
PREFILL_UBATCH = 512
_OTHER_UBATCH = 32  # few enough queries at once for another attention kernel, and for other shapes of every product
_DECODE_UBATCH = 1


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
    quality  ppl    f16     -        yes            prefill      threads, n_ubatch, weights; writes the base log-probs
    quality  kld    others  -        yes            both         the same; PPL and KLD against that base
    floor    kld    f16,    -        yes            both         the same; what harmless changes show against that base:
                    f32                                          other batches, f32 K/V, the decode kernels; flash_attn
                                                                 off for f32. With weights as-is also f16/q8_0.
    niah     niah   any     -        n_ctx          -            threads, weights, keys, positions, seeds
    nmse     nmse   t/t     -        -              -            blocks, seed; model and corpus sha256 are None

    `model_sha256` is that of the file the user named also where the weights are expanded (`params["weights"]`).
    `params["threads"]` is missing where the program's default is used; `params["kv_center"]` is the sha256 of the file
    of a centred pair.
    """

    kind: Literal["speed", "quality", "floor", "niah", "nmse"]
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
        """Return the fields as JSON values, the pair as `KVPair.fields` gives them."""
        fields = asdict(self) | {"params": dict(self.params)}
        del fields["pair"]
        return {**self.pair.fields(), **fields}


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
    kv_center: str | None = None,
) -> list[Job]:
    """Return the jobs of a sweep in the order to run them: codec, quality, needles, then speed (the machine is warm).

    Speed rounds interleave the pairs and every second round takes them in reverse, so that a linear drift cancels.
    `kv_center` is the sha256 of the file that centred pairs use.
    """
    jobs: list[Job] = []
    if spec.codec is not None:
        jobs += _codec_jobs(spec.codec, build_id=build_id, device=device)
    common = {"build_id": build_id, "device": device, "model_sha256": model.sha256}
    if spec.quality is not None:
        at = {**common, "corpus_sha256": corpus_sha256}
        shared = _threads(spec.quality.threads)
        for window in _windows(spec.quality, spec.quality_pairs):
            jobs += _quality_jobs(window, at, shared, kv_center)
    if spec.niah is not None:
        at = {**common, "corpus_sha256": corpus_sha256}
        jobs += _niah_jobs(spec.niah, spec.niah_pairs, at, kv_center)
    if spec.speed is not None:
        shared = _threads(spec.speed.threads)
        jobs += _speed_jobs(spec.speed, spec.speed_pairs, common, shared, kv_center)
    return jobs


def _center(pair: KVPair, kv_center: str | None) -> dict[str, int | str]:
    return {"kv_center": kv_center} if pair.center and kv_center is not None else {}


def _threads(asked: int | None) -> dict[str, int | str]:
    return {} if asked is None else {"threads": asked}


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Window:
    """Chunks of one length, evaluated by one path on one form of the weights."""

    n_ctx: int
    chunks: int
    path: Literal["prefill", "decode"]
    weights: str
    floor: bool
    pairs: tuple[KVPair, ...]


def _windows(spec: QualitySpec, pairs: tuple[KVPair, ...]) -> Iterator[_Window]:
    """Put what shares a base file together: it is large, and made at the first need."""

    def window(part: QualityPart, n_ctx: int, path: Literal["prefill", "decode"], weights: str) -> _Window:
        chosen = pairs if part.pairs is None else part.pairs
        return _Window(n_ctx=n_ctx, chunks=part.chunks, path=path, weights=weights, floor=spec.floor, pairs=chosen)

    for n_ctx in spec.n_ctx:
        yield window(QualityPart(chunks=spec.chunks_of(n_ctx)), n_ctx, "prefill", spec.weights)
        if spec.decode is not None and n_ctx in spec.windows_of(spec.decode):
            yield window(spec.decode, n_ctx, "decode", spec.weights)
    if spec.as_given is not None:
        for n_ctx in spec.windows_of(spec.as_given):
            yield window(spec.as_given, n_ctx, "prefill", "as-is")


def _quality_jobs(
    window: _Window, common: Mapping[str, Any], threads: Mapping[str, int | str], kv_center: str | None
) -> Iterator[Job]:
    n_ubatch = _DECODE_UBATCH if window.path == "decode" else PREFILL_UBATCH

    def job(kind: Literal["quality", "floor"], test: str, pair: KVPair, **changed: int | str) -> Job:
        params = {**threads, "n_ubatch": n_ubatch, "weights": window.weights, **_center(pair, kv_center), **changed}
        cell = Cell(
            kind=kind,
            test=test,
            pair=pair,
            n_ctx=window.n_ctx,
            chunks=window.chunks,
            path=window.path,
            params=params,
            **common,
        )
        return Job(cells=(cell,), round=0)

    # The decode path has no base of its own: compared with itself, a fault that all types share would go unseen.
    # What the path alone changes is its floor, f16 through the decode kernels against the base of the prompt's path.
    if window.path == "prefill":
        yield job("quality", "ppl", F16)
    if window.floor:
        yield job("floor", "kld", F16, **({"n_ubatch": _OTHER_UBATCH} if window.path == "prefill" else {}))
        if window.path == "prefill":
            # Flash attention casts f32 K and V to f16 first (build_attn_mha in llama-graph.cpp): the same to the bit.
            yield job("floor", "kld", F32, flash_attn="off")
        if window.weights == "as-is":
            yield job("floor", "kld", NEARLY_F16)
    for pair in window.pairs:
        if pair != F16:
            yield job("quality", "kld", pair)


def _niah_jobs(
    spec: NiahSpec, pairs: tuple[KVPair, ...], common: Mapping[str, Any], kv_center: str | None
) -> Iterator[Job]:
    shared = {
        **_threads(spec.threads),
        "weights": spec.weights,
        "positions": " ".join(f"{position:g}" for position in spec.positions),
        "seeds": spec.seeds,
    }
    for n_ctx in spec.n_ctx:
        for keys in spec.keys:
            for pair in dict.fromkeys((F16, *pairs)):
                params = {**shared, "keys": keys, **_center(pair, kv_center)}
                cell = Cell(kind="niah", test="niah", pair=pair, n_ctx=n_ctx, params=params, **common)
                yield Job(cells=(cell,), round=0)


def _speed_jobs(
    spec: SpeedSpec,
    pairs: tuple[KVPair, ...],
    common: Mapping[str, Any],
    threads: Mapping[str, int | str],
    kv_center: str | None,
) -> Iterator[Job]:
    tests: list[tuple[str, Literal["prefill", "decode"]]] = []
    if spec.pp:
        tests.append((f"pp{spec.pp}", "prefill"))
    if spec.tg:
        tests.append((f"tg{spec.tg}", "decode"))

    def cell(pair: KVPair, depth: int, test: str, path: Literal["prefill", "decode"]) -> Cell:
        params = {**threads, "repetitions": spec.repetitions, **_center(pair, kv_center)}
        return Cell(kind="speed", test=test, pair=pair, n_depth=depth, path=path, params=params, **common)

    for number in range(max(map(spec.rounds_of, spec.depths))):
        for depth in (depth for depth in spec.depths if number < spec.rounds_of(depth)):
            for pair in pairs if number % 2 == 0 else reversed(pairs):
                yield Job(cells=tuple(cell(pair, depth, *test) for test in tests), round=number)
