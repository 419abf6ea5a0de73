"""Correction of the bias field: the slow change of intensity over a head that the coil makes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from segkit.errors import DataError
from segkit.itk import one_threaded_simpleitk, to_array, to_image
from segkit.volume import Volume

_SHRINK_FACTOR = 4
"""Seven times faster than 2, at a field that differs by 3.5 % of its deviation."""

_ITERATIONS = (50, 50, 50, 50)
_LEAST_BACKGROUND = 0.1
"""Share of zero voxels below which the background of an image is taken to be noise, not zero."""


def correct_bias(volume: Volume, name: str) -> Volume:
    """Divide an image by its bias field, found by N4 (Tustison et al. 2010, doi:10.1109/TMI.2010.2046908).

    The field is fitted to every fourth voxel, over four levels of 50 iterations, where the image is above zero, or
    above Otsu's threshold where it has no zero background. It is applied to every voxel; zero stays zero. The same
    image gives the same bits.

    Args:
        volume: intensities of 0 and more, at most `segkit.preprocess.LARGEST`.
        name: of the modality, for errors.

    Returns:
        The volume with float32 voxels.

    Raises:
        DataError: an intensity is below zero, or the field is not finite.
        UsageError: SimpleITK is not installed.
    """
    lowest = volume.data.min()
    if lowest < 0:
        raise DataError(
            f"expected intensities of 0 and more in {name} for N4, found {lowest:g}",
            hint="use --bias-correction none, or the image as the scanner gave it",
        )
    with one_threaded_simpleitk("bias correction") as sitk:
        image = to_image(sitk, volume)
        factors = [max(1, min(_SHRINK_FACTOR, n // _SHRINK_FACTOR)) for n in image.GetSize()]
        n4 = sitk.N4BiasFieldCorrectionImageFilter()
        n4.SetMaximumNumberOfIterations(_ITERATIONS)
        try:
            n4.Execute(sitk.Shrink(image, factors), sitk.Shrink(_mask(sitk, image, volume), factors))
            field = np.exp(to_array(sitk, n4.GetLogBiasFieldAsImage(image)))
        except RuntimeError as error:
            raise DataError(
                f"expected a bias field of {name}, SimpleITK says: {str(error).strip().splitlines()[-1]}",
                hint="use --bias-correction none",
            ) from error
    if not (math.isfinite(field.min()) and math.isfinite(field.max()) and field.min() > 0):
        raise DataError(
            f"expected a finite bias field of {name}, found {field.min():g} to {field.max():g}",
            hint="check the image, or use --bias-correction none",
        )
    return replace(volume, data=np.divide(volume.data, field, out=field, casting="same_kind"))


def _mask(sitk: Any, image: Any, volume: Volume) -> Any:
    if np.count_nonzero(volume.data) > (1 - _LEAST_BACKGROUND) * volume.data.size:
        return sitk.OtsuThreshold(image, 0, 1)
    return image > 0
