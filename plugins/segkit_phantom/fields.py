"""Smooth random fields and the few array operations that the anatomy and the acquisition share.

Nothing here goes through BLAS or a thread pool whose order of summation could vary, so that results do not depend on
the number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

_FWHM_PER_KNOT = 1.36
_SPLINE_POWER = 151 / 315


def smooth_field(shape: Sequence[int], spacing_mm: Sequence[float], fwhm_mm: float, rng: np.random.Generator) -> Array:
    """A Gaussian random field of mean 0 and variance 1: white noise on the knots of a cubic B-spline.

    A cubic B-spline has the variance of a Gaussian of sigma `knots / sqrt(3)`, hence knots every `fwhm / 1.36`; its
    squared integral is 151/315 per axis, by which the variance is scaled. One knot is never less than a voxel.

    Args:
        shape: (x, y, z) voxels.
        spacing_mm: voxel size.
        fwhm_mm: width of the smoothing kernel.
        rng: source of the noise.
    """
    step = [max(1.0, fwhm_mm / _FWHM_PER_KNOT / mm) for mm in spacing_mm]
    noise = rng.standard_normal(knots(shape, step), np.float32)
    return upsample(noise * np.float32(_SPLINE_POWER**-1.5), step, shape)


def knots(shape: Sequence[int], step: Sequence[float]) -> tuple[int, ...]:
    """How many spline knots cover `shape` voxels; knot k of an axis lies at voxel `(k - 1) * step`."""
    return tuple(int((n - 1) / s) + 4 for n, s in zip(shape, step, strict=True))


def upsample(
    coefficients: Array, step: Sequence[float], shape: Sequence[int], start: Sequence[float] = (0, 0, 0)
) -> Array:
    """Evaluate a cubic B-spline at the voxels of a box, one axis at a time.

    Args:
        coefficients: one per knot, at least those that `knots` asks for.
        step: knot distance in voxels along each axis.
        shape: (x, y, z) voxels of the box.
        start: position of its first voxel.
    """
    values = coefficients
    for axis in (0, 1, 2):
        position = (start[axis] + np.arange(shape[axis])) / step[axis]
        first = position.astype(np.intp)
        t = position - first
        taps = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
        along = tuple(-1 if i == axis else 1 for i in range(3))
        weights = [(tap / 6).astype(np.float32).reshape(along) for tap in taps]
        result = values.take(first, axis) * weights[0]
        for k in (1, 2, 3):
            result += values.take(first + k, axis) * weights[k]
        values = result
    return values


def sample(volume: NDArray[Any], voxels: Array, *, nearest: bool = False) -> Array:
    """Values of a volume at fractional voxel positions (3, x, y, z); beyond its edge the edge is repeated."""
    from scipy import ndimage

    order, dtype = (0, volume.dtype) if nearest else (1, np.float32)
    result: Array = ndimage.map_coordinates(volume, voxels, dtype, order, mode="nearest", prefilter=False)
    return result


def blur(volume: NDArray[Any], sigma_voxels: Sequence[float]) -> Array:
    """Gaussian smoothing; an axis of sigma 0 is left alone."""
    from scipy import ndimage

    result: Array = ndimage.gaussian_filter(volume, sigma_voxels, output=np.float32, mode="nearest", truncate=3)
    return result


def step_up(values: Array, width: float) -> Array:
    """A smooth step from 0 to 1 where `values` crosses 0, about `width` wide on each side."""
    from scipy.special import expit

    result: Array = expit(values / np.float32(width))
    return result


def gradient_norm(volume: Array, spacing_mm: Sequence[float]) -> Array:
    """Length of the gradient, per millimetre."""
    total = np.zeros_like(volume)
    for axis, mm in enumerate(spacing_mm):
        slope = np.gradient(volume, np.float32(mm), axis=axis)
        total += slope * slope
    return np.sqrt(total, out=total)


def signed_distance_mm(mask: NDArray[np.bool_], spacing_mm: Sequence[float]) -> Array:
    """Distance to the surface of a mask (Maurer 2003, IEEE PAMI 25:265): above 0 inside, 0 at its border voxels."""
    import SimpleITK as sitk  # noqa: N813

    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    image.SetSpacing([float(mm) for mm in reversed(spacing_mm)])
    distance = sitk.SignedMaurerDistanceMap(image, insideIsPositive=True, squaredDistance=False, useImageSpacing=True)
    result: Array = sitk.GetArrayFromImage(distance)
    return result
