"""Intervals and ratios, pure. Rounds are the independent units: repetitions of one process share its state and heat."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

# Two-sided 95 % quantiles of Student's t for 1..30 degrees of freedom.
_T95 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
_Z95 = 1.959964


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A central value and its 95 % interval; `lo` and `hi` are None where one sample gives no interval."""

    value: float
    lo: float | None
    hi: float | None
    n: int


def t95(degrees: int) -> float:
    """Return the two-sided 95 % quantile of Student's t (Abramowitz & Stegun 26.7.5, first term, beyond 30)."""
    if degrees < 1:
        raise ValueError("an interval needs at least two samples")
    return _T95[degrees - 1] if degrees <= len(_T95) else _Z95 + (_Z95**3 + _Z95) / (4 * degrees)


def mean_interval(samples: Sequence[float]) -> Estimate:
    """Return the mean with its Student t interval."""
    mean = statistics.fmean(samples)
    if len(samples) < 2:
        return Estimate(value=mean, lo=None, hi=None, n=len(samples))
    half = t95(len(samples) - 1) * statistics.stdev(samples) / math.sqrt(len(samples))
    return Estimate(value=mean, lo=mean - half, hi=mean + half, n=len(samples))


def rounds_interval(rounds: Sequence[Sequence[float]]) -> Estimate:
    """Return the mean over rounds of each round's median, with its interval.

    The median keeps one disturbed repetition out. A single round has its median, too, so that figures and ratios agree,
    and the interval of its repetitions.
    """
    medians = [statistics.median(samples) for samples in rounds]
    if len(rounds) > 1:
        return mean_interval(medians)
    within = mean_interval(rounds[0])
    if within.lo is None or within.hi is None:
        return within
    return Estimate(value=medians[0], lo=min(within.lo, medians[0]), hi=max(within.hi, medians[0]), n=within.n)


def mcnemar(lost: int, won: int) -> float:
    """Return the exact two-sided p of McNemar's test: how likely so uneven a split of the changes is by chance."""
    changes = lost + won
    tail = sum(math.comb(changes, i) for i in range(min(lost, won) + 1))
    return min(1.0, float(2 * tail / 2**changes))


def geometric_interval(ratios: Sequence[float]) -> Estimate:
    """Return the geometric mean of positive ratios with the Student t interval of their logarithms."""
    logs = mean_interval([math.log(ratio) for ratio in ratios])
    return Estimate(
        value=math.exp(logs.value),
        lo=None if logs.lo is None else math.exp(logs.lo),
        hi=None if logs.hi is None else math.exp(logs.hi),
        n=logs.n,
    )
