"""From a voxel of the new head to a point of the template: pose, size, and a random diffeomorphism."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from segkit_phantom.fields import Array, knots, sample, smooth_field, upsample

Box = tuple[slice, slice, slice]

_KNOT_MM = 6.0
_SQUARINGS = 6
_WARPS = ((60.0, 2.4), (26.0, 1.3))
_ROTATION_SD_DEG = (3.0, 2.0, 3.0)
_SHIFT_SD_MM = 2.0
_ANISOTROPY_SD = 0.02


class Deformation:
    """Where each voxel of a head lies in the template.

    Pose and size are affine; shape comes from the sum of two smooth stationary velocity fields (60 and 26 mm wide, 2.4
    and 1.3 mm strong: engineering choices), whose exponential is a diffeomorphism (scaling and squaring: Arsigny 2006,
    MICCAI). All of it is smooth, so it is kept on knots 6 mm apart and evaluated as a cubic B-spline where it is
    needed.

    Args:
        shape: (x, y, z) voxels of the head.
        spacing_mm: their size.
        scale: mean size of the head relative to the template.
        scale_sd: its spread between heads.
        centre_mm: template point (MNI millimetres) at the centre of the grid, before the random shift.
        rng: source of pose and shape.

    Attributes:
        knots_mm: (3, knots) template points of the knots.
    """

    def __init__(
        self,
        shape: Sequence[int],
        spacing_mm: Sequence[float],
        *,
        scale: float,
        scale_sd: float,
        centre_mm: Sequence[float],
        rng: np.random.Generator,
    ) -> None:
        self._shape = tuple(shape)
        self._step = [_KNOT_MM / mm for mm in spacing_mm]
        lattice = knots(shape, self._step)
        sizes = scale * (1 + scale_sd * rng.standard_normal()) * (1 + _ANISOTROPY_SD * rng.standard_normal(3))
        linear = _rotation(np.deg2rad(rng.normal(0, _ROTATION_SD_DEG))) / sizes
        centre = np.asarray(centre_mm) + rng.normal(0, _SHIFT_SD_MM, 3)
        half_mm = (np.array(shape) - 1) / 2 * np.array(spacing_mm)
        head_mm = (np.indices(lattice) - 1) * _KNOT_MM - half_mm.reshape(3, 1, 1, 1) + _diffeomorphism(lattice, rng)
        self.knots_mm: Array = np.stack(
            [centre[i] + sum(linear[i, j] * head_mm[j] for j in range(3)) for i in range(3)]
        ).astype(np.float32)

    def points_mm(self, box: Box) -> Array:
        """Template points (3, x, y, z) of the voxels in a box, in MNI millimetres."""
        return np.stack([self.at_voxels(component, box) for component in self.knots_mm])

    def at_voxels(self, of_knots: Array, box: Box, thin: int = 1) -> Array:
        """Evaluate something smooth, given at the knots, at the voxels in a box.

        Args:
            of_knots: (knots) values.
            box: voxels; where `thin` is above 1, voxels of slices that span as many of the grid's own.
            thin: how many slices of the grid make one of the box.
        """
        step = (*self._step[:2], self._step[2] / thin)
        centre = (thin - 1) / 2 / thin
        start = (box[0].start, box[1].start, box[2].start + centre)
        return upsample(of_knots, step, [side.stop - side.start for side in box], start)

    def bounding_box(self, of_knots: NDArray[np.bool_]) -> Box:
        """The voxels within one knot of those where something holds."""
        slices = []
        for axis in range(3):
            others = tuple(i for i in range(3) if i != axis)
            where = np.flatnonzero(of_knots.any(others)) - 1
            first, last = (where[0] - 1) * self._step[axis], (where[-1] + 1) * self._step[axis]
            slices.append(slice(max(0, int(first)), min(self._shape[axis], int(last) + 1)))
        return slices[0], slices[1], slices[2]


def _rotation(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    result: NDArray[np.float64] = about_x @ about_y @ about_z
    return result


def _diffeomorphism(lattice: Sequence[int], rng: np.random.Generator) -> Array:
    """Displacement (3, knots) in millimetres: the exponential of a random velocity field."""
    velocity = np.zeros((3, *lattice), np.float32)
    for component in velocity:
        for fwhm_mm, strength_mm in _WARPS:
            component += np.float32(strength_mm) * smooth_field(lattice, [_KNOT_MM] * 3, fwhm_mm, rng)
    here = np.indices(lattice, np.float32)
    moved = velocity / np.float32(_KNOT_MM * 2**_SQUARINGS)
    for _ in range(_SQUARINGS):
        moved = moved + np.stack([sample(component, here + moved) for component in moved])
    return moved * np.float32(_KNOT_MM)
