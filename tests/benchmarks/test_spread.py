from __future__ import annotations

import numpy as np
import pytest

from segkit_benchmarks.spread import median_interval, percentiles, ratio_interval


def test_percentiles_lie_between_neighbours() -> None:
    assert percentiles([4, 1, 3, 2, 5], (0, 50, 95, 100)) == pytest.approx([1, 3, 4.8, 5])


def test_the_interval_of_a_median_holds_the_true_one_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    samples = rng.lognormal(0, 0.3, (100, 20))  # whose true median is 1
    held = sum(low <= 1 <= high for low, high in map(median_interval, samples))
    assert 88 <= held <= 100


def test_values_that_do_not_scatter_have_an_interval_of_no_width() -> None:
    assert median_interval([7.0] * 5) == (7, 7)
    assert ratio_interval([2.0] * 5, [3.0] * 5, 0.99) == (1.5, 1.5, 1.5)


def test_the_interval_of_a_ratio_holds_it_and_is_wider_for_more_confidence() -> None:
    rng = np.random.default_rng(5)
    before, after = rng.normal(100, 5, 20), rng.normal(150, 5, 20)
    ratio, low, high = ratio_interval(before, after, 0.95)
    assert low < ratio < high
    assert 1.4 < low < 1.5 < high < 1.6
    _, lower, higher = ratio_interval(before, after, 0.99)
    assert lower < low
    assert higher > high


def test_the_same_values_give_the_same_interval() -> None:
    values = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0]
    assert median_interval(values) == median_interval(values)
