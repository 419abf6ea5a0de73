"""Patches: where they lie in a volume, how they are cut out, and how they weigh when they are put together again."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.cards import Size
from segkit.errors import UsageError


def extract_patch(array: NDArray[Any], start: Sequence[int], patch: Size) -> NDArray[Any]:
    """Cut a patch out of the last three axes; beyond the volume the edge voxel is repeated.

    Args:
        array: (..., X, Y, Z).
        start: first voxel (x, y, z) of the patch; the patch must begin inside the volume.
        patch: size (x, y, z) in voxels.

    Returns:
        (..., *patch), a view where the patch lies inside the volume.
    """
    x, y, z = (slice(s, s + p) for s, p in zip(start, patch, strict=True))
    return pad_to(array[..., x, y, z], patch)


def pad_to(array: NDArray[Any], size: Size) -> NDArray[Any]:
    """Repeat the last voxel of each of the last three axes until they are at least `size` long."""
    missing = [max(0, wanted - have) for wanted, have in zip(size, array.shape[-3:], strict=True)]
    if not any(missing):
        return array
    return np.pad(array, [(0, 0)] * (array.ndim - 3) + [(0, n) for n in missing], mode="edge")


def require_multiple(patch: Size, multiple: int, model: str) -> None:
    """Refuse a patch that a network cannot halve as often as it does.

    Args:
        patch: size (x, y, z) in voxels.
        multiple: what each side must be a multiple of: the network's own `multiple`, else its card's.
        model: name of the network, for the message.

    Raises:
        UsageError: a side is no multiple.
    """
    if any(side % multiple for side in patch):
        raise UsageError(
            f"expected patch sides that are multiples of {multiple} for {model}, got {'x'.join(map(str, patch))}",
            hint="round each side, for example " + ",".join(str(-(-side // multiple) * multiple) for side in patch),
        )


def tile_starts(first: int, last: int, size: int, patch: int, overlap: float) -> list[int]:
    """Starts of the tiles that cover voxels `first` to `last` (excluded) of an axis, spread evenly.

    Args:
        first: first voxel to cover.
        last: one past the last voxel to cover.
        size: length of the axis, at least `patch`.
        patch: length of a tile.
        overlap: the least share of a tile that it has in common with the next, 0 to 0.75.
    """
    extent = last - first
    if extent <= patch:
        return [min(max(0, (first + last - patch) // 2), size - patch)]
    step = max(1, math.floor(patch * (1 - overlap)))
    count = math.ceil((extent - patch) / step) + 1
    return [first + round(i * (extent - patch) / (count - 1)) for i in range(count)]


def plan_tiles(mask: NDArray[np.bool_], patch: Size, overlap: float) -> list[Size]:
    """Starts (x, y, z) of the tiles that cover every voxel of a mask, in order of x; tiles that hold none are left out.

    Args:
        mask: (X, Y, Z), at least `patch` large.
        patch: tile size (x, y, z) in voxels.
        overlap: see `tile_starts`.
    """
    if not mask.any():
        return []
    axes = []
    for axis in range(3):
        inside = np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))
        axes.append(tile_starts(int(inside[0]), int(inside[-1]) + 1, mask.shape[axis], patch[axis], overlap))
    xs, ys, zs = axes
    return [start for start in itertools.product(xs, ys, zs) if extract_patch(mask, start, patch).any()]


def gaussian_weight(patch: Size, sigma_fraction: float = 1 / 8) -> NDArray[np.float32]:
    """Weights of a tile's voxels that fall off from its centre, as in nnU-Net (doi:10.1038/s41592-020-01008-z).

    Args:
        patch: tile size (x, y, z) in voxels.
        sigma_fraction: standard deviation as a fraction of the tile's side.

    Returns:
        `patch`-sized array in (0, 1], at least 1e-4 so that no voxel is lost.
    """
    x, y, z = (np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / (n * sigma_fraction)) ** 2) for n in patch)
    weight = x[:, None, None] * y[:, None] * z
    floored: NDArray[np.float32] = np.maximum(weight / weight.max(), 1e-4).astype(np.float32)
    return floored
