"""NIfTI files: read strictly, to the last byte, and written in one step."""

from __future__ import annotations

import math
import os
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from isal import igzip, igzip_lib
from nibabel.nifti1 import Nifti1Header, Nifti1Image
from nibabel.nifti2 import Nifti2Header, Nifti2Image
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from segkit.errors import UsageError, VolumeError
from segkit.files import write_bytes
from segkit.imagefile import (
    HEADROOM_BYTES,
    read_file,
    require_3d,
    require_budget,
    require_finite,
    require_numbers,
    require_spacing,
    require_spacing_of_heads,
)
from segkit.imagefile import MAX_VOLUME_BYTES as MAX_VOLUME_BYTES
from segkit.volume import Volume, corners_apart_mm, in_file_order

_FORMS_TOLERANCE_MM = 1.0

_SHEAR_TOLERANCE = 1e-3

_UNITS = {1: "metres", 2: "millimetres", 3: "micrometres"}

_GZIP_LEVEL = 2
"""Of ISA-L's 0 to 3: files of zlib's level 6 in a tenth of its time."""

_HEAD_BYTES = 2**18
"""Packed, more than any header takes: gzip's own may hold 64 KiB and a name."""

_MAGIC = {348: b"n+1\0", 540: b"n+2\0\r\n\x1a\n"}


def read_volume(path: str | os.PathLike[str], *, channel: int | None = None) -> Volume:
    """Read a 3D NIfTI-1 or NIfTI-2 file (`.nii`, `.nii.gz`), to its last byte and checksum.

    The voxels come as stored, or as float32 where the header scales them; in memory they lie as in the file, x fastest.
    The affine is the sform, or the qform where there is no sform.

    Args:
        path: of the file.
        channel: the place along the fourth axis of the volume to return; without it, that axis may not be longer
            than 1.

    Raises:
        VolumeError: the file is missing, truncated, damaged, not NIfTI, not 3D, larger than `MAX_VOLUME_BYTES`,
            longer than its header says, or its affine or voxels are not finite and usable; or it has no such channel.
    """
    path = Path(path)
    header, payload = _read_header(path)
    shape, channels = require_3d(header, path, channels=channel is not None)
    if channel is not None and not 0 <= channel < channels:
        raise VolumeError(
            f"expected a channel from 0 to {channels - 1} of {path}, got {channel}",
            hint="check which modalities the file holds",
        )
    dtype = require_numbers(header, path)
    count = math.prod(shape)
    require_budget(channels * count * dtype.itemsize, path)
    slope, intercept = _scaling(header, path)
    affine = _affine(header, shape, path)
    offset = _offset(header, path)
    content = payload.inflate(offset + channels * count * dtype.itemsize)
    _require_extensions_fit(content[header.sizeof_hdr : offset], header.endianness, path)
    start = offset + (channel or 0) * count * dtype.itemsize
    data: NDArray[Any] = np.frombuffer(content, dtype, count, start).reshape(shape, order="F")
    # A view would keep the other channels in memory.
    data = data.astype(dtype.newbyteorder("="), copy=channels > 1)
    if (slope, intercept) != (1.0, 0.0):
        with np.errstate(over="ignore", invalid="ignore"):
            data = data.astype(np.float32)
            data *= np.float32(slope)
            data += np.float32(intercept)
    require_finite(data, path)
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
    offset = image.header.sizeof_hdr + 4  # the 4 bytes say that no extension follows
    image.header["vox_offset"] = offset
    voxels = in_file_order(volume.data).astype(image.header.get_data_dtype(), copy=False)
    payload = np.zeros(offset + voxels.nbytes, np.uint8)  # filled in place: a copy more is a third of the time
    payload[: image.header.sizeof_hdr] = np.frombuffer(image.header.binaryblock, np.uint8)
    payload[offset:] = voxels.T.reshape(-1).view(np.uint8)
    write_bytes(path, igzip.compress(payload, _GZIP_LEVEL, mtime=0) if path.name.endswith(".gz") else payload.data)


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
        raw = read_file(path)
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
            return zlib.decompressobj(wbits=31).decompress(self.raw[:_HEAD_BYTES], count)
        except zlib.error as error:
            raise self._damaged(str(error)) from None

    def inflate(self, count: int) -> bytes:
        """The whole content, which must be of `count` bytes; a gzip checksum is always reached."""
        if self.zipped:
            try:
                with igzip.IGzipFile(fileobj=BytesIO(self.raw)) as stream:
                    content: bytes = stream.read(count + 1)
            except EOFError:
                raise VolumeError(
                    f"expected a whole gzip stream in {self.path}, found that it ends early", hint="copy it again"
                ) from None
            except (igzip.BadGzipFile, igzip_lib.IsalError) as error:  # type: ignore[misc]  # its stub calls it an int
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


def _offset(header: Nifti1Header, path: Path) -> int:
    offset = float(header["vox_offset"])
    if not (offset.is_integer() and header.sizeof_hdr + 4 <= offset <= HEADROOM_BYTES):
        raise VolumeError(
            f"expected the voxels of {path} soon after its header, found offset {offset:g}", hint="convert it again"
        )
    return int(offset)


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
    require_spacing(header, path)
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
    require_spacing_of_heads(norms.tolist(), path)
    directions = linear / norms
    skew = float(np.abs(directions.T @ directions - np.eye(3)).max())
    if skew > _SHEAR_TOLERANCE:
        raise VolumeError(f"expected orthogonal axes in {path}, found a shear of {skew:.1%}", hint="resample it first")
    return affine
