"""What each layer's K and V cost alone: the one-layer policies to measure, and the policy that their KLD leads to.

The error of a type in one layer hardly depends on the types of the others, and KL divergence is quadratic in the error
of the logits: so that of many layers is about the sum of each alone. `predicted` is that sum; what is measured of the
whole policy says how far it holds. By the same argument the types differ by a factor that all layers share, and need
not all be measured in each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from turbobench.allocate import Option, allocate
from turbobench.config import QualitySpec, SweepSpec
from turbobench.errors import ConfigError, SweepIncompleteError
from turbobench.kvtypes import FLOATS, KV_TYPES, KVPair
from turbobench.layer_types import LayerTypes
from turbobench.tidy import Row

_SIDES = ("k", "v")
_BITS_PER_BYTE = 8

Cell = tuple[int, int, str]  # layer, side (0 is K), type


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be chosen: one of `types` for each layer's K and V, where `f16` is the model's layers in f16.

    Each of `probes`, some of the types, is measured in each layer's K and V alone; the others in all layers at once.
    `center`: the mean of K is subtracted, in these measurements and where the policy is to be used.
    """

    f16: LayerTypes
    types: tuple[str, ...]
    probes: tuple[str, ...]
    center: bool

    def pair_of(self, cell: Cell) -> KVPair:
        """Return the pair in which only this layer's K or V is quantized."""
        layer, side, name = cell
        types = (name, "f16") if side == 0 else ("f16", name)
        alone = LayerTypes.build(f"{_SIDES[side]}{layer}-{name}", self.f16, {layer: types})
        # A V alone leaves K in f16, where a center serves nothing.
        return KVPair.by_layer(alone, center=self.center and side == 0)

    @property
    def cells(self) -> list[Cell]:
        """All cells, those of the first probe first: an interrupted measurement has seen every layer soonest."""
        return [(layer, side, name) for name in self.probes for layer in self.f16.by_layer for side in (0, 1)]

    def side_pair(self, side: int, name: str) -> KVPair:
        """Return the pair in which one side of all layers is quantized."""
        return KVPair(name, "f16", center=self.center) if side == 0 else KVPair("f16", name)

    @property
    def side_pairs(self) -> list[KVPair]:
        """The pairs that say how the types differ; none where each is measured in each layer."""
        names = () if set(self.probes) == set(self.types) else self.types
        return [self.side_pair(side, name) for name in names for side in (0, 1)]

    @property
    def uniform(self) -> list[KVPair]:
        """Pairs of the same types in all layers, whose KLD shows how far the sum over layers holds."""
        steps = zip(self.types, self.types[:1] + self.types, strict=False)
        return [
            KVPair(k, v, center=self.center)
            for name, below in steps
            for k, v in dict.fromkeys(((name, below), (name, name)))
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A policy, the pair with it, its budget in bits per value, and the KLD that the sum over layers predicts."""

    policy: LayerTypes
    pair: KVPair
    budget: float
    predicted: float


def check_types(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names; ConfigError for one that is unknown, not quantized, or named twice."""
    for index, name in enumerate(names):
        if name not in KV_TYPES or name in FLOATS:
            raise ConfigError(
                f"{name!r} is no quantized cache type", f"known: {', '.join(t for t in KV_TYPES if t not in FLOATS)}"
            )
        if name in names[:index]:
            raise ConfigError(f"the type {name} is named twice", "name each once")
    return tuple(names)


def sweep(plan: Plan, name: str, policies: Iterable[KVPair] = (), *, window: QualitySpec) -> SweepSpec:
    """Return the sweep that measures the plan, and then `policies`, in windows as `window` has them."""
    pairs = dict.fromkeys((*map(plan.pair_of, plan.cells), *plan.side_pairs, *plan.uniform, *policies))
    return SweepSpec(name=name, description="what each layer's K and V cost alone", pairs=tuple(pairs), quality=window)


def measured(rows: Iterable[Row]) -> dict[KVPair, float]:
    """Return the mean KLD of every pair that was measured as asked, of the rows of a result set."""
    return {
        KVPair.of(row): row["kld_mean"]
        for row in rows
        if (row["kind"], row["test"], row["disposition"]) == ("quality", "kld", "measured")
        and row.get("placement") != "fallback"
    }


def kld_by_cell(plan: Plan, kld: Mapping[KVPair, float]) -> dict[Cell, float]:
    """Return the KLD of each type in each layer's K and V; SweepIncompleteError if what it needs was not measured.

    That of a type which is no probe is the nearest probe's, times how the two differ in all layers at once.
    """
    needed = [*map(plan.pair_of, plan.cells), *plan.side_pairs]
    if missing := [pair for pair in needed if pair not in kld]:
        raise SweepIncompleteError(
            f"{len(missing)} of {len(needed)} pairs were not measured as asked, the first: {missing[0]}",
            "its record says why; run the same command again to retry",
        )
    found: dict[Cell, float] = {}
    for name in plan.types:
        probe = name if name in plan.probes else min(plan.probes, key=lambda other: _distance(other, name))
        for side in (0, 1):
            factor = 1.0 if probe == name else kld[plan.side_pair(side, name)] / kld[plan.side_pair(side, probe)]
            for layer in plan.f16.by_layer:
                found[layer, side, name] = factor * kld[plan.pair_of((layer, side, probe))]
    return found


def solve(plan: Plan, kld: Mapping[Cell, float], budget: float) -> Found:
    """Return the policy with the least sum of KLD that has at most `budget` bits per value."""
    sides = [(layer, side) for layer in plan.f16.by_layer for side in (0, 1)]
    items = [
        [
            Option(name=name, bits=_bits(plan.f16, layer, side, name), error=kld[layer, side, name])
            for name in plan.types
        ]
        for layer, side in sides
    ]
    best = allocate(items, budget * plan.f16.n_values)
    names = {where: option.name for where, option in zip(sides, best.chosen, strict=True)}
    types = {layer: (names[layer, 0], names[layer, 1]) for layer in plan.f16.by_layer}
    policy = LayerTypes.build(f"{plan.f16.name}-{budget:g}", plan.f16, types)
    return Found(policy=policy, pair=KVPair.by_layer(policy, center=plan.center), budget=budget, predicted=best.error)


def predicted(kld: Mapping[Cell, float], pair: KVPair, layers: Iterable[int]) -> float:
    """Return the sum over layers of what the pair's types cost alone."""
    return sum(kld[layer, side, pair.types_of(layer)[side]] for layer in layers for side in (0, 1))


def _distance(one: str, other: str) -> float:
    return abs(KV_TYPES[one].bpv - KV_TYPES[other].bpv)


def _bits(layers: LayerTypes, layer: int, side: int, name: str) -> int:
    run = next(run for run in layers.runs if run.first <= layer <= run.last)
    kind = KV_TYPES[name]
    return (run.n_k, run.n_v)[side] // kind.block * kind.block_bytes * _BITS_PER_BYTE
