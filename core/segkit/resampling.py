"""Other voxel sizes along the same axes: images onto the spacing that a network knows, its labels back.

Linear interpolation, one axis after the other; where voxels become coarser the kernel is as much wider, so that what is
finer than they are is averaged, not aliased. Both grids share their centre.

No matrices are multiplied: a few products are added in one order, so that the same image gives the same bits on every
machine. On a busy one, the threads of a matrix library would wait for each other most of the time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.errors import VolumeError
from segkit.imagefile import MAX_VOLUME_BYTES
from segkit.volume import Volume, format_size

_PLANES = 16
"""Planes that are worked on at once: few, for the memory; not one, since a file's x lies next to each other."""

_SPACING_DIGITS = 4
"""Of a voxel size in mm: what a header rounds beyond them would decide between labels that are equally likely."""


def to_spacing(volume: Volume, spacing_mm: tuple[float, float, float], name: str) -> Volume:
    """Resample an image to voxels of another size, about the same centre and over at least the same extent.

    Voxels of zero are outside of what was kept of the head: they do not darken its rim, and what is closer to them
    than to the head stays zero.

    Args:
        volume: (X, Y, Z) intensities.
        spacing_mm: the wanted voxel size along each array axis.
        name: of the volume, for errors.

    Returns:
        (X', Y', Z') float32.

    Raises:
        VolumeError: the result would be larger than any image that is read.
    """
    sides = _sides_mm(volume)
    # A hundredth of a voxel more is rounding, not one more voxel.
    extents = [n * side / wanted for n, side, wanted in zip(volume.shape, sides, spacing_mm, strict=True)]
    shape = tuple(max(1, math.ceil(extent - 0.01)) for extent in extents)
    if 4 * math.prod(shape) > MAX_VOLUME_BYTES:
        raise VolumeError(
            f"expected at most {MAX_VOLUME_BYTES / 2**30:.0f} GiB of {name} at {format_size(spacing_mm)} mm, "
            f"its {format_size(volume.shape)} voxels of {format_size(sides)} mm make {format_size(shape)}",
            hint="crop or resample the image first",
        )
    steps = [wanted / side for wanted, side in zip(spacing_mm, sides, strict=True)]
    out = np.empty(shape, np.float32)
    for part in _parts(volume.shape, shape, steps):
        slab = part.cut(volume.data)
        values = part.resample(slab)
        if not slab.all():
            inside = part.resample(slab != 0)
            values /= np.maximum(inside, 0.5)
            values[inside < 0.5] = 0
        out[part.planes] = values
    start = [(n - 1) / 2 - (m - 1) / 2 * step for n, m, step in zip(volume.shape, shape, steps, strict=True)]
    moved = np.diag([*steps, 1.0])
    moved[:3, 3] = start
    return Volume(out, volume.affine @ moved)


def labels_onto(labels: Volume, target: Volume) -> Volume:
    """Bring labels back onto the grid that their image was resampled from: the likeliest class of each voxel.

    Each class is interpolated by itself and the largest share wins, the lower class of equals. The nearest label alone
    would leave steps as wide as the network's voxels along every border.

    Args:
        labels: (X', Y', Z') uint8 class indices, on the grid of a `to_spacing`.
        target: the volume that it was made of.

    Returns:
        (X, Y, Z) uint8 on the grid of `target`.
    """
    steps = [wanted / side for wanted, side in zip(_sides_mm(target), _sides_mm(labels), strict=True)]
    out = np.zeros(target.shape, np.uint8)
    for part in _parts(labels.shape, target.shape, steps):
        slab = part.cut(labels.data)
        first, *others = np.unique(slab)
        out[part.planes] = first
        if others:
            most = part.resample(slab == first)
        for label in others:
            share = part.resample(slab == label)
            np.copyto(out[part.planes], label, where=share > most)
            np.maximum(most, share, out=most)
    return Volume(out, target.affine)


def _sides_mm(volume: Volume) -> tuple[float, float, float]:
    x, y, z = (round(side, _SPACING_DIGITS) for side in volume.spacing_mm)
    return x, y, z


@dataclass(frozen=True)
class _Axis:
    """What the voxels along one axis are made of.

    Attributes:
        sources: (T, M), for each of M voxels the T others that it takes from; beyond the end lies the last voxel.
        weights: (T, M) float32, how much of each; they add up to 1.
    """

    sources: NDArray[np.intp]
    weights: NDArray[np.float32]

    @classmethod
    def between(cls, count: int, wanted: int, step: float) -> _Axis:
        """Of `wanted` voxels that share their centre with `count` others and are `step` times as long."""
        at = (np.arange(wanted) - (wanted - 1) / 2) * step + (count - 1) / 2
        reach = max(1.0, step)
        taps = np.ceil(at - reach).astype(np.intp) + np.arange(math.ceil(2 * reach) + 1)[:, None]
        weights = np.maximum(0, 1 - np.abs(at - taps) / reach)
        used = weights.any(1)
        shares = (weights / weights.sum(0))[used].astype(np.float32)
        return cls(taps[used].clip(0, count - 1), shares)

    def __getitem__(self, planes: slice) -> _Axis:
        return _Axis(self.sources[:, planes], self.weights[:, planes])

    def resample(self, data: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
        """Resample along one axis of three."""
        along = [1, 1, 1]
        along[axis] = -1
        shape = (*data.shape[:axis], self.weights.shape[1], *data.shape[axis + 1 :])
        total, part = np.empty(shape, np.float32), np.empty(shape, np.float32)
        for number, (sources, weights) in enumerate(zip(self.sources, self.weights, strict=True)):
            into = part if number else total
            np.take(data, sources, axis, out=into, mode="clip")
            into *= weights.reshape(along)
            if number:
                total += part
        return total


@dataclass(frozen=True)
class _Part:
    """Some planes of the result, and the planes they are made of."""

    planes: slice
    sources: slice
    axes: tuple[_Axis, _Axis, _Axis]

    def cut(self, data: NDArray[Any]) -> NDArray[Any]:
        """What these planes are made of."""
        return np.ascontiguousarray(data[self.sources])

    def resample(self, slab: NDArray[Any]) -> NDArray[np.float32]:
        planes = slab.astype(np.float32)
        for number, axis in enumerate(self.axes):
            planes = axis.resample(planes, number)
        return planes


def _parts(shape: tuple[int, ...], wanted: tuple[int, ...], steps: list[float]) -> Iterator[_Part]:
    """The whole way from voxels of one size to those of another, a few planes at a time."""
    x, y, z = (_Axis.between(n, m, step) for n, m, step in zip(shape, wanted, steps, strict=True))
    for start in range(0, wanted[0], _PLANES):
        planes = slice(start, min(start + _PLANES, wanted[0]))
        rows = x[planes]
        first, last = int(rows.sources.min()), int(rows.sources.max())
        yield _Part(planes, slice(first, last + 1), (_Axis(rows.sources - first, rows.weights), y, z))
