"""Samplers of `(subject, patch, rng)`: the start corner (x, y, z), in voxels, of a patch of a subject.

The patch lies inside the volume. Along an axis where the volume is smaller than the patch the corner is 0, and core
pads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from segkit.patches import tile_starts

if TYPE_CHECKING:
    from segkit.cards import Size
    from segkit.store import PreparedSubject


class Uniform:
    """Every patch that lies in the volume is as likely as any other."""

    def __call__(self, subject: PreparedSubject, patch: Size, rng: Generator) -> Size:
        """Draw a corner."""
        axes = zip(rng.random(3).tolist(), subject.shape, patch, strict=True)
        x, y, z = (_pick(chance, 0, _last_start(size, side)) for chance, size, side in axes)
        return x, y, z


class NonEmpty:
    """Patches that contain at least one voxel of `subject.nonempty`.

    A voxel is drawn uniformly, then a patch uniformly among those around it that lie in the volume. So no draw is ever
    thrown away, however sparse the labels, and a patch with more tissue is drawn more often than one with little.
    """

    def __call__(self, subject: PreparedSubject, patch: Size, rng: Generator) -> Size:
        """Draw a corner."""
        return _draw_around(subject.nonempty, subject, patch, rng)


class ClassBalanced:
    """Patches around a voxel of a class, each foreground class that the subject has as likely as any other.

    A class is drawn uniformly, then one of its voxels, then a patch as for `NonEmpty`. So a class of few voxels is
    seen about as often as one of many.
    """

    def __call__(self, subject: PreparedSubject, patch: Size, rng: Generator) -> Size:
        """Draw a corner."""
        classes = [index for index, count in enumerate(subject.class_counts) if index and count]
        return _draw_around(subject.voxels_of(classes[rng.integers(len(classes))]), subject, patch, rng)


class Grid:
    """The patches of a regular grid over the volume, each as likely: the sub-volumes of inference without overlap.

    Along an axis that is no multiple of the patch, patches are spread evenly and overlap by as little as that takes.
    """

    def __call__(self, subject: PreparedSubject, patch: Size, rng: Generator) -> Size:
        """Draw a corner."""
        axes = zip(subject.shape, patch, strict=True)
        starts = [tile_starts(0, size, max(size, side), side, overlap=0) for size, side in axes]
        x, y, z = (axis[rng.integers(len(axis))] for axis in starts)
        return x, y, z


# In plain numbers: on three of them numpy's arrays take five times as long. And from one call of `random`: one call of
# `integers` for each takes six times as long.


def _draw_around(voxels: NDArray[np.int64], subject: PreparedSubject, patch: Size, rng: Generator) -> Size:
    """Draw one of the voxels, given as flat indices, then a patch among those around it that lie in the volume."""
    chance, chance_x, chance_y, chance_z = rng.random(4).tolist()
    width, height, depth = subject.shape
    column, z = divmod(voxels.item(int(chance * len(voxels))), depth)
    x, y = divmod(column, height)
    return (
        _start_around(chance_x, x, width, patch[0]),
        _start_around(chance_y, y, height, patch[1]),
        _start_around(chance_z, z, depth, patch[2]),
    )


def _start_around(chance: float, at: int, size: int, side: int) -> int:
    """The start of a patch that holds voxel `at`, along one axis."""
    first = at - side + 1 if at >= side else 0
    last = at if at < size - side else _last_start(size, side)
    return _pick(chance, first, last)


def _last_start(size: int, side: int) -> int:
    return max(size - side, 0)


def _pick(chance: float, first: int, last: int) -> int:
    """The whole number from `first` to `last` that a chance from 0 to 1, excluded, falls on.

    Of 10 million numbers each is as likely as any other to one part in 10^9: a chance has 53 bits.
    """
    return first + int(chance * (last - first + 1))
