"""Volumes: an array and its affine, read strictly and written so that the input's own grid is kept.

Axis order is (X, Y, Z) everywhere; an affine maps voxel indices to millimetres in RAS: x to the right, y to the front,
z up.
"""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.nifti1 import Nifti1Header, Nifti1Image
from nibabel.nifti2 import Nifti2Header, Nifti2Image
from nibabel.orientations import aff2axcodes, apply_orientation, inv_ornt_aff, io_orientation
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from segkit.errors import UsageError, VolumeError

MAX_VOLUME_BYTES = 4 * 2**30
"""The largest image, in bytes as stored, that is read; checked in the header before anything is allocated."""

_GRID_TOLERANCE_MM = 1e-2
_SHEAR_TOLERANCE = 1e-3


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
        """The same image with its axes flipped and permuted to the nearest RAS; no voxel is resampled."""
        orientation = io_orientation(self.affine)
        return Volume(
            np.ascontiguousarray(apply_orientation(self.data, orientation)),
            self.affine @ inv_ornt_aff(orientation, self.data.shape),
        )

    def on_grid_of(self, original: Volume) -> Volume:
        """Undo `canonical`: this canonical image on the axes, affine and header of the image it came from.

        Args:
            original: the image whose `canonical()` has this grid.
        """
        orientation = io_orientation(original.affine)
        axes = orientation[:, 0].astype(int)
        data = np.transpose(self.data, axes)
        for axis, flip in enumerate(orientation[:, 1]):
            if flip < 0:
                data = np.flip(data, axis)
        return original.with_data(np.ascontiguousarray(data))


def read_volume(path: str | os.PathLike[str]) -> Volume:
    """Read a 3D NIfTI-1 or NIfTI-2 file (`.nii`, `.nii.gz`), to its last byte and checksum.

    The voxels come as stored, or as float32 where the header scales them.

    Raises:
        VolumeError: the file is missing, truncated, damaged, not NIfTI, not 3D, larger than `MAX_VOLUME_BYTES`,
            or its affine or voxels are not finite and usable.
    """
    path = Path(path)
    header, payload = _read_header(path)
    shape = _require_3d(header, path)
    dtype = header.get_data_dtype()
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise VolumeError(
            f"expected numbers of at most 64 bits in {path}, found {dtype}", hint="convert it to int16 or float32"
        )
    needed = int(np.prod(shape)) * dtype.itemsize
    if needed > MAX_VOLUME_BYTES:
        raise VolumeError(
            f"expected at most {MAX_VOLUME_BYTES / 2**30:.0f} GiB, the header of {path} says {needed / 2**30:.1f} GiB",
            hint="check the header; crop or resample the image",
        )
    offset = header["vox_offset"]
    if not np.isfinite(offset) or offset < header["sizeof_hdr"]:
        raise VolumeError(
            f"expected the voxels of {path} after its header, found offset {offset:g}", hint="convert it again"
        )
    body = payload.read_from(int(offset), needed)
    data = np.frombuffer(body, dtype).reshape(shape, order="F")
    slope, intercept = _scaling(header, path)
    if dtype.kind == "f" and not np.isfinite(data).all():
        count = int((~np.isfinite(data)).sum())
        raise VolumeError(
            f"expected finite voxels in {path}, found {count:,} of {data.size:,} NaN or infinite",
            hint="replace them, for example with fslmaths -nan",
        )
    if (slope, intercept) != (1.0, 0.0):
        data = data.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    return Volume(
        data.astype(dtype.newbyteorder("="), copy=False) if data.dtype == dtype else data, _affine(header, path), header
    )


def write_volume(path: str | os.PathLike[str], volume: Volume) -> None:
    """Write a NIfTI file in one step: the whole file or none.

    The header the volume was read with is kept (sform, qform, units); its scaling is dropped.

    Raises:
        UsageError: the name does not end in .nii or .nii.gz.
    """
    path = Path(path)
    require_nifti_name(path)
    kind = Nifti2Image if isinstance(volume.header, Nifti2Header) else Nifti1Image
    image = kind(volume.data, volume.affine, volume.header)
    if volume.header is not None:
        image.header["sform_code"], image.header["qform_code"] = (
            volume.header["sform_code"],
            volume.header["qform_code"],
        )
        for field in (
            "quatern_b",
            "quatern_c",
            "quatern_d",
            "qoffset_x",
            "qoffset_y",
            "qoffset_z",
            "srow_x",
            "srow_y",
            "srow_z",
        ):
            image.header[field] = volume.header[field]
        image.header["pixdim"][:4] = volume.header["pixdim"][:4]
    image.header.set_slope_inter(1, 0)
    image.header.set_data_dtype(volume.data.dtype)
    image.header["cal_min"] = image.header["cal_max"] = 0
    payload = image.to_bytes()
    if path.name.endswith(".gz"):
        payload = gzip.compress(payload, compresslevel=1, mtime=0)
    write_bytes(path, payload)


def write_bytes(path: Path, payload: bytes) -> None:
    """Write a file in one step: a reader sees the old file or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(payload)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def require_nifti_name(path: Path) -> None:
    """Refuse a file name that does not say NIfTI.

    Raises:
        UsageError: the name does not end in .nii or .nii.gz.
    """
    if not path.name.endswith((".nii", ".nii.gz")):
        raise UsageError(f"expected a name that ends in .nii or .nii.gz, got {path.name!r}", hint="add the ending")


def require_same_grid(first: Volume, second: Volume, first_name: str, second_name: str) -> None:
    """Refuse two volumes whose voxels are not at the same places.

    Raises:
        VolumeError: shapes differ, or some corner lies further apart than a hundredth of a millimetre.
    """
    if first.shape != second.shape:
        raise VolumeError(
            f"expected {second_name} on the grid of {first_name} {_by(first.shape)}, found {_by(second.shape)}",
            hint="resample one to the other first",
        )
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in first.shape], [1])).reshape(4, -1)
    apart_mm = float(np.abs((first.affine - second.affine) @ corners).max())
    if apart_mm > _GRID_TOLERANCE_MM:
        raise VolumeError(
            f"expected {second_name} on the grid of {first_name}, found their corners {apart_mm:.2f} mm apart",
            hint="register and resample one to the other first",
        )


class _Payload:
    """The bytes of a file, inflated to the end so that a gzip checksum is always reached."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            raise VolumeError(f"expected an image at {path}, found no such file") from None
        except IsADirectoryError:
            raise VolumeError(f"expected an image at {path}, found a folder", hint="name the file inside it") from None
        if not raw:
            raise VolumeError(f"expected an image in {path}, found an empty file", hint="copy it again")
        zipped = raw[:2] == b"\x1f\x8b"
        if zipped != path.name.endswith(".gz"):
            found = "gzip data in a file not named .gz" if zipped else "no gzip data in a file named .gz"
            raise VolumeError(f"expected the name of {path} to fit its content, found {found}", hint="rename the file")
        self.raw = raw
        self.zipped = zipped

    def head(self, count: int) -> bytes:
        """The first bytes, without inflating the rest."""
        if not self.zipped:
            return self.raw[:count]
        try:
            return zlib.decompressobj(wbits=31).decompress(self.raw, count)
        except zlib.error as error:
            raise self._damaged(str(error)) from None

    def read_from(self, offset: int, count: int) -> bytes:
        """Exactly `count` bytes from `offset`; the whole stream is checked."""
        if self.zipped:
            stream = gzip.GzipFile(fileobj=BytesIO(self.raw))
            try:
                content = stream.read(offset + count)
                while stream.read(2**20):
                    pass
            except EOFError:
                raise VolumeError(
                    f"expected a whole gzip stream in {self.path}, found that it ends early", hint="copy it again"
                ) from None
            except (zlib.error, gzip.BadGzipFile) as error:
                raise self._damaged(str(error)) from None
        else:
            content = self.raw
        if len(content) < offset + count:
            raise VolumeError(
                f"expected {count:,} bytes of voxels in {self.path}, found {max(0, len(content) - offset):,}",
                hint="the file is truncated: copy it again",
            )
        return content[offset : offset + count]

    def _damaged(self, detail: str) -> VolumeError:
        return VolumeError(f"expected an intact gzip stream in {self.path}, found: {detail}", hint="copy it again")


def _read_header(path: Path) -> tuple[Nifti1Header, _Payload]:
    payload = _Payload(path)
    head = payload.head(540)
    kinds = {348: Nifti1Header, 540: Nifti2Header}
    for byteorder in ("little", "big"):
        kind = kinds.get(int.from_bytes(head[:4], byteorder))
        if kind is None:
            continue
        size = kind.sizeof_hdr
        magic = head[344:347] if size == 348 else head[4:7]
        if len(head) < size or magic not in (b"n+1", b"n+2"):
            break
        try:
            return kind(head[:size], endianness="<" if byteorder == "little" else ">", check=False), payload
        except (HeaderDataError, ValueError):
            break
    raise VolumeError(
        f"expected a NIfTI file (.nii, .nii.gz) at {path}, found something else",
        hint="convert it, for example with dcm2niix",
    )


def _require_3d(header: Nifti1Header, path: Path) -> tuple[int, int, int]:
    dimensions = int(header["dim"][0])
    sizes = [int(n) for n in header["dim"][1 : 1 + max(0, min(dimensions, 7))]]
    if not 3 <= dimensions <= 7 or any(n < 1 for n in sizes):
        raise VolumeError(f"expected three dimensions of at least 1 in {path}, found {_by(sizes) or dimensions}")
    if any(n > 1 for n in sizes[3:]):
        raise VolumeError(
            f"expected a 3D image in {path}, found {len(sizes)}D {_by(sizes)}",
            hint="split it and give one volume per modality",
        )
    if min(sizes[:3]) < 2:
        raise VolumeError(f"expected at least 2 voxels along each axis of {path}, found {_by(sizes[:3])}")
    return sizes[0], sizes[1], sizes[2]


def _scaling(header: Nifti1Header, path: Path) -> tuple[float, float]:
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0:
        return 1.0, 0.0
    if not (np.isfinite(slope) and np.isfinite(intercept)):
        raise VolumeError(f"expected a finite scaling in {path}, found slope {slope:g}, intercept {intercept:g}")
    return slope, intercept


def _affine(header: Nifti1Header, path: Path) -> NDArray[np.float64]:
    spacing = [float(v) for v in header["pixdim"][1:4]]
    if not all(np.isfinite(v) and v > 0 for v in spacing):
        raise VolumeError(
            f"expected voxel sizes above 0 mm in {path}, found {_by(spacing)}", hint="convert it again from its source"
        )
    if header["sform_code"] == 0 and header["qform_code"] == 0:
        raise VolumeError(
            f"expected an orientation in {path}, found neither sform nor qform",
            hint="set one, for example with fslorient",
        )
    try:
        affine = np.asarray(header.get_best_affine(), np.float64)
    except (ValueError, HeaderDataError) as error:
        raise VolumeError(f"expected a usable orientation in {path}, found: {error}", hint="convert it again") from None
    linear = affine[:3, :3]
    norms = np.sqrt((linear**2).sum(0))
    if not np.isfinite(affine).all() or (norms < 1e-6).any():
        raise VolumeError(
            f"expected a finite, invertible affine in {path}, found {linear.round(3).tolist()}", hint="convert it again"
        )
    directions = linear / norms
    skew = float(np.abs(directions.T @ directions - np.eye(3)).max())
    if skew > _SHEAR_TOLERANCE:
        raise VolumeError(f"expected orthogonal axes in {path}, found a shear of {skew:.1%}", hint="resample it first")
    return affine


def _by(sizes: Sequence[float]) -> str:
    return "x".join(f"{n:g}" for n in sizes)
