"""From images as read to what a network takes: the same few lines for training, evaluation and the runtime.

The steps, in order: registration to the first modality, bias-field correction, normalisation. What was chosen is stored
with every run and in every bundle, so that beside a scanner the very same is done.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from segkit.errors import DataError
from segkit.volume import Volume, require_same_grid

LARGEST = 1e18
"""The largest intensity that is taken; its square still fits into float32."""


class Preprocessing(BaseModel):
    """How images are prepared for a network.

    Attributes:
        registration: "none" refuses images that do not share the grid of the first modality; "affine" resamples them
            to it through their affines (thesis: voxel B = inv(B) A voxel A); "rigid" finds the rotation and the
            translation that are left first.
        bias_correction: "n4" divides each modality by its bias field (Tustison et al. 2010,
            doi:10.1109/TMI.2010.2046908).
        normalisation: "zscore-nonzero" takes mean and standard deviation over the voxels that are not zero.
        background: where voxels of zero intensity go. "zero" leaves them at zero, under z-score the brain's mean;
            "mask" does the same and tells the network with one more channel, 1 in the head and 0 outside; "below"
            applies the formula of the z-score to them too, so they lie below every tissue.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    registration: Literal["none", "affine", "rigid"] = "none"
    bias_correction: Literal["none", "n4"] = "none"
    normalisation: Literal["zscore-nonzero", "none"] = "zscore-nonzero"
    background: Literal["mask", "zero", "below"] = "mask"

    def channels(self, modalities: int) -> int:
        """Number of channels that a network gets of so many modalities."""
        return modalities + (self.background == "mask")

    def describe(self) -> str:
        """One line for people."""
        steps = {"registration": self.registration, "bias correction": self.bias_correction}
        taken = [f"{step} {how}" for step, how in steps.items() if how != "none"]
        return ", ".join([*taken, f"normalisation {self.normalisation}, background {self.background}"])


def preprocess(
    volumes: Sequence[Volume], modalities: Sequence[str], how: Preprocessing
) -> tuple[list[Volume], NDArray[np.float32], NDArray[np.bool_]]:
    """Preprocess the modalities of one head.

    Args:
        volumes: canonical, in channel order.
        modalities: their names, for errors.
        how: the steps.

    Returns:
        The volumes on the grid of the first, before normalisation; images (C, X, Y, Z), normalised, the mask as the
        last channel if it is one; and the mask (X, Y, Z) of the voxels where any modality is not zero.

    Raises:
        VolumeError: the grids disagree, and registration is off.
        DataError: intensities do not fit into float32, or registration or bias correction fails.
        UsageError: SimpleITK is needed and not installed.
    """
    for name, volume in zip(modalities, volumes, strict=True):
        _require_range(volume.data, name)
    first, *others = volumes
    further = list(zip(others, modalities[1:], strict=True))
    if how.registration != "none":
        from segkit.registration import register, resample

        if how.registration == "rigid":
            further = [(register(volume, first, name, modalities[0]), name) for volume, name in further]
        further = [(resample(volume, first, name, modalities[0]), name) for volume, name in further]
    for volume, name in further:
        require_same_grid(first, volume, modalities[0], name)
    aligned = [first, *(volume for volume, _ in further)]
    if how.bias_correction == "n4":
        from segkit.bias import correct_bias

        aligned = [correct_bias(volume, name) for volume, name in zip(aligned, modalities, strict=True)]
    mask = np.logical_or.reduce([volume.data != 0 for volume in aligned])
    return aligned, stack_channels([normalise(volume.data, how) for volume in aligned], mask, how), mask


def stack_channels(
    images: Sequence[NDArray[np.float32]], mask: NDArray[np.bool_], how: Preprocessing
) -> NDArray[np.float32]:
    """The channels of a network's input, (C, X, Y, Z): normalised modalities, and the mask if it is one of them."""
    return np.stack([*images, mask.astype(np.float32)] if how.background == "mask" else images)


def _require_range(data: NDArray[Any], name: str) -> None:
    low, high = float(data.min()), float(data.max())
    if not (low >= -LARGEST and high <= LARGEST):
        raise DataError(
            f"expected intensities of at most {LARGEST:g} in {name}, found {low:g} to {high:g}",
            hint="scale the image first",
        )


def normalise(data: NDArray[Any], how: Preprocessing) -> NDArray[np.float32]:
    """Normalise one modality of one volume.

    The moments are gathered plane by plane in float64, while a plane is in the cache, and merged (Chan et al. 1983,
    doi:10.1080/00031305.1983.10483115).

    Args:
        data: (X, Y, Z) intensities of at most `LARGEST`.
        how: names the normalisation and the place of the background.

    Returns:
        (X, Y, Z) float32.
    """
    if how.normalisation == "none":
        return data.astype(np.float32)
    count, mean, squares = 0, 0.0, 0.0
    for plane in data:
        inside = plane[plane != 0].astype(np.float64)
        if inside.size:
            own_mean = float(inside.mean())
            inside -= own_mean
            both = count + inside.size
            squares += float(np.square(inside, out=inside).sum()) + (own_mean - mean) ** 2 * count * inside.size / both
            mean += (own_mean - mean) * inside.size / both
            count = both
    std = math.sqrt(squares / max(count, 1))
    # Of equal voxels, only the rounding of their mean would be left to divide by.
    scale = 1 / std if std > 1e-12 * abs(mean) else 1.0
    scaled = np.empty(data.shape, np.float32)
    for plane, out in zip(data, scaled, strict=True):
        np.multiply(np.subtract(plane, mean, dtype=np.float64), scale, out=out, casting="same_kind")
        if how.background != "below":
            out[plane == 0] = 0
    return scaled
