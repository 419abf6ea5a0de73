"""Scores of whole volumes from their confusion matrix; what needs the surfaces is in `segkit.surfaces`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.dataset import IGNORE

_RESAMPLES = 10_000
_LEAST_SUBJECTS = 3
INTERVAL = (
    f"95 % percentile bootstrap of the mean over subjects, {_RESAMPLES} resamples; "
    f"none for fewer than {_LEAST_SUBJECTS} subjects, whose spread says too little"
)
"""How the intervals are made, for those who read them."""


def confusion_matrix(truth: NDArray[Any], prediction: NDArray[Any], classes: int) -> NDArray[np.int64]:
    """Count voxels by true and predicted class; voxels whose truth is ignored count nothing.

    Args:
        truth: class indices of any shape, 255 = ignored.
        prediction: class indices of the same shape.
        classes: number of classes K.

    Returns:
        (K, K): rows are the truth, columns the prediction.
    """
    kept = truth != IGNORE
    pairs = truth[kept].astype(np.int64) * classes + prediction[kept]
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def dice(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Hard Dice of each class, 0 to 1; NaN where neither truth nor prediction has the class.

    2 |A and B| / (|A| + |B|), Dice 1945 (doi:10.2307/1932409).

    Args:
        confusion: (K, K) from `confusion_matrix`.
    """
    both = confusion.sum(0) + confusion.sum(1)
    with np.errstate(invalid="ignore"):
        return np.where(both > 0, 2 * np.diag(confusion) / both, np.nan)


def volume_similarity(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """How alike the volumes of each class are, wherever they lie, 0 to 1; NaN where neither side has the class.

    1 - |A - B| / (A + B), Taha and Hanbury 2015 (doi:10.1186/s12880-015-0068-x).

    Args:
        confusion: (K, K) from `confusion_matrix`.
    """
    truth, prediction = confusion.sum(1), confusion.sum(0)
    with np.errstate(invalid="ignore"):
        return np.asarray(1 - np.abs(truth - prediction) / (truth + prediction))


def merge_classes(confusion: NDArray[np.int64], merged: Sequence[int]) -> NDArray[np.int64]:
    """The confusion matrix of one region made of several classes, against everything else.

    Args:
        confusion: (K, K) from `confusion_matrix`.
        merged: indices of the region's classes.

    Returns:
        (2, 2): index 0 is everything else, index 1 the region.
    """
    member = np.zeros(len(confusion), np.int64)
    member[list(merged)] = 1
    side = np.stack([1 - member, member])
    return np.asarray(side @ confusion @ side.T)


def mean_dice(scores: NDArray[np.float64], *, background: bool) -> float:
    """Mean over the classes that occur.

    Args:
        scores: (K,) Dice of each class.
        background: True counts class 0 as the thesis' averages do; False is the foreground mean.
    """
    chosen = scores if background else scores[1:]
    return float(np.nanmean(chosen)) if np.isfinite(chosen).any() else float("nan")


def bootstrap_interval(values: NDArray[np.float64]) -> tuple[float, float] | None:
    """95 % percentile interval of the mean, Efron and Tibshirani 1993 (doi:10.1201/9780429246593), section 13.3.

    Args:
        values: (N,) one finite value of each subject.

    Returns:
        Its bounds, always the same for the same values; None for fewer than 3 subjects.
    """
    if values.size < _LEAST_SUBJECTS:
        return None
    drawn = np.random.default_rng(0).integers(values.size, size=(_RESAMPLES, values.size))
    low, high = np.percentile(values[drawn].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)
