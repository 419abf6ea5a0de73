"""NIfTI files: read strictly, to the last byte, and written in one step."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.nifti1 import Nifti1Header, Nifti1Image
from nibabel.nifti2 import Nifti2Header, Nifti2Image
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from segkit.errors import UsageError, VolumeError
from segkit.files import write_bytes
from segkit.volume import Volume, corners_apart_mm, format_size

MAX_VOLUME_BYTES = 4 * 2**30
"""The largest image, in bytes as stored, that is read; checked in the header before anything is allocated."""

_FORMS_TOLERANCE_MM = 1.0

_SHEAR_TOLERANCE = 1e-3

_SPACING_LIMITS_MM = (0.01, 100.0)

_UNITS = {1: "metres", 2: "millimetres", 3: "micrometres"}

_MAGIC = {348: b"n+1\0", 540: b"n+2\0\r\n\x1a\n"}

_HEADROOM_BYTES = 2**24
"""What a file may hold beside its voxels: the header and its extensions."""


def read_volume(path: str | os.PathLike[str]) -> Volume:
    """Read a 3D NIfTI-1 or NIfTI-2 file (`.nii`, `.nii.gz`), to its last byte and checksum.

    The voxels come as stored, or as float32 where the header scales them. The affine is the sform, or the qform where
    there is no sform.

    Raises:
        VolumeError: the file is missing, truncated, damaged, not NIfTI, not 3D, larger than `MAX_VOLUME_BYTES`,
            longer than its header says, or its affine or voxels are not finite and usable.
    """
    path = Path(path)
    header, payload = _read_header(path)
    shape = _require_3d(header, path)
    dtype = _require_numbers(header, path)
    needed = math.prod(shape) * dtype.itemsize
    if needed > MAX_VOLUME_BYTES:
        raise VolumeError(
            f"expected at most {MAX_VOLUME_BYTES / 2**30:.0f} GiB, the header of {path} says {needed / 2**30:.1f} GiB",
            hint="check the header; crop or resample the image",
        )
    slope, intercept = _scaling(header, path)
    affine = _affine(header, shape, path)
    offset = float(header["vox_offset"])
    if not (offset.is_integer() and header.sizeof_hdr + 4 <= offset <= _HEADROOM_BYTES):
        raise VolumeError(
            f"expected the voxels of {path} soon after its header, found offset {offset:g}", hint="convert it again"
        )
    content = payload.inflate(int(offset) + needed)
    _require_extensions_fit(content[header.sizeof_hdr : int(offset)], header.endianness, path)
    data: NDArray[Any] = np.frombuffer(content, dtype, offset=int(offset)).reshape(shape, order="F")
    data = data.astype(dtype.newbyteorder("="), copy=False)
    if (slope, intercept) != (1.0, 0.0):
        with np.errstate(over="ignore", invalid="ignore"):
            data = data.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    if data.dtype.kind == "f" and not np.isfinite(data).all():
        count = int((~np.isfinite(data)).sum())
        raise VolumeError(
            f"expected finite voxels in {path}, found {count:,} of {data.size:,} NaN or infinite",
            hint="replace them, for example with fslmaths -nan",
        )
    return Volume(data, affine, header)


def write_volume(path: str | os.PathLike[str], volume: Volume) -> None:
    """Write a NIfTI file in one step: the whole file or none.

    The header the volume was read with is kept (sform, qform, units), and its scaling dropped; without one, or with
    one that says another affine, the affine becomes the sform.

    Raises:
        UsageError: the name does not end in .nii or .nii.gz, or the file cannot be written.
        VolumeError: NIfTI cannot hold such voxels.
    """
    path = Path(path)
    require_nifti_name(path)
    kind = Nifti2Image if isinstance(volume.header, Nifti2Header) else Nifti1Image
    dtype = np.dtype(np.uint8) if volume.data.dtype == bool else volume.data.dtype
    if dtype.kind not in "iuf" or dtype.itemsize > 8 or dtype == np.float16:
        raise VolumeError(
            f"expected voxels that NIfTI can hold for {path}, got {dtype}", hint="convert them to uint8 or float32"
        )
    image = kind(volume.data.astype(dtype, copy=False), volume.affine, volume.header, dtype=dtype)
    if volume.header is None:
        image.header.set_xyzt_units("mm")
    image.header.set_slope_inter(1, 0)
    image.header["cal_min"] = image.header["cal_max"] = 0
    payload = image.to_bytes()
    if path.name.endswith(".gz"):
        payload = gzip.compress(payload, compresslevel=1, mtime=0)
    write_bytes(path, payload)


def require_nifti_name(path: Path) -> None:
    """Refuse a file name that does not say NIfTI.

    Raises:
        UsageError: the name does not end in .nii or .nii.gz.
    """
    if not path.name.endswith((".nii", ".nii.gz")):
        raise UsageError(f"expected a name that ends in .nii or .nii.gz, got {path.name!r}", hint="add the ending")


class _Payload:
    """The bytes of a file, inflated to the end so that a gzip checksum is always reached."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            if path.is_dir():
                raise VolumeError(f"expected an image at {path}, found a folder", hint="name the file inside it")
            if path.exists() and not path.is_file():
                raise VolumeError(f"expected an image at {path}, found a device or a pipe", hint="name a regular file")
            size = path.stat().st_size
            if size > MAX_VOLUME_BYTES + _HEADROOM_BYTES:
                raise VolumeError(
                    f"expected at most {MAX_VOLUME_BYTES / 2**30:.0f} GiB, found {size / 2**30:.1f} GiB in {path}",
                    hint="crop or resample the image",
                )
            raw = path.read_bytes()
        except FileNotFoundError:
            raise VolumeError(f"expected an image at {path}, found no such file", hint="check the path") from None
        except (OSError, ValueError) as error:
            raise VolumeError(
                f"expected an image at {path}, which cannot be read: {getattr(error, 'strerror', None) or error}",
                hint="check the path and its permissions",
            ) from None
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

    def inflate(self, count: int) -> bytes:
        """The whole content, which must be of `count` bytes; a gzip checksum is always reached."""
        if self.zipped:
            stream = gzip.GzipFile(fileobj=BytesIO(self.raw))
            try:
                content = stream.read(count + 1)
            except EOFError:
                raise VolumeError(
                    f"expected a whole gzip stream in {self.path}, found that it ends early", hint="copy it again"
                ) from None
            except (zlib.error, gzip.BadGzipFile) as error:
                raise self._damaged(str(error)) from None
        else:
            content = self.raw
        if len(content) < count:
            raise VolumeError(
                f"expected {count:,} bytes of header and voxels in {self.path}, found {len(content):,}",
                hint="the file is truncated: copy it again",
            )
        if len(content) > count:
            raise VolumeError(
                f"expected {count:,} bytes of header and voxels in {self.path}, found more",
                hint="its header does not fit its data: convert it again",
            )
        return content

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
        if len(head) < size:
            raise VolumeError(
                f"expected a NIfTI header of {size} bytes in {path}, found {len(head)}",
                hint="the file is truncated: copy it again",
            )
        if (head[344:348] if size == 348 else head[4:12]) != _MAGIC[size]:
            break
        try:
            return kind(head[:size], endianness="<" if byteorder == "little" else ">", check=False), payload
        except (HeaderDataError, ValueError):
            break
    raise VolumeError(
        f"expected a NIfTI file (.nii, .nii.gz) at {path}, found something else",
        hint="convert it to one .nii.gz file",
    )


def _require_3d(header: Nifti1Header, path: Path) -> tuple[int, int, int]:
    dimensions = int(header["dim"][0])
    sizes = [int(n) for n in header["dim"][1 : 1 + max(0, min(dimensions, 7))]]
    if not 3 <= dimensions <= 7 or any(n < 1 for n in sizes):
        raise VolumeError(
            f"expected three dimensions of at least 1 in {path}, found {format_size(sizes) or dimensions}",
            hint="convert it again from its source",
        )
    if any(n > 1 for n in sizes[3:]):
        raise VolumeError(
            f"expected a 3D image in {path}, found {len(sizes)}D {format_size(sizes)}",
            hint="split it and give one volume per modality",
        )
    if min(sizes[:3]) < 2:
        raise VolumeError(
            f"expected at least 2 voxels along each axis of {path}, found {format_size(sizes[:3])}",
            hint="give a whole volume, not a slice",
        )
    return sizes[0], sizes[1], sizes[2]


def _require_numbers(header: Nifti1Header, path: Path) -> np.dtype[Any]:
    """The type of the voxels as stored."""
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


def _require_extensions_fit(block: bytes, endianness: str, path: Path) -> None:
    """Refuse header extensions that are longer than the room before the voxels.

    Args:
        block: what lies between the header and the voxels.
        endianness: "<" or ">".
        path: named in the error.
    """
    at = 4
    while block[0] and at + 8 <= len(block):
        size = int.from_bytes(block[at : at + 4], "little" if endianness == "<" else "big", signed=True)
        if size < 8 or at + size > len(block):
            raise VolumeError(
                f"expected header extensions within {len(block) - at} bytes in {path}, found one of {size}",
                hint="its header is damaged: convert it again",
            )
        at += size


def _scaling(header: Nifti1Header, path: Path) -> tuple[float, float]:
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0:
        return 1.0, 0.0
    if not (np.isfinite(slope) and np.isfinite(intercept)):
        raise VolumeError(
            f"expected a finite scaling in {path}, found slope {slope:g}, intercept {intercept:g}",
            hint="convert it again from its source",
        )
    return slope, intercept


def _affine(header: Nifti1Header, shape: tuple[int, int, int], path: Path) -> NDArray[np.float64]:
    spacing = [float(v) for v in header["pixdim"][1:4]]
    if not all(np.isfinite(v) and v > 0 for v in spacing):
        raise VolumeError(
            f"expected voxel sizes above 0 mm in {path}, found {format_size(spacing)}",
            hint="convert it again from its source",
        )
    unit = int(header["xyzt_units"]) & 7
    if unit not in (0, 2):
        raise VolumeError(
            f"expected millimetres in {path}, found {_UNITS.get(unit, f'the unknown unit {unit}')}",
            hint="convert it again in millimetres",
        )
    sform, qform = int(header["sform_code"]), int(header["qform_code"])
    if sform <= 0 and qform <= 0:
        raise VolumeError(
            f"expected an orientation in {path}, found neither sform nor qform",
            hint="set one, for example with fslorient",
        )
    affine = _require_rigid(_form(header, "sform" if sform > 0 else "qform", path), path)
    if sform == qform:  # of one space, so they must say the same; else the sform leads to another space by intent
        apart_mm = corners_apart_mm(affine, _form(header, "qform", path), shape)
        if not apart_mm <= _FORMS_TOLERANCE_MM:
            raise VolumeError(
                f"expected qform and sform of {path} to agree, found corners {apart_mm:.1f} mm apart",
                hint="keep the right one, for example with fslorient",
            )
    return affine


def _form(header: Nifti1Header, form: str, path: Path) -> NDArray[np.float64]:
    try:
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is refused by `_require_rigid`
            return np.asarray(header.get_sform() if form == "sform" else header.get_qform(), np.float64)
    except (ValueError, HeaderDataError) as error:
        raise VolumeError(f"expected a usable {form} in {path}, found: {error}", hint="convert it again") from None


def _require_rigid(affine: NDArray[np.float64], path: Path) -> NDArray[np.float64]:
    linear = affine[:3, :3]
    norms = np.sqrt((linear**2).sum(0))
    if not np.isfinite(affine).all() or (norms < 1e-6).any():
        raise VolumeError(
            f"expected a finite, invertible affine in {path}, found {affine[:3].round(3).tolist()}",
            hint="convert it again from its source",
        )
    least, most = _SPACING_LIMITS_MM
    if norms.min() < least or norms.max() > most:
        raise VolumeError(
            f"expected voxels of {least:g} to {most:g} mm in {path}, found {format_size(norms)} mm",
            hint="check its units; convert it again in millimetres",
        )
    directions = linear / norms
    skew = float(np.abs(directions.T @ directions - np.eye(3)).max())
    if skew > _SHEAR_TOLERANCE:
        raise VolumeError(f"expected orthogonal axes in {path}, found a shear of {skew:.1%}", hint="resample it first")
    return affine
