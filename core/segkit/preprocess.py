"""Intensity normalisation: the same few lines for training, evaluation and the runtime."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from segkit.errors import DataError

Normalisation = Literal["zscore-nonzero", "none"]
"""How intensities are normalised, by name: the name is what a run and a bundle store."""

LARGEST = 1e18
"""The largest intensity that is taken; its square still fits into float32."""


def normalise(data: NDArray[Any], how: Normalisation) -> NDArray[np.float32]:
    """Normalise one modality of one volume.

    `zscore-nonzero` takes mean and standard deviation over the voxels that are not zero and applies them to all voxels,
    so background keeps a value of its own, below every tissue, instead of the brain's mean.

    Args:
        data: (X, Y, Z) intensities as read.
        how: the name of the normalisation.

    Returns:
        (X, Y, Z) float32.

    Raises:
        DataError: intensities do not fit into float32.
    """
    with np.errstate(over="ignore"):
        values = np.asarray(data, np.float32)
    # A spread above this would overflow when it is squared.
    if not np.isfinite(values).all() or np.abs(values).max(initial=0) > LARGEST:
        raise DataError(f"expected intensities of at most {LARGEST:g}, found larger ones", hint="scale the image first")
    if how == "none":
        return values
    inside = values[values != 0]
    if not inside.size:
        return values
    mean = float(inside.mean(dtype=np.float64))
    std = float(inside.std(dtype=np.float64))
    return (values - np.float32(mean)) / np.float32(std if std > 0 else 1.0)
