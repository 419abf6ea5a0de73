"""Checks of image files and their headers that NIfTI and Analyze share: NIfTI's header grew out of Analyze's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.analyze import AnalyzeHeader
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from segkit.errors import VolumeError
from segkit.volume import format_size

MAX_VOLUME_BYTES = 4 * 2**30
"""The largest image, in bytes as stored, that is read; checked in the header before anything is allocated."""

HEADROOM_BYTES = 2**24
"""What a file may hold beside its voxels: the header and its extensions."""

_SPACING_LIMITS_MM = (0.01, 100.0)


def file_size(path: Path) -> int:
    """Return how many bytes a file has.

    Raises:
        VolumeError: it is missing, empty, out of reach, or no regular file.
    """
    try:
        if path.is_dir():
            raise VolumeError(f"expected an image at {path}, found a folder", hint="name the file inside it")
        if path.exists() and not path.is_file():
            raise VolumeError(f"expected an image at {path}, found a device or a pipe", hint="name a regular file")
        size = path.stat().st_size
    except FileNotFoundError:
        raise VolumeError(f"expected an image at {path}, found no such file", hint="check the path") from None
    except (OSError, ValueError) as error:
        raise _cannot_read(path, error) from None
    if not size:
        raise VolumeError(f"expected an image in {path}, found an empty file", hint="copy it again")
    return size


def read_file(path: Path, first: int = -1) -> bytes:
    """Read a file, or its first bytes only.

    Raises:
        VolumeError: see `file_size`; or it is larger than any image that is read.
    """
    size = file_size(path)
    if size > MAX_VOLUME_BYTES + HEADROOM_BYTES:
        raise VolumeError(
            f"expected at most {MAX_VOLUME_BYTES / 2**30:.0f} GiB, found {size / 2**30:.1f} GiB in {path}",
            hint="crop or resample the image",
        )
    try:
        with path.open("rb") as file:
            return file.read(first)
    except OSError as error:
        raise _cannot_read(path, error) from None


def require_3d(header: AnalyzeHeader, path: Path, *, channels: bool = False) -> tuple[tuple[int, int, int], int]:
    """Refuse what is not one 3D image; with `channels`, a fourth axis may hold several.

    Returns:
        The size (x, y, z) in voxels, and the length of the fourth axis.

    Raises:
        VolumeError: it is not.
    """
    dimensions = int(header["dim"][0])
    sizes = [int(n) for n in header["dim"][1 : 1 + max(0, min(dimensions, 7))]]
    if not 3 <= dimensions <= 7 or any(n < 1 for n in sizes):
        raise VolumeError(
            f"expected three dimensions of at least 1 in {path}, found {format_size(sizes) or dimensions}",
            hint="convert it again from its source",
        )
    if any(n > 1 for n in sizes[4 if channels else 3 :]):
        raise VolumeError(
            f"expected a {'3D or 4D' if channels else '3D'} image in {path}, found {len(sizes)}D {format_size(sizes)}",
            hint="split it and give one volume per modality",
        )
    if min(sizes[:3]) < 2:
        raise VolumeError(
            f"expected at least 2 voxels along each axis of {path}, found {format_size(sizes[:3])}",
            hint="give a whole volume, not a slice",
        )
    return (sizes[0], sizes[1], sizes[2]), sizes[3] if len(sizes) > 3 else 1


def require_numbers(header: AnalyzeHeader, path: Path) -> np.dtype[Any]:
    """Return the type of the voxels as stored.

    Raises:
        VolumeError: they are not numbers, or have more bits than the header says.
    """
    code = int(header["datatype"])
    try:
        dtype: np.dtype[Any] = header.get_data_dtype()
    except (KeyError, HeaderDataError):
        dtype = np.dtype("V0")
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        named = f"{dtype} (code {code})" if dtype.itemsize else f"the unknown code {code}"
        raise VolumeError(
            f"expected numbers of at most 64 bits in {path}, found {named}", hint="convert it to int16 or float32"
        )
    if header["bitpix"] != 8 * dtype.itemsize:
        raise VolumeError(
            f"expected {8 * dtype.itemsize} bits per voxel of {dtype.name} in {path}, found {header['bitpix']}",
            hint="its header is damaged: convert it again",
        )
    return dtype


def require_budget(needed: int, path: Path) -> None:
    """Refuse an image of more bytes than are read.

    Raises:
        VolumeError: it is larger than `MAX_VOLUME_BYTES`.
    """
    if needed > MAX_VOLUME_BYTES:
        raise VolumeError(
            f"expected at most {MAX_VOLUME_BYTES / 2**30:.0f} GiB, the header of {path} says {needed / 2**30:.1f} GiB",
            hint="check the header; crop or resample the image",
        )


def require_spacing(header: AnalyzeHeader, path: Path) -> list[float]:
    """Return the voxel size along each axis, as the header says.

    Raises:
        VolumeError: one is not above zero.
    """
    spacing = [float(v) for v in header["pixdim"][1:4]]
    if not all(np.isfinite(v) and v > 0 for v in spacing):
        raise VolumeError(
            f"expected voxel sizes above 0 mm in {path}, found {format_size(spacing)}",
            hint="convert it again from its source",
        )
    return spacing


def require_spacing_of_heads(spacing_mm: Sequence[float], path: Path) -> None:
    """Refuse voxel sizes that no image of a head has: they are in another unit.

    Raises:
        VolumeError: one is out of bounds.
    """
    least, most = _SPACING_LIMITS_MM
    if min(spacing_mm) < least or max(spacing_mm) > most:
        raise VolumeError(
            f"expected voxels of {least:g} to {most:g} mm in {path}, found {format_size(spacing_mm)} mm",
            hint="check its units; convert it again in millimetres",
        )


def require_finite(data: NDArray[Any], path: Path) -> None:
    """Refuse voxels that are NaN or infinite.

    Raises:
        VolumeError: some are.
    """
    if data.dtype.kind != "f":
        return
    with np.errstate(invalid="ignore"):  # what is NaN or infinite anywhere is so at one of the ends
        ends = np.array([data.min(), data.max()])
    if not np.isfinite(ends).all():
        count = int((~np.isfinite(data)).sum())
        raise VolumeError(
            f"expected finite voxels in {path}, found {count:,} of {data.size:,} NaN or infinite",
            hint="replace them, for example with fslmaths -nan",
        )


def _cannot_read(path: Path, error: OSError | ValueError) -> VolumeError:
    return VolumeError(
        f"expected an image at {path}, which cannot be read: {getattr(error, 'strerror', None) or error}",
        hint="check the path and its permissions",
    )
