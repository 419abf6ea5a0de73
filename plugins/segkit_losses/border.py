"""The U-Net's weight map: balanced classes, and more weight where two borders are close."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from segkit.dataset import IGNORE


def weight_map(
    label: NDArray[np.uint8], spacing_mm: Sequence[float], w0: float = 10.0, sigma_mm: float = 5.0
) -> NDArray[np.float32]:
    """Compute w = wc + w0 exp(-(d1 + d2)^2 / (2 sigma^2)) (Ronneberger et al. 2015, equation 2).

    doi 10.1007/978-3-319-24574-4_28. There d1 and d2 are a background pixel's distances to the nearest and the second
    nearest cell. Here the classes stand for the cells: d1 and d2 are the distances to the nearest and the second
    nearest class other than the voxel's own, so the weight is high where a layer between two classes is thin, as the
    cortex is. With two classes there is one other only, and d2 = d1; with one class there is no second term. Distances
    lead from centre to centre of voxels.

    The paper leaves the balance wc open. Here a class that is a share s of the subject's voxels has wc = 1 / (n s), n
    the number of its classes, so that the mean of wc is 1.

    Args:
        label: (X, Y, Z) class indices, 255 = ignored.
        spacing_mm: voxel size (x, y, z).
        w0: weight of the second term.
        sigma_mm: its reach; the paper's 5 pixels at a voxel size of 1 mm.

    Returns:
        (X, Y, Z) weights; ignored voxels have 0, and are nobody's border.
    """
    counts = np.bincount(label.ravel(), minlength=IGNORE + 1)[:IGNORE]
    classes = np.flatnonzero(counts)
    weights = np.zeros(label.shape, np.float32)
    if not classes.size:
        return weights
    balance = np.zeros(IGNORE + 1, np.float32)
    balance[classes] = counts.sum() / (classes.size * counts[classes])
    if classes.size > 1:
        # In place: each of these volumes is large.
        first, second = _two_nearest_mm(label, classes, spacing_mm)
        weights = np.add(first, second if classes.size > 2 else first, out=second)
        np.square(weights, out=weights)
        weights *= np.float32(-1 / (2 * sigma_mm**2))
        np.exp(weights, out=weights)
        weights *= np.float32(w0)
    weights += balance[label]
    weights[label == IGNORE] = 0
    return weights


def _two_nearest_mm(
    label: NDArray[np.uint8], classes: NDArray[np.intp], spacing_mm: Sequence[float]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Each voxel's distances to the nearest and the second nearest of the other classes; infinite where there is none.

    One class at a time, so that the memory does not grow with their number.
    """
    first = np.full(label.shape, np.inf, np.float32)
    second = first.copy()
    for index in classes:
        distance = _distance_mm(label == index, spacing_mm)
        distance[label == index] = np.inf
        np.minimum(second, np.maximum(first, distance), out=second)
        np.minimum(first, distance, out=first)
    return first, second


def _distance_mm(region: NDArray[np.bool_], spacing_mm: Sequence[float]) -> NDArray[np.float32]:
    """Distance of each voxel outside a region to the nearest one inside."""
    import SimpleITK as sitk  # noqa: N813 - its name everywhere

    image = sitk.GetImageFromArray(region.view(np.uint8))
    image.SetSpacing([float(side) for side in reversed(spacing_mm)])  # the axes of an array are an image's reversed
    distance: NDArray[np.float32] = sitk.GetArrayFromImage(
        sitk.SignedMaurerDistanceMap(image, squaredDistance=False, useImageSpacing=True)
    )
    return distance
