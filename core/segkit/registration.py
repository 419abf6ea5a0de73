"""Registration of a modality to another one of the same head: as the affines say, or after a rigid search."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from segkit.errors import DataError, VolumeError
from segkit.itk import geometry, one_threaded_simpleitk, to_array, to_image
from segkit.volume import Volume, require_same_grid

_PURPOSE = "registration"
_SHRINK_FACTORS = (4, 2, 1)
_SMOOTHING_VOXELS = (2.0, 1.0, 0.0)
_BINS = 32
_SAMPLES = 50_000
"""Voxels that the metric looks at on each level: more of them cost time and hardly move the result."""

_ITERATIONS = 300
_FIRST_STEP_MM, _LAST_STEP_MM, _RELAXATION = 1.0, 1e-3, 0.7
_METRIC_TOLERANCE = 0.01
"""How much worse the metric may look, as a share of it: the search and its judge sample different voxels."""


def resample(volume: Volume, target: Volume, name: str, target_name: str) -> Volume:
    """Bring a volume onto the grid of another as their affines say, linearly; zero beyond it.

    Voxel B of one image is voxel inv(B) A of the other (thesis, section on registration). A volume that is on that grid
    already comes back untouched.

    Args:
        volume: canonical, intensities of at most `segkit.preprocess.LARGEST`.
        target: the volume whose grid is wanted.
        name: of the volume, for errors.
        target_name: of the target, for errors.

    Raises:
        DataError: they do not overlap.
        UsageError: SimpleITK is not installed.
    """
    try:
        require_same_grid(target, volume, target_name, name)
    except VolumeError:
        pass
    else:
        return volume
    with one_threaded_simpleitk(_PURPOSE) as sitk:
        image, size = to_image(sitk, volume), list(target.shape[::-1])
        same_place = sitk.Transform(3, sitk.sitkIdentity)
        moved = sitk.Resample(image, size, same_place, sitk.sitkLinear, *geometry(target), 0.0, sitk.sitkFloat32)
        data = to_array(sitk, moved)
    if not data.any():
        raise DataError(
            f"expected {name} to overlap {target_name}, found them apart",
            hint="check the affines of both, or whether they show one head",
        )
    return Volume(data, target.affine)


def register(volume: Volume, target: Volume, name: str, target_name: str) -> Volume:
    """Correct the affine of a volume by the rotation and the translation that bring it onto another; no resampling.

    Mattes mutual information (Mattes et al. 2003, doi:10.1109/TMI.2003.809072) over three resolutions, from where the
    affines put the images. The same images give the same bits.

    Args:
        volume: canonical, intensities of at most `segkit.preprocess.LARGEST`.
        target: the volume that stays where it is.
        name: of the volume, for errors.
        target_name: of the target, for errors.

    Raises:
        DataError: the search does not converge, or leads to where the images fit worse than before.
        UsageError: SimpleITK is not installed.
    """
    with one_threaded_simpleitk(_PURPOSE) as sitk:
        fixed, moving = to_image(sitk, target), to_image(sitk, volume)
        found = sitk.Euler3DTransform()
        found.SetCenter(fixed.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in fixed.GetSize()]))
        try:
            before = _judge(sitk, fixed, moving, found)
            _search(sitk, fixed, moving, found, min(target.spacing_mm))
            after = _judge(sitk, fixed, moving, found)
        except RuntimeError as error:
            raise DataError(
                f"expected to register {name} to {target_name}, SimpleITK says: {str(error).strip().splitlines()[-1]}",
                hint="check whether both show the same part of one head, or use --register affine",
            ) from error
        if after > before + _METRIC_TOLERANCE * abs(before):
            raise DataError(
                f"expected the registration of {name} to {target_name} to raise their mutual information from "
                f"{-before:.4f}, found {-after:.4f}",
                hint="check whether both show one head, or use --register affine",
            )
        inverse = found.GetInverse()
        columns = [inverse.TransformPoint(point) for point in np.eye(4)[:, :3].tolist()]
    # The images of the unit points, less that of the origin, are the columns of the rotation.
    motion = np.eye(4)
    motion[:3, 3] = columns[3]
    motion[:3, :3] = np.array(columns[:3]).T - motion[:3, 3:]
    return replace(volume, affine=motion @ volume.affine)


def _method(sitk: Any, transform: Any) -> Any:
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(_BINS)
    # The filters would differentiate every voxel of an image of which few are looked at.
    method.MetricUseFixedImageGradientFilterOff()
    method.MetricUseMovingImageGradientFilterOff()
    method.SetInterpolator(sitk.sitkLinear)
    method.SetInitialTransform(transform, True)
    return method


def _judge(sitk: Any, fixed: Any, moving: Any, transform: Any) -> float:
    """Minus the mutual information over a regular grid of about `_SAMPLES` voxels."""
    factor = max(1, round((math.prod(fixed.GetSize()) / _SAMPLES) ** (1 / 3)))
    return float(_method(sitk, transform).MetricEvaluate(sitk.Shrink(fixed, [factor] * 3), moving))


def _search(sitk: Any, fixed: Any, moving: Any, transform: Any, voxel_mm: float) -> None:
    """Move the transform to where the mutual information is highest."""
    method = _method(sitk, transform)
    method.SetShrinkFactorsPerLevel(_SHRINK_FACTORS)
    method.SetSmoothingSigmasPerLevel([voxels * voxel_mm for voxels in _SMOOTHING_VOXELS])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetMetricSamplingStrategy(method.REGULAR)
    count = math.prod(fixed.GetSize())
    method.SetMetricSamplingPercentagePerLevel(
        [min(1.0, _SAMPLES * factor**3 / count) for factor in _SHRINK_FACTORS], seed=1
    )
    method.SetOptimizerAsRegularStepGradientDescent(
        _FIRST_STEP_MM, _LAST_STEP_MM, _ITERATIONS, relaxationFactor=_RELAXATION, gradientMagnitudeTolerance=1e-8
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.Execute(fixed, moving)
    if method.GetOptimizerIteration() >= _ITERATIONS:
        msg = f"no end of the search within {_ITERATIONS} iterations"
        raise RuntimeError(msg)
