"""Patches: where they lie in a volume, how they are cut out, and how they weigh when they are put together again."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from segkit.cards import Size
from segkit.errors import UsageError

Box = tuple[slice, slice, slice]
"""A box of voxels: first and one past the last along x, y and z."""

_TILE_OVERHEAD = 2**14
"""What a tile costs beside its voxels, in voxels: 3 ms of calls where a million voxels take half a second."""


class Images(Protocol):
    """What patches are cut from; an array (C, X, Y, Z) is one by way of `ArrayImages`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, X, Y, Z)."""
        ...

    def cut(self, start: Size, out: NDArray[np.float32]) -> None:
        """Write the patch at `start` into `out` (C, *patch); beyond the volume the edge voxel is repeated."""
        ...


@dataclass(frozen=True)
class ArrayImages:
    """An array (C, X, Y, Z) that patches are cut from as it is."""

    array: NDArray[np.float32]

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, X, Y, Z)."""
        return self.array.shape

    def cut(self, start: Size, out: NDArray[np.float32]) -> None:
        """Write the patch at `start` into `out` (C, *patch); beyond the volume the edge voxel is repeated."""
        x, y, z = (slice(first, first + side) for first, side in zip(start, out.shape[1:], strict=True))
        inside = self.array[:, x, y, z]
        a, b, c = inside.shape[1:]
        out[:, :a, :b, :c] = inside
        repeat_edges(out, (a, b, c))


def repeat_edges(out: NDArray[Any], have: Size) -> None:
    """Fill the last three axes beyond their first `have` voxels with the last of these."""
    a, b, c = have
    out[..., a:, :b, :c] = out[..., a - 1 : a, :b, :c]
    out[..., b:, :c] = out[..., b - 1 : b, :c]
    out[..., c:] = out[..., c - 1 : c]


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


class Tile(NamedTuple):
    """Where a patch lies.

    Attributes:
        start: its first voxel (x, y, z).
        own: the voxels that are nearer to its middle than to that of another tile: each voxel of the mask is in the own
            box of one tile.
    """

    start: Size
    own: Box


@dataclass(frozen=True)
class Plan:
    """How a mask is covered by tiles.

    Attributes:
        patch: size (x, y, z) of a tile in voxels.
        tiles: in order of `axis`.
        box: the smallest box that holds the mask.
        axis: the axis along which the fewest voxels are in work at once.
    """

    patch: Size
    tiles: tuple[Tile, ...]
    box: Box
    axis: int

    @property
    def cost(self) -> int:
        """What running it takes, in voxels."""
        return len(self.tiles) * (math.prod(self.patch) + _TILE_OVERHEAD)


def plan(mask: NDArray[np.bool_], patch: Size, overlap: float) -> Plan:
    """Cover every voxel of a mask with tiles; those that have nothing to say of it are left out.

    Args:
        mask: (X, Y, Z).
        patch: tile size (x, y, z) in voxels; tiles reach beyond a mask that is smaller.
        overlap: see `tile_starts`. Without one, each voxel is told by the tile that owns it.
    """
    box = bounding_box(mask)
    extent = [side.stop - side.start for side in box]
    axis = min(range(3), key=lambda a: min(patch[a], extent[a]) * math.prod(extent[:a] + extent[a + 1 :]))
    if not extent[0]:
        return Plan(patch, (), box, axis)
    lines = []
    for side, size, length in zip(box, mask.shape, patch, strict=True):
        starts = tile_starts(side.start, side.stop, max(size, length), length, overlap)
        middles = [(one + other + length) // 2 for one, other in itertools.pairwise(starts)]
        bounds = itertools.pairwise([starts[0], *middles, starts[-1] + length])
        lines.append([(start, slice(*own)) for start, own in zip(starts, bounds, strict=True)])
    tiles = []
    slowest_first = [axis, *(a for a in range(3) if a != axis)]
    for places in itertools.product(*(lines[a] for a in slowest_first)):
        x, y, z = (places[slowest_first.index(a)] for a in range(3))
        tile = Tile((x[0], y[0], z[0]), (x[1], y[1], z[1]))
        whole = tuple(slice(first, first + side) for first, side in zip(tile.start, patch, strict=True))
        if mask[tile.own if overlap == 0 else whole].any():
            tiles.append(tile)
    return Plan(patch, tuple(tiles), box, axis)


def plan_cheapest(mask: NDArray[np.bool_], patches: Sequence[Size], overlap: float) -> Plan:
    """Of several patches, the plan that takes the least work; of equals the first.

    Args:
        mask: (X, Y, Z).
        patches: those that a network may be run with; at least one.
        overlap: see `tile_starts`.
    """
    return min((plan(mask, patch, overlap) for patch in patches), key=lambda found: found.cost)


def count_tiles(shape: Size, patch: Size, overlap: float) -> int:
    """How many tiles cover a volume of which nothing is left out.

    Args:
        shape: size (x, y, z) in voxels.
        patch: tile size.
        overlap: see `tile_starts`.
    """
    lines = (tile_starts(0, n, max(n, side), side, overlap) for n, side in zip(shape, patch, strict=True))
    return math.prod(len(starts) for starts in lines)


def bounding_box(mask: NDArray[np.bool_]) -> Box:
    """The smallest box that holds a mask; empty if the mask is."""
    flat = np.any(mask, axis=2)
    x, y, z = (_span(line) for line in (flat.any(axis=1), flat.any(axis=0), np.any(mask, axis=(0, 1))))
    return x, y, z


def _span(line: NDArray[np.bool_]) -> slice:
    inside = np.flatnonzero(line)
    return slice(int(inside[0]), int(inside[-1]) + 1) if inside.size else slice(0, 0)


def plan_tiles(mask: NDArray[np.bool_], patch: Size, overlap: float) -> list[Size]:
    """Starts (x, y, z) of the tiles of `plan`, in its order."""
    return [tile.start for tile in plan(mask, patch, overlap).tiles]


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
