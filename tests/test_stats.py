"""Intervals and ratios."""

from __future__ import annotations

import pytest

from turbobench import stats


def test_the_interval_of_a_mean_is_students() -> None:
    found = stats.mean_interval([9.0, 10.0, 11.0])
    # t(2) = 4.303, s = 1, n = 3
    assert (found.value, found.lo, found.hi) == pytest.approx((10.0, 10 - 4.303 / 3**0.5, 10 + 4.303 / 3**0.5))


def test_one_sample_has_no_interval() -> None:
    assert stats.mean_interval([7.0]) == stats.Estimate(value=7.0, lo=None, hi=None, n=1)


def test_quantiles_beyond_the_table_join_it_and_approach_the_normals() -> None:
    assert stats.t95(31) == pytest.approx(2.0395, abs=4e-3)
    assert stats.t95(100_000) == pytest.approx(1.96, abs=1e-3)


def test_rounds_are_the_units_and_a_disturbed_repetition_does_not_count() -> None:
    found = stats.rounds_interval([[10.0, 10.0, 1.0], [12.0, 12.0, 12.0]])
    assert (found.value, found.n) == (11.0, 2)


def test_repetitions_are_the_samples_of_a_single_round() -> None:
    assert stats.rounds_interval([[1.0, 3.0]]).n == 2


def test_ratios_average_geometrically() -> None:
    found = stats.geometric_interval([0.5, 2.0])
    assert found.value == pytest.approx(1.0)
    assert found.lo is not None
    assert found.hi is not None
    assert found.lo * found.hi == pytest.approx(1.0)
