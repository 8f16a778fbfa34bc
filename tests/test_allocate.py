"""The knapsack finds the best choice there is, and says when there is none."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from turbobench.allocate import Option, allocate
from turbobench.errors import ConfigError


def _random_items(rng: np.random.Generator, n_items: int) -> list[list[Option]]:
    return [
        [
            Option(name=f"t{bits}", bits=64 * bits, error=float(scale * rng.uniform(0.5, 1.5) / 4**bits))
            for bits in (3, 4, 8)
        ]
        for scale in rng.lognormal(0, 2, n_items)
    ]


@pytest.mark.parametrize("seed", range(8))
def test_no_other_choice_within_the_budget_is_better(seed: int) -> None:
    items = _random_items(np.random.default_rng(seed), 6)
    for budget in (6 * 64 * 3, 6 * 64 * 3.5, 6 * 64 * 4.4, 6 * 64 * 9):
        found = allocate(items, budget)
        best = min(
            sum(option.error for option in choice)
            for choice in itertools.product(*items)
            if sum(option.bits for option in choice) <= budget
        )
        assert found.error == pytest.approx(best, rel=1e-12)
        assert found.bits == sum(option.bits for option in found.chosen) <= budget
        assert found.error == pytest.approx(sum(option.error for option in found.chosen), rel=1e-12)


def test_items_of_different_sizes_pay_by_their_size() -> None:
    small = [Option(name="a", bits=192, error=1.0), Option(name="b", bits=256, error=0.5)]
    large = [Option(name="a", bits=1920, error=1.0), Option(name="b", bits=2560, error=0.4)]
    found = allocate([small, large], 192 + 1920 + 64)
    assert [option.name for option in found.chosen] == ["b", "a"]


def test_bits_that_gain_nothing_are_left_over() -> None:
    found = allocate([[Option(name="a", bits=3, error=1.0), Option(name="b", bits=4, error=2.0)]], 10)
    assert (found.bits, found.chosen[0].name) == (3, "a")


def test_a_budget_below_the_smallest_types_is_refused() -> None:
    with pytest.raises(ConfigError, match="below the 6 of the smallest types"):
        allocate([[Option(name="a", bits=3, error=1.0)]] * 2, 5)
