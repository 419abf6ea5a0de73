"""Analyze 7.5 pairs (`.hdr`, `.img`): read strictly. The format states no orientation, so the data set must."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.analyze import AnalyzeHeader
from nibabel.orientations import axcodes2ornt
from numpy.typing import NDArray

from segkit.errors import VolumeError
from segkit.imagefile import (
    file_size,
    read_file,
    require_3d,
    require_budget,
    require_finite,
    require_numbers,
    require_spacing,
    require_spacing_of_heads,
)
from segkit.volume import Volume

_HEADER_BYTES = 348

_ENDIANNESS = {_HEADER_BYTES.to_bytes(4, "little"): "<", _HEADER_BYTES.to_bytes(4, "big"): ">"}

_OTHER_UNITS = (b"m", b"cm", b"um")


def read_analyze(path: Path, orientation: str) -> Volume:
    """Read a 3D Analyze 7.5 image, a fourth dimension of 1 allowed.

    The affine puts the origin at the centre of the volume, as nibabel does: the format has no place for one, and a
    centre stays where it is when axes are flipped. What SPM added to the format, a scale factor, an origin and a `.mat`
    file, is not read: the first is refused, since it changes the voxels.

    Args:
        path: the `.hdr` or the `.img`; the other lies beside it.
        orientation: the direction of each axis of the file, for example "LAS".

    Returns:
        The voxels as stored, without a header, since a NIfTI file could not keep it.

    Raises:
        VolumeError: no orientation is given; a file is missing or of a size that the header does not say; or the
            header is not Analyze, not 3D, scaled, larger than `MAX_VOLUME_BYTES`, or has no usable voxels.
    """
    if path.suffix not in (".hdr", ".img"):
        raise VolumeError(
            f"expected an Analyze pair named .hdr and .img, got {path}", hint="convert it to one .nii.gz file"
        )
    header_path, voxels_path = path.with_suffix(".hdr"), path.with_suffix(".img")
    header = _read_header(header_path)
    shape, _ = require_3d(header, header_path)
    dtype = require_numbers(header, header_path)
    needed = math.prod(shape) * dtype.itemsize
    require_budget(needed, header_path)
    _require_plain_voxels(header, header_path)
    affine = _affine(shape, _spacing_mm(header, header_path), orientation, header_path)
    size = file_size(voxels_path)
    if size != needed:
        raise VolumeError(
            f"expected {needed:,} bytes of voxels in {voxels_path}, as its header says, found {size:,}",
            hint="copy the pair again",
        )
    data: NDArray[Any] = np.frombuffer(read_file(voxels_path), dtype).reshape(shape, order="F")
    data = data.astype(dtype.newbyteorder("="), copy=False)
    require_finite(data, voxels_path)
    return Volume(data, affine)


def _read_header(path: Path) -> AnalyzeHeader:
    head = read_file(path, _HEADER_BYTES + 1)
    if head[344:347] in (b"ni1", b"n+1"):
        raise VolumeError(
            f"expected an Analyze 7.5 header in {path}, found a NIfTI one", hint="convert the pair to one .nii.gz file"
        )
    endianness = _ENDIANNESS.get(head[:4])
    if endianness is None:
        raise VolumeError(
            f"expected an Analyze 7.5 header in {path}, found something else", hint="convert it to one .nii.gz file"
        )
    if len(head) != _HEADER_BYTES:
        raise VolumeError(
            f"expected a header of {_HEADER_BYTES} bytes in {path}, found {file_size(path):,}",
            hint="copy the pair again",
        )
    return AnalyzeHeader(head, endianness=endianness, check=False)


def _require_plain_voxels(header: AnalyzeHeader, path: Path) -> None:
    """Refuse voxels that are not simply what the `.img` holds from its first byte on."""
    offset, scale = float(header["vox_offset"]), float(header["funused1"])
    if offset != 0:
        raise VolumeError(
            f"expected the voxels of {path} at the start of the .img, found offset {offset:g}",
            hint="convert the pair to one .nii.gz file",
        )
    if scale not in (0, 1):
        raise VolumeError(
            f"expected voxels without a scale factor in {path}, found the factor {scale:g} of SPM",
            hint="convert the pair to one .nii.gz file",
        )


def _spacing_mm(header: AnalyzeHeader, path: Path) -> list[float]:
    unit = header["vox_units"].item().strip(b"\0 ")
    if unit in _OTHER_UNITS:
        raise VolumeError(
            f"expected millimetres in {path}, found the unit {unit.decode()}", hint="convert it again in millimetres"
        )
    spacing_mm = require_spacing(header, path)
    require_spacing_of_heads(spacing_mm, path)
    return spacing_mm


def _affine(shape: tuple[int, int, int], spacing_mm: list[float], orientation: str, path: Path) -> NDArray[np.float64]:
    if len(orientation) != 3 or any(len(set(axis) & set(orientation)) != 1 for axis in ("LR", "PA", "IS")):
        raise VolumeError(
            f"expected the directions of the three axes of {path}, for example LAS, got {orientation!r}",
            hint="Analyze files state none: convert the pair to one .nii.gz file, or let the data set state them",
        )
    affine = np.zeros((4, 4))
    for axis, (world_axis, sign) in enumerate(axcodes2ornt(orientation)):
        affine[int(world_axis), axis] = sign * spacing_mm[axis]
    affine[:3, 3] = -affine[:3, :3] @ (np.array(shape) - 1) / 2
    affine[3, 3] = 1
    return affine
