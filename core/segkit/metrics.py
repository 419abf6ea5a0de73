"""Scores of whole volumes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.dataset import IGNORE


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


def mean_dice(scores: NDArray[np.float64], *, background: bool) -> float:
    """Mean over the classes that occur.

    Args:
        scores: (K,) Dice of each class.
        background: True counts class 0 as the thesis' averages do; False is the foreground mean.
    """
    chosen = scores if background else scores[1:]
    return float(np.nanmean(chosen)) if np.isfinite(chosen).any() else float("nan")
