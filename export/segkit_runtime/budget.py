"""What a volume will take in main memory, told from the headers of its files before any voxel is read."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from segkit.cards import Size
from segkit.errors import UsageError
from segkit.memory import held_bytes, parse_size
from segkit_runtime.manifest import Manifest

_RESAMPLED_BYTES = 12
"""Of a voxel that is resampled or whose bias is corrected: ITK's image, its result, and the float32 it becomes."""
_HEADROOM_BYTES = 2**24
"""What libraries allocate when they are first used, and never in proportion to a volume."""


def to_bytes(budget: str | int | None) -> int | None:
    """A budget in bytes.

    Raises:
        UsageError: it is no size, or this system does not tell what a process holds.
    """
    if budget is None:
        return None
    if held_bytes() is None:
        raise UsageError("expected a system that tells the memory of a process for a budget", hint="leave it out")
    size = parse_size(budget) if isinstance(budget, str) else budget
    if size <= 0:
        raise UsageError(f"expected a budget above zero, got {budget}", hint="write it as 4GiB")
    return size


def volume_bytes(files: Iterable[Path], manifest: Manifest, patch: Size, batch: int) -> int:
    """The most that segmenting a volume takes above what a loaded network holds.

    That is the images as they are stored, the mask, the labels as indices, as codes and in the order of the file, and
    the patches and logits in work. A file whose header cannot be read counts nothing: reading it will say what is
    wrong with it.

    Args:
        files: of the modalities.
        manifest: says how many classes there are and what is done to the images.
        patch: size of a tile in voxels.
        batch: tiles at once.
    """
    images = reading = voxels = 0
    longest: tuple[int, ...] = (0, 0, 0)
    for file in files:
        found = _header(file)
        if found is None:
            continue
        shape, voxel_bytes = found
        size = math.prod(shape)
        images += size * voxel_bytes
        if manifest.resample_mm is not None or manifest.preprocessing.registration != "none":
            images += size * _RESAMPLED_BYTES
        if manifest.preprocessing.bias_correction != "none":
            images += size * _RESAMPLED_BYTES
        reading = max(reading, file.stat().st_size)
        if size > voxels:
            voxels, longest = size, shape
    code_bytes = 1 if max(label.code for label in manifest.labels) <= 255 else 2
    kept = voxels * (1 + 1 + 2 * code_bytes)
    classes, tile = len(manifest.labels), math.prod(patch) * batch
    work = 2 * tile * 4 * (manifest.channels + classes)
    if manifest.inference.overlap:
        # Whatever the axes are called in the file, the slab lies across one of them.
        across = max(math.prod(longest) // max(n, 1) for n in longest)
        work += 4 * classes * min(max(patch), max(longest)) * across
    return images + max(reading, kept + work) + _HEADROOM_BYTES


def _header(file: Path) -> tuple[tuple[int, ...], int] | None:
    """Size in voxels and bytes of a voxel, as an image lies in memory."""
    import nibabel

    try:
        header = nibabel.load(file).header
        shape, kind = header.get_data_shape()[:3], np.dtype(header.get_data_dtype())
        slope, intercept = header.get_slope_inter()
    except Exception:
        return None
    scaled = (slope, intercept) not in ((None, None), (1.0, 0.0))
    return tuple(int(n) for n in shape), max(kind.itemsize, 4) if scaled else kind.itemsize
