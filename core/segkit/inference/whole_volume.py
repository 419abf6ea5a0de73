"""From patches to the labels of a whole volume, in one pass and with one slab of logits in memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from segkit.cards import Size
from segkit.errors import UsageError
from segkit.inference.engine import Engine
from segkit.patches import extract_patch, gaussian_weight, pad_to, plan_tiles

Blending = Literal["gaussian", "constant"]
MAX_OVERLAP = 0.75


@dataclass(frozen=True)
class Tiling:
    """How a volume is cut into patches and put together again.

    Attributes:
        patch: size (x, y, z) in voxels.
        overlap: share of a patch that it has at least in common with the next along each axis, 0 to 0.75.
        blending: how logits weigh where patches overlap.

    Raises:
        UsageError: the overlap or the blending is not one of these.
    """

    patch: Size
    overlap: float = 0.5
    blending: Blending = "gaussian"

    def __post_init__(self) -> None:
        if not 0 <= self.overlap <= MAX_OVERLAP:
            raise UsageError(f"expected an overlap from 0 to {MAX_OVERLAP}, got {self.overlap}")
        if self.blending not in ("gaussian", "constant"):
            raise UsageError(f"expected the blending gaussian or constant, got {self.blending!r}")


def segment_volume(
    engine: Engine,
    images: NDArray[np.float32],
    mask: NDArray[np.bool_],
    tiling: Tiling,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> NDArray[np.uint8]:
    """Segment a whole volume.

    Tiles are run in order of x, and only the planes that a tile still can reach are kept as logits. The weights need no
    normaliser: dividing all classes of a voxel by one number does not change which is largest.

    Args:
        engine: maps (B, C, *patch) to logits (B, K, *patch), B at most its `batch`.
        images: (C, X, Y, Z) normalised images, any size and any odd shape.
        mask: (X, Y, Z), the voxels that can be anything but background; patches without one are skipped.
        tiling: patch, overlap and blending.
        progress: called with the number of tiles done and the number of tiles.

    Returns:
        (X, Y, Z) uint8 class indices; 0 outside the mask, whatever tiles reach there.
    """
    shape = mask.shape
    patch = tiling.patch
    images, mask = pad_to(images, patch), pad_to(mask, patch)
    labels = np.zeros(mask.shape, np.uint8)
    tiles = plan_tiles(mask, patch, tiling.overlap)
    weight = gaussian_weight(patch) if tiling.blending == "gaussian" and tiling.overlap > 0 else None
    slab: NDArray[np.float32] | None = None
    done = top = 0
    for x, row in itertools.groupby(tiles, key=lambda start: start[0]):
        if slab is not None:
            _finish(slab, labels, top, x)
        top = x
        for starts in _batches(row, engine.batch):
            batch = engine.run(np.stack([extract_patch(images, start, patch) for start in starts]))
            if slab is None:
                slab = np.zeros((batch.shape[1], patch[0], *mask.shape[1:]), np.float32)
            for (_, y, z), logits in zip(starts, batch, strict=True):
                part = slab[:, :, y : y + patch[1], z : z + patch[2]]
                part += logits if weight is None else logits * weight
            done += len(starts)
            progress(done, len(tiles))
    if slab is not None:
        _finish(slab, labels, top, top + patch[0])
    labels[~mask] = 0
    return labels[: shape[0], : shape[1], : shape[2]]


def _batches(tiles: Iterable[Size], size: int) -> Iterator[list[Size]]:
    rest = iter(tiles)
    while batch := list(itertools.islice(rest, size)):
        yield batch


def _finish(slab: NDArray[np.float32], labels: NDArray[np.uint8], top: int, next_top: int) -> None:
    """Write the planes from `top` that no later tile reaches, and move the others to the slab's front."""
    planes = min(next_top - top, slab.shape[1])
    labels[top : top + planes] = slab[:, :planes].argmax(0)
    slab[:, : slab.shape[1] - planes] = slab[:, planes:].copy()
    slab[:, slab.shape[1] - planes :] = 0
