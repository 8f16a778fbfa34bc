"""Where bits should go: one option for each item, the least total error within a budget of bits. Exact, and pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from turbobench.errors import ConfigError

_MOST_STEPS = 1 << 22  # of the budget; beyond, the table of all of them would not be worth its memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One way to store an item: its cost in bits, a whole number, and the error that it causes."""

    name: str
    bits: int
    error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """The option chosen for each item, in their order, and the sums."""

    chosen: tuple[Option, ...]
    bits: int
    error: float


def allocate(items: Sequence[Sequence[Option]], budget_bits: float) -> Allocation:
    """Choose one option for each item so that the sum of errors is least and that of bits at most `budget_bits`.

    The multiple-choice knapsack by dynamic programming over the bits above the cheapest choice, in units of their
    greatest common divisor: exact. Of two choices as good, the one of fewer bits. ConfigError if even the cheapest
    choice is over the budget.
    """
    cheapest = [min(option.bits for option in options) for options in items]
    spare = math.floor(budget_bits + 1e-6) - sum(cheapest)
    if spare < 0:
        raise ConfigError(
            f"the budget of {budget_bits:.0f} bits a token is below the {sum(cheapest)} of the smallest types",
            "give more --bits, or smaller --types",
        )
    extra = [[option.bits - low for option in options] for options, low in zip(items, cheapest, strict=True)]
    unit = math.gcd(*(bits for row in extra for bits in row)) or 1
    most = sum(max(row) for row in extra)
    steps = min(spare, most) // unit
    if steps > _MOST_STEPS:
        raise ConfigError(f"the budget has {steps} steps of {unit} bits, too many to try all", "give fewer --types")
    return _trace(items, [[bits // unit for bits in row] for row in extra], steps)


def _trace(items: Sequence[Sequence[Option]], extra: list[list[int]], steps: int) -> Allocation:
    least = np.full(steps + 1, np.inf)  # the least error of the items so far, at exactly so many steps
    least[0] = 0.0
    choices = np.zeros((len(items), steps + 1), dtype=np.int16)
    for index, options in enumerate(items):
        total = np.full(steps + 1, np.inf)
        for number, (option, cost) in enumerate(zip(options, extra[index], strict=True)):
            if cost > steps:
                continue
            with_it = np.full(steps + 1, np.inf)
            with_it[cost:] = least[: steps + 1 - cost] + option.error
            choices[index, with_it < total] = number
            total = np.minimum(total, with_it)
        least = total
    at = int(np.argmin(least))
    error = float(least[at])
    chosen: list[Option] = []
    for index in reversed(range(len(items))):
        number = int(choices[index, at])
        chosen.append(items[index][number])
        at -= extra[index][number]
    chosen.reverse()
    return Allocation(chosen=tuple(chosen), bits=sum(option.bits for option in chosen), error=error)
