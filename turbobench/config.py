"""What a sweep measures: the schema of configs/*.yaml, with pairs of cache types and the checks between sections."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, StrictInt, model_validator

from turbobench import layer_types
from turbobench.errors import ConfigError
from turbobench.kvtypes import FLOATS, KV_TYPES, KVPair
from turbobench.niah import MAX_KEYS
from turbobench.paths import configs_dir
from turbobench.strict_yaml import Strict, load_yaml, suggestion

_POLICIES = {"policy": False, "policy+c": True}  # whether K is centred
_NOT_SWEEPS = {"pin", "models", "corpora"}
_COUNTABLE = 10_000_000  # far beyond any context or sample count; keeps a slipped digit from planning a year of work


def _expand_pairs(value: object) -> tuple[KVPair, ...]:
    """Turn a list of `turbo4`, `q8_0/turbo4` and `{product: {k: […], v: […]}}` into pairs, in the order written.

    What a product repeats is merged; the same pair written out twice is a slip, and an error.
    """
    items = value if isinstance(value, (list, tuple)) else [value]
    written: list[KVPair] = []
    found: dict[KVPair, None] = {}
    for item in items:
        if isinstance(item, Mapping):
            found.update(dict.fromkeys(_product(item)))
            continue
        pair = _parse_pair(item)
        if pair in written:
            raise ValueError(f"the pair {pair} is listed twice")
        written.append(pair)
        found[pair] = None
    return tuple(found)


def _parse_pair(item: object) -> KVPair:
    if isinstance(item, KVPair):
        return item
    if not isinstance(item, str):
        raise ValueError(
            f"a pair is written turbo4, q8_0/turbo4, turbo4+c/turbo3, q4_0:unrotated or policy:FILE, not {item!r}"
        )
    try:
        kind, colon, ref = item.strip().partition(":")
        if colon and kind in _POLICIES:
            return KVPair.by_layer(layer_types.read(ref.strip()), center=_POLICIES[kind])
        return KVPair.parse(item)
    except ConfigError as failure:
        raise ValueError(f"{failure.what} ({failure.hint})") from failure


def _product(item: Mapping[object, object]) -> list[KVPair]:
    sides = item.get("product")
    if set(item) != {"product"} or not isinstance(sides, Mapping) or set(sides) != {"k", "v"}:
        raise ValueError("a product is written {product: {k: [types], v: [types]}}")
    names = {side: [part] if isinstance(part, str) else part for side, part in sides.items()}
    if not all(isinstance(part, list) and part for part in names.values()):
        raise ValueError("a product needs at least one type on each side: {product: {k: [types], v: [types]}}")
    return [_parse_pair(f"{k}/{v}") for k in names["k"] for v in names["v"]]


def _known_types(value: object) -> object:
    """Refuse what is not the name of a quantized cache type, or is named twice."""
    names = value if isinstance(value, (list, tuple)) else [value]
    for index, name in enumerate(names):
        if name not in KV_TYPES:
            raise ValueError(f"{name!r} is no cache type" + suggestion(str(name), KV_TYPES))
        if name in FLOATS:
            raise ValueError(f"{name} is not quantized, so it has no quantization error to measure")
        if name in names[:index]:
            raise ValueError(f"the type {name} is listed twice")
    return names


def _distinct(value: object) -> object:
    if isinstance(value, (list, tuple)) and len(set(map(str, value))) != len(value):
        raise ValueError("the same value is listed twice")
    return value


def _one_or_more(value: object) -> object:
    return value if isinstance(value, (list, tuple)) else (value,)


Pairs = Annotated[tuple[KVPair, ...], BeforeValidator(_expand_pairs)]
Count = Annotated[StrictInt, Field(ge=1, le=_COUNTABLE)]
Depth = Annotated[StrictInt, Field(ge=0, le=_COUNTABLE)]
# Fewer than 256: llama-perplexity omits its statistics.
Windows = Annotated[
    tuple[Annotated[StrictInt, Field(ge=256, le=_COUNTABLE)], ...],
    BeforeValidator(_one_or_more),
    BeforeValidator(_distinct),
    Field(min_length=1),
]


class SpeedSpec(Strict):
    """What llama-bench measures: `pp` prompt tokens and `tg` generated tokens at each depth, `rounds` times over.

    A round visits every pair at every depth once, so that drift of the machine meets all pairs alike;
    `rounds_at` gives single depths a number of their own: shallow ones are cheap, and the noisiest.
    `repetitions` are the samples one process takes. `threads` None means as many as the machine has cores.
    """

    depths: Annotated[tuple[Depth, ...], BeforeValidator(_distinct), Field(min_length=1)] = (0,)
    pp: Annotated[StrictInt, Field(ge=0, le=_COUNTABLE)] = 512
    tg: Annotated[StrictInt, Field(ge=0, le=_COUNTABLE)] = 32
    rounds: Count = 2
    rounds_at: dict[Depth, Count] = Field(default_factory=dict)
    repetitions: Count = 1
    threads: Count | None = None
    pairs: Pairs | None = None

    @model_validator(mode="after")
    def _measures_something(self) -> Self:
        if self.pp == 0 and self.tg == 0:
            raise ValueError("pp and tg are both 0: nothing to measure")
        if stray := set(self.rounds_at) - set(self.depths):
            raise ValueError(f"rounds_at names depth {min(stray)}, which is not measured")
        return self

    def rounds_of(self, depth: int) -> int:
        return self.rounds_at.get(depth, self.rounds)


class QualityPart(Strict):
    """A smaller measurement beside the main one, of `chunks` windows; None takes the main one's pairs, first n_ctx."""

    n_ctx: Windows | None = None
    chunks: Count = 1
    pairs: Pairs | None = None


class QualitySpec(Strict):
    """What llama-perplexity measures: PPL, and KLD against f16 K/V, over `chunks` windows of each of `n_ctx` tokens.

    `chunks_at` gives single lengths a number of their own. `weights` f16 expands the model first: with quantized
    weights the CPU's activation rounding hides small errors. `decode` measures again one token at a time, through the
    decode kernels, which the prompt's path never runs; `as_given` with the weights as they are in the file.
    `floor` also measures what harmless changes show: f32 K/V, and f16 K/V in other batches.
    """

    n_ctx: Windows = (2048,)
    chunks: Count = 8
    chunks_at: dict[int, Count] = Field(default_factory=dict)
    corpus: str | None = None
    weights: Literal["f16", "as-is"] = "f16"
    floor: bool = True
    keep_base: bool = False
    threads: Count | None = None
    pairs: Pairs | None = None
    decode: QualityPart | None = None
    as_given: QualityPart | None = None

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if stray := set(self.chunks_at) - set(self.n_ctx):
            raise ValueError(f"chunks_at names n_ctx {min(stray)}, which is not measured")
        if self.as_given is not None and self.weights == "as-is":
            raise ValueError("as_given repeats what weights: as-is measures already")
        if self.decode is None:
            return self
        for n_ctx in self.windows_of(self.decode):
            if n_ctx not in self.n_ctx:
                raise ValueError(f"decode names n_ctx {n_ctx}, and there is no prefill of it to compare with")
            if self.decode.chunks > self.chunks_of(n_ctx):
                raise ValueError(f"decode asks for more chunks of {n_ctx} than prefill, which it is compared with")
        return self

    def chunks_of(self, n_ctx: int) -> int:
        return self.chunks_at.get(n_ctx, self.chunks)

    def windows_of(self, part: QualityPart) -> tuple[int, ...]:
        return self.n_ctx[:1] if part.n_ctx is None else part.n_ctx


class NiahSpec(Strict):
    """Needle in a haystack through llama-server: prompts of `n_ctx` tokens, a fact at each of `positions` in each.

    `keys` are how many facts of the same form a prompt has, of which one is asked for; each with `seeds` texts and
    facts. Every pair gets the same prompts as f16, which is always asked too.
    """

    n_ctx: Windows = (2048,)
    positions: Annotated[
        tuple[Annotated[float, Field(ge=0, le=1)], ...], BeforeValidator(_distinct), Field(min_length=1)
    ] = (0.1, 0.3, 0.5, 0.7, 0.9)
    keys: Annotated[
        tuple[Annotated[StrictInt, Field(ge=1, le=MAX_KEYS)], ...], BeforeValidator(_distinct), Field(min_length=1)
    ] = (1, 4)
    seeds: Count = 4
    corpus: str | None = None
    weights: Literal["f16", "as-is"] = "f16"
    threads: Count | None = None
    pairs: Pairs | None = None


class CodecSpec(Strict):
    """Quantization error of the codecs alone, on `blocks` blocks of 64 Gaussian values."""

    blocks: Count = 65536
    seed: Annotated[StrictInt, Field(ge=0)] = 0
    types: Annotated[tuple[str, ...], BeforeValidator(_known_types), Field(min_length=1)] = tuple(
        name for name in KV_TYPES if name not in FLOATS
    )


class SweepSpec(Strict):
    """One sweep: the K/V pairs, and what to measure of them. A section's own `pairs` override the common ones.

    `kv_center` is the file of K's means that pairs with `+c` use, None the one that `calibrate` wrote beside the model.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    description: str = ""
    pairs: Pairs = ()
    model: str | None = None
    kv_center: str | None = None
    speed: SpeedSpec | None = None
    quality: QualitySpec | None = None
    niah: NiahSpec | None = None
    codec: CodecSpec | None = None

    @model_validator(mode="after")
    def _has_work(self) -> Self:
        if self.speed is None and self.quality is None and self.niah is None and self.codec is None:
            raise ValueError("nothing to measure: give at least one of speed, quality, niah, codec")
        if self.quality and self.niah and self.quality.corpus != self.niah.corpus:
            raise ValueError("quality and niah name different texts; use one, or two sweeps")
        for section, part in (("speed", self.speed), ("quality", self.quality), ("niah", self.niah)):
            if part is not None and not (self.pairs if part.pairs is None else part.pairs):
                raise ValueError(f"{section} has no K/V pairs: list them under 'pairs'")
        decode = self.quality.decode if self.quality is not None else None
        stray = [pair for pair in (decode.pairs or () if decode else ()) if pair not in self.quality_pairs]
        if stray:
            raise ValueError(f"decode names {stray[0].short}, and there is no prefill of it to compare with")
        return self

    @property
    def speed_pairs(self) -> tuple[KVPair, ...]:
        return self.pairs if self.speed is None or self.speed.pairs is None else self.speed.pairs

    @property
    def quality_pairs(self) -> tuple[KVPair, ...]:
        return self.pairs if self.quality is None or self.quality.pairs is None else self.quality.pairs

    @property
    def niah_pairs(self) -> tuple[KVPair, ...]:
        return self.pairs if self.niah is None or self.niah.pairs is None else self.niah.pairs

    @property
    def used_pairs(self) -> tuple[KVPair, ...]:
        """The pairs of all sections; those of `quality.decode` are among quality's."""
        used = [*(self.speed_pairs if self.speed else ()), *(self.niah_pairs if self.niah else ())]
        if self.quality is not None:
            given = self.quality.as_given
            used += [*self.quality_pairs, *((given.pairs or ()) if given is not None else ())]
        return tuple(used)

    @property
    def centered(self) -> tuple[KVPair, ...]:
        """The pairs that need `kv_center`."""
        return tuple(pair for pair in self.used_pairs if pair.center)


def load_sweep(ref: str | Path) -> SweepSpec:
    """Load a sweep by path (`configs/demo.yaml`) or by the bare name of one in `configs/` (`demo`).

    Raises ConfigError naming file, key and the next step.
    """
    return load_yaml(_find_sweep(ref), SweepSpec)


def _find_sweep(ref: str | Path) -> Path:
    path = Path(ref).expanduser()
    # `configs/demo.yaml` also means ours when the tool is installed and started somewhere else.
    candidates = [path, configs_dir() / f"{ref}.yaml", configs_dir().parent / path]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    known = sorted(p.stem for p in configs_dir().glob("*.yaml") if p.stem not in _NOT_SWEEPS)
    raise ConfigError(f"there is no sweep {ref}" + suggestion(path.stem, known), f"sweeps here: {', '.join(known)}")
