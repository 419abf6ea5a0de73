"""Volumes: an array and its affine, read strictly and written so that the input's own grid is kept.

Axis order is (X, Y, Z) everywhere; an affine maps voxel indices to millimetres in RAS: x to the right, y to the front,
z up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segkit.errors import VolumeError

_GRID_TOLERANCE_MM = 1e-2

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Header


@dataclass(frozen=True)
class Volume:
    """A 3D image in patient space.

    Attributes:
        data: (X, Y, Z) array.
        affine: (4, 4) float64, voxel indices -> RAS millimetres.
        header: the NIfTI header it was read from, or None; written back so that nothing is lost.
    """

    data: NDArray[Any]
    affine: NDArray[np.float64]
    header: Nifti1Header | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Size (x, y, z) in voxels."""
        x, y, z = self.data.shape
        return x, y, z

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size along each array axis."""
        x, y, z = (float(v) for v in np.sqrt((self.affine[:3, :3] ** 2).sum(0)))
        return x, y, z

    @property
    def orientation(self) -> str:
        """Direction of each array axis, for example "RAS"."""
        from nibabel.orientations import aff2axcodes

        return "".join(aff2axcodes(self.affine))

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000

    def with_data(self, data: NDArray[Any]) -> Volume:
        """The same grid with other voxels.

        Raises:
            ValueError: the shape differs.
        """
        if data.shape != self.data.shape:
            msg = f"expected data of shape {self.data.shape}, got {data.shape}"
            raise ValueError(msg)
        return replace(self, data=data)

    def canonical(self) -> Volume:
        """The same image with its axes flipped and permuted to the nearest RAS: a view, in which no voxel is moved."""
        from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

        orientation = io_orientation(self.affine)
        return Volume(
            apply_orientation(self.data, orientation), self.affine @ inv_ornt_aff(orientation, self.data.shape)
        )

    def on_grid_of(self, original: Volume) -> Volume:
        """Undo `canonical`: this canonical image on the axes, affine and header of the image it came from.

        Args:
            original: the image whose `canonical()` has this grid.
        """
        from nibabel.orientations import io_orientation

        orientation = io_orientation(original.affine)
        axes = orientation[:, 0].astype(int)
        data = np.transpose(self.data, axes)
        for axis, flip in enumerate(orientation[:, 1]):
            if flip < 0:
                data = np.flip(data, axis)
        return original.with_data(in_file_order(data))


def in_file_order(data: NDArray[Any]) -> NDArray[Any]:
    """The same voxels (X, Y, Z) laid out as NIfTI files are, x fastest; copied only if they are not.

    Plane by plane, so that what is read and what is written both stay in the cache.
    """
    if data.flags.f_contiguous:
        return data
    out = np.empty(data.shape, data.dtype, order="F")
    fastest = int(np.argmin(np.abs(data.strides)))
    across = next(axis for axis in (2, 1) if axis != fastest)
    for source, target in zip(np.moveaxis(data, across, 0), np.moveaxis(out, across, 0), strict=True):
        target[...] = source
    return out


def require_same_grid(first: Volume, second: Volume, first_name: str, second_name: str) -> None:
    """Refuse two volumes whose voxels are not at the same places.

    Raises:
        VolumeError: shapes differ, or some corner lies further apart than a hundredth of a millimetre.
    """
    if first.shape != second.shape:
        raise VolumeError(
            f"expected {second_name} on the grid of {first_name} {format_size(first.shape)}, "
            f"found {format_size(second.shape)}",
            hint="resample one to the other first, or train with --register affine",
        )
    apart_mm = corners_apart_mm(first.affine, second.affine, first.shape)
    if apart_mm > _GRID_TOLERANCE_MM:
        raise VolumeError(
            f"expected {second_name} on the grid of {first_name}, found their corners {apart_mm:.2f} mm apart",
            hint="resample one to the other first, or train with --register affine",
        )


def corners_apart_mm(first: NDArray[np.float64], second: NDArray[np.float64], shape: tuple[int, int, int]) -> float:
    """How far apart two affines put a corner of the volume, along the axis where it is furthest."""
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape], [1])).reshape(4, -1)
    return float(np.abs((first - second) @ corners).max())


def format_size(sizes: Sequence[float]) -> str:
    """Sizes or spacings as people write them: 64x64x32."""
    return "x".join(f"{n:g}" for n in sizes)
