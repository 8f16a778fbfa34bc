"""Which cache types are worth their bytes: the front of KLD against bits per value, and who dominates whom. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_CLEAR = 2.0  # standard errors of the difference


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A pair's cost in bits per value and its mean KLD in nats with the standard error."""

    name: str
    bpv: float
    kld: float
    kld_err: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A point and what beats it: pairs of no more bits and no more KLD, the best one first.

    `clearly` are those of them whose KLD is lower by more than two standard errors of the difference (taken as if the
    errors were independent, so on the same tokens they are fewer than there are).
    """

    point: Point
    dominated_by: tuple[str, ...]
    clearly: tuple[str, ...]

    @property
    def on_front(self) -> bool:
        return not self.dominated_by


def place(points: Sequence[Point]) -> list[Placed]:
    """Return the points, fewest bits first, each with what dominates it; equal points do not dominate each other."""
    ordered = sorted(points, key=lambda point: (point.bpv, point.kld))
    placed: list[Placed] = []
    for point in ordered:
        better = sorted((other for other in ordered if _dominates(other, point)), key=lambda other: other.kld)
        placed.append(
            Placed(
                point=point,
                dominated_by=tuple(other.name for other in better),
                clearly=tuple(other.name for other in better if _is_clear(other, point)),
            )
        )
    return placed


def _dominates(one: Point, other: Point) -> bool:
    no_worse = one.bpv <= other.bpv and one.kld <= other.kld
    return no_worse and (one.bpv < other.bpv or one.kld < other.kld)


def _is_clear(one: Point, other: Point) -> bool:
    return other.kld - one.kld > _CLEAR * math.hypot(one.kld_err, other.kld_err)
