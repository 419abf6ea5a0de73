"""Figures that scatter: percentiles, and how sure a median or a ratio of medians is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 4000
_SEED = 0


def percentiles(values: Sequence[float], shares: Sequence[float]) -> list[float]:
    """Percentiles of some values, interpolated between neighbours."""
    return [float(value) for value in np.percentile(np.asarray(values), shares)]


def median_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """The bootstrap interval of a median: where it lies if the same values are drawn again and again."""
    return _interval(_medians(values, np.random.default_rng(_SEED)), confidence)


def ratio_interval(before: Sequence[float], after: Sequence[float], confidence: float) -> tuple[float, float, float]:
    """The ratio of two medians, after over before, and its bootstrap interval; both are drawn again by themselves."""
    rng = np.random.default_rng(_SEED)
    ratios = _medians(after, rng) / _medians(before, rng)
    return (float(np.median(after) / np.median(before)), *_interval(ratios, confidence))


def _medians(values: Sequence[float], rng: np.random.Generator) -> NDArray[np.float64]:
    drawn = rng.choice(np.asarray(values, np.float64), (RESAMPLES, len(values)))
    return np.asarray(np.median(drawn, axis=1))


def _interval(drawn: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    tail = 50 * (1 - confidence)
    low, high = np.percentile(drawn, (tail, 100 - tail))
    return float(low), float(high)
