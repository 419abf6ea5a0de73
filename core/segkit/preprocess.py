"""From images as read to what a network takes: the same few lines for training, evaluation and the runtime.

The steps, in order: registration to the first modality, bias-field correction, normalisation. What was chosen is stored
with every run and in every bundle, so that beside a scanner the very same is done.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from segkit.cards import Size
from segkit.errors import DataError
from segkit.patches import repeat_edges
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
) -> tuple[list[Volume], Channels]:
    """Preprocess the modalities of one head.

    Args:
        volumes: canonical, in channel order.
        modalities: their names, for errors.
        how: the steps.

    Returns:
        The volumes on the grid of the first, before normalisation; and what a network gets of them.

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
    return aligned, Channels([volume.data for volume in aligned], how)


def stack_channels(
    images: Sequence[NDArray[np.float32]], mask: NDArray[np.bool_], how: Preprocessing
) -> NDArray[np.float32]:
    """The channels of a network's input, (C, X, Y, Z): normalised modalities, and the mask if it is one of them."""
    return np.stack([*images, mask.astype(np.float32)] if how.background == "mask" else images)


def _require_range(data: NDArray[Any], name: str) -> None:
    if data.dtype.kind in "iu" and data.dtype.itemsize < 8:
        return
    low, high = float(data.min()), float(data.max())
    if not (low >= -LARGEST and high <= LARGEST):
        raise DataError(
            f"expected intensities of at most {LARGEST:g} in {name}, found {low:g} to {high:g}",
            hint="scale the image first",
        )


@dataclass(frozen=True)
class Scaling:
    """How intensities of a modality become what a network takes: (value - mean) * scale, in float64, then float32.

    Attributes:
        mean: what becomes zero.
        scale: what the rest is multiplied with.
        keeps_zero: whether zero stays zero.
    """

    mean: float = 0.0
    scale: float = 1.0
    keeps_zero: bool = False

    def apply(self, data: NDArray[Any], out: NDArray[np.float32]) -> None:
        """Scale intensities (X, Y, Z) into `out`, plane by plane, while it is in the cache.

        The planes lie across y: in a file x is fastest, in `out` z, and each plane has both.
        """
        for y in range(data.shape[1]):
            plane, scaled = np.ascontiguousarray(data[:, y]), out[:, y]
            wide = np.subtract(plane, self.mean, dtype=np.float64)
            np.multiply(wide, self.scale, out=scaled, casting="same_kind")
            if self.keeps_zero:
                np.copyto(scaled, 0, where=plane == 0)


class Channels:
    """What a network gets of one head. The images stay as they were read: each patch is normalised as it is cut.

    Args:
        images: each modality (X, Y, Z), intensities of at most `LARGEST`, in channel order.
        how: how they are normalised.

    Attributes:
        mask: (X, Y, Z), the voxels where any modality is not zero.
        shape: (C, X, Y, Z); the mask is the last channel where preprocessing says so.
    """

    def __init__(self, images: Sequence[NDArray[Any]], how: Preprocessing) -> None:
        self.mask: NDArray[np.bool_] = images[0] != 0
        for image in images[1:]:
            np.logical_or(self.mask, image, out=self.mask)
        self.shape: tuple[int, ...] = (how.channels(len(images)), *self.mask.shape)
        self._images = images
        self._scalings = [find_scaling(image, how) for image in images]

    def cut(self, start: Size, out: NDArray[np.float32]) -> None:
        """Write the patch at `start` into `out` (C, *patch); beyond the volume the edge voxel is repeated."""
        x, y, z = (slice(first, first + side) for first, side in zip(start, out.shape[1:], strict=True))
        mask = self.mask[x, y, z]
        a, b, c = mask.shape
        inside = out[:, :a, :b, :c]
        for image, scaling, channel in zip(self._images, self._scalings, inside, strict=False):
            scaling.apply(image[x, y, z], channel)
        if len(out) > len(self._images):
            for plane in range(b):  # as in `Scaling.apply`
                inside[-1, :, plane] = mask[:, plane]
        repeat_edges(out, (a, b, c))

    def whole(self) -> NDArray[np.float32]:
        """All of it at once, (C, X, Y, Z)."""
        out = np.empty(self.shape, np.float32)
        self.cut((0, 0, 0), out)
        return out


def normalise(data: NDArray[Any], how: Preprocessing) -> NDArray[np.float32]:
    """Normalise one modality (X, Y, Z) of one volume; its intensities are at most `LARGEST`."""
    scaled = np.empty(data.shape, np.float32)
    find_scaling(data, how).apply(data, scaled)
    return scaled


def find_scaling(data: NDArray[Any], how: Preprocessing) -> Scaling:
    """Mean and standard deviation of the voxels that are not zero, as a scaling.

    Args:
        data: (X, Y, Z) intensities of at most `LARGEST`.
        how: names the normalisation and the place of the background.
    """
    if how.normalisation == "none":
        return Scaling()
    mean, std = _exact_moments(data) if data.dtype.kind in "iu" and data.dtype.itemsize <= 2 else _moments(data)
    # Of equal voxels, only the rounding of their mean would be left to divide by.
    scale = 1 / std if std > 1e-12 * abs(mean) else 1.0
    return Scaling(mean, scale, how.background != "below")


def _exact_moments(data: NDArray[Any]) -> tuple[float, float]:
    """Mean and standard deviation of non-zero voxels of at most 16 bits: float64 holds a plane's sums as they are."""
    count = total = squares = 0
    for plane in _planes(data):
        values = plane.astype(np.float64)
        count += int(np.count_nonzero(plane))
        total += int(values.sum())
        squares += int(np.einsum("i,i->", values, values))
    count = max(count, 1)
    return total / count, math.sqrt(count * squares - total**2) / count


def _moments(data: NDArray[Any]) -> tuple[float, float]:
    """Mean and standard deviation of non-zero voxels, gathered plane by plane in float64 and merged.

    Source: Chan et al. 1983, doi:10.1080/00031305.1983.10483115.
    """
    count, mean, squares = 0, 0.0, 0.0
    for plane in _planes(data):
        inside = int(np.count_nonzero(plane))
        if not inside:
            continue
        own_mean = float(plane.sum(dtype=np.float64)) / inside
        apart = np.subtract(plane, own_mean, dtype=np.float64)
        apart *= plane != 0
        both = count + inside
        squares += float(np.einsum("i,i->", apart, apart)) + (own_mean - mean) ** 2 * count * inside / both
        mean += (own_mean - mean) * inside / both
        count = both
    return mean, math.sqrt(squares / max(count, 1))


def _planes(data: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Each plane as a line, in the order that they lie in memory."""
    slowest = max(range(3), key=lambda axis: abs(data.strides[axis]))
    return (plane.ravel(order="K") for plane in np.moveaxis(data, slowest, 0))
