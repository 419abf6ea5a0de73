"""From patches to the labels of a whole volume, in one pass, while the engine is never kept waiting."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from segkit.cards import Size
from segkit.errors import UsageError
from segkit.inference.blending import Blending, Slab, largest_class
from segkit.inference.engine import Engine
from segkit.patches import ArrayImages, Images, Plan, Tile, plan

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


@dataclass
class Spent:
    """Where the time of a volume went, in seconds. Cutting and joining go on while the network runs.

    Attributes:
        cut: cutting patches and normalising them.
        network: in the engine.
        join: blending, and choosing the largest class.
    """

    cut: float = 0.0
    network: float = 0.0
    join: float = 0.0


def segment_volume(
    engine: Engine,
    images: Images | NDArray[np.float32],
    mask: NDArray[np.bool_],
    tiling: Tiling,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> NDArray[np.uint8]:
    """Segment a whole volume.

    Args:
        engine: maps (B, C, *patch) to logits (B, K, *patch) or, without overlap, to labels (B, *patch); B is at most
            its `batch`.
        images: normalised images (C, X, Y, Z), any size and any odd shape, or what gives their patches.
        mask: (X, Y, Z), the voxels that can be anything but background; patches without one are skipped.
        tiling: patch, overlap and blending.
        progress: called with the number of tiles done and the number of tiles.

    Returns:
        (X, Y, Z) uint8 class indices; 0 outside the mask, whatever tiles reach there.
    """
    return run_plan(engine, images, mask, plan(mask, tiling.patch, tiling.overlap), tiling, progress)


def run_plan(
    engine: Engine,
    images: Images | NDArray[np.float32],
    mask: NDArray[np.bool_],
    tiles: Plan,
    tiling: Tiling,
    progress: Callable[[int, int], None] = lambda done, total: None,
    spent: Spent | None = None,
) -> NDArray[np.uint8]:
    """Segment a whole volume by tiles that are planned already; see `segment_volume`.

    Where tiles overlap, logits are weighed and added, in the order of the tiles, so that the answer is the same to the
    last bit however long each takes. Without overlap each voxel is told by the tile that owns it.

    Args:
        engine: see `segment_volume`.
        images: see `segment_volume`.
        mask: see `segment_volume`.
        tiles: the plan; its patch may be another than that of `tiling`.
        tiling: overlap and blending.
        progress: called with the number of tiles done and the number of tiles.
        spent: is added to.
    """
    spent = spent or Spent()
    # In the layout of the mask, which is that of the file: what comes in and what goes out is read and written in line.
    labels = np.zeros_like(mask, np.uint8)
    if not tiles.tiles:
        return labels
    source = ArrayImages(images) if isinstance(images, np.ndarray) else images
    joined: _Joined = Slab(labels, tiles, tiling.blending) if tiling.overlap else _Stitched(labels)
    done = 0
    for batch, outputs in _run(engine, source, tiles, spent):
        with _Timer(spent, "join"):
            for tile, output in zip(batch, outputs, strict=True):
                joined.add(tile, output)
        done += len(batch)
        progress(done, len(tiles.tiles))
    with _Timer(spent, "join"):
        joined.finish()
        labels *= mask
    return labels


class _Joined(Protocol):
    def add(self, tile: Tile, output: NDArray[Any]) -> None: ...

    def finish(self) -> None: ...


@dataclass
class _Stitched:
    """Labels of tiles, each in the box that it owns."""

    labels: NDArray[np.uint8]

    def add(self, tile: Tile, output: NDArray[Any]) -> None:
        into = self.labels[tile.own]
        x, y, z = (
            slice(own.start - start, own.start - start + n)
            for own, start, n in zip(tile.own, tile.start, into.shape, strict=True)
        )
        part = output[..., x, y, z]
        if part.ndim == 3:
            into[...] = part
        else:
            for plane in range(len(into)):
                into[plane] = largest_class(part[:, plane])

    def finish(self) -> None:
        """Nothing is left."""


def _run(engine: Engine, images: Images, tiles: Plan, spent: Spent) -> Iterator[tuple[Sequence[Tile], NDArray[Any]]]:
    """Each batch of tiles with what the engine says of it: while it runs, the next is cut and the last one is used."""
    size = min(engine.batch, len(tiles.tiles))
    buffers = [np.empty((size, images.shape[0], *tiles.patch), np.float32) for _ in range(2)]

    def run(patches: NDArray[np.float32]) -> NDArray[Any]:
        with _Timer(spent, "network"):
            return engine.run(patches)

    with ThreadPoolExecutor(1, thread_name_prefix="segkit-engine") as worker:
        running: tuple[Sequence[Tile], Future[NDArray[Any]]] | None = None
        for number, first in enumerate(range(0, len(tiles.tiles), size)):
            batch = tiles.tiles[first : first + size]
            patches = buffers[number % 2][: len(batch)]
            with _Timer(spent, "cut"):
                for tile, patch in zip(batch, patches, strict=True):
                    images.cut(tile.start, patch)
            last = None if running is None else (running[0], running[1].result())
            running = batch, worker.submit(run, patches)
            if last is not None:
                yield last
        if running is not None:
            yield running[0], running[1].result()


class _Timer:
    """Adds the seconds of its block to one of those that were spent."""

    def __init__(self, spent: Spent, on: Literal["cut", "network", "join"]) -> None:
        self._spent, self._on = spent, on

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *raised: object) -> None:
        setattr(self._spent, self._on, getattr(self._spent, self._on) + time.perf_counter() - self._began)
