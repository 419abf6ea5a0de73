"""Samplers of `(subject, patch, rng)`: the start corner (x, y, z), in voxels, of a patch of a subject.

The patch lies inside the volume. Along an axis where the volume is smaller than the patch the corner is 0, and core
pads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

if TYPE_CHECKING:
    from segkit.cards import Size
    from segkit.store import PreparedSubject


class Uniform:
    """Every patch that lies in the volume is as likely as any other."""

    def __call__(self, subject: PreparedSubject, patch: Size, rng: Generator) -> Size:
        """Draw a corner."""
        last = _last_corner(subject, patch)
        return _draw(np.zeros_like(last), last, rng)


class NonEmpty:
    """Patches that contain at least one voxel of `subject.nonempty`.

    A voxel is drawn uniformly, then a patch uniformly among those around it that lie in the volume. So no draw is ever
    thrown away, however sparse the labels, and a patch with more tissue is drawn more often than one with little.
    """

    def __call__(self, subject: PreparedSubject, patch: Size, rng: Generator) -> Size:
        """Draw a corner."""
        flat = subject.nonempty[rng.integers(len(subject.nonempty))]
        voxel = np.array(np.unravel_index(flat, subject.shape))
        first = np.maximum(voxel - patch + 1, 0)
        return _draw(first, np.minimum(voxel, _last_corner(subject, patch)), rng)


def _last_corner(subject: PreparedSubject, patch: Size) -> NDArray[np.int64]:
    last: NDArray[np.int64] = np.maximum(np.array(subject.shape, np.int64) - patch, 0)
    return last


def _draw(first: NDArray[np.int64], last: NDArray[np.int64], rng: Generator) -> Size:
    x, y, z = rng.integers(first, last, endpoint=True).tolist()
    return x, y, z
