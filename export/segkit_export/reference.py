"""What torch said: the network itself is run once on all volumes, and every engine is held against what it said."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.errors import VerificationFailed
from segkit.inference import Engine, Tiling, segment_volume
from segkit.patches import extract_patch, pad_to, plan_tiles
from segkit_export.progress import Progress, silent
from segkit_export.volumes import Head
from segkit_runtime.engines import first_line

_KEPT_BYTES = 2**29
"""Memory for the logits of torch that are kept for comparison: 32 tiles of 128x128x64 voxels and 4 classes."""


class Told:
    """What torch said of one volume.

    Attributes:
        head: the volume.
        labels: labels of the voxels inside the mask, (N,) uint8.
        logits: logits (1, K, *patch) of some tiles, by the number of the tile.
        truth: class indices of the voxels inside the mask, (N,) uint8, if the volume has a truth.
    """

    labels: NDArray[np.uint8]
    truth: NDArray[np.uint8] | None

    def __init__(self, head: Head, mask: NDArray[np.bool_], tiling: Tiling, most_tiles: int) -> None:
        self.head = head
        self.logits: dict[int, NDArray[np.float32]] = {}
        count = len(plan_tiles(pad_to(mask, tiling.patch), tiling.patch, tiling.overlap))
        if not count:
            raise VerificationFailed(
                f"expected voxels other than zero in {head.name}, found none", hint="choose another"
            )
        self._kept = {int(number) for number in np.linspace(0, count - 1, min(count, most_tiles))}

    def listen(self, tile: int, logits: NDArray[np.float32]) -> None:
        """Keep the logits of a tile if it is one of those to keep."""
        if not np.isfinite(logits).all():
            raise VerificationFailed(
                f"expected finite logits from torch on {self.head.name}, got NaN or infinity",
                hint="train the network again",
            )
        if tile in self._kept:
            self.logits[tile] = logits.copy()

    def difference(self, runtime: str, tile: int, logits: NDArray[np.float32]) -> NDArray[np.float32] | None:
        """How far each logit of a tile is off, or None if torch's were not kept."""
        if not np.isfinite(logits).all():
            raise VerificationFailed(
                f"expected finite logits from {runtime}, got NaN or infinity where torch has none",
                hint="a value is beyond the range of the precision: export in bf16 or fp32",
            )
        if tile not in self.logits:
            return None
        if logits.shape != self.logits[tile].shape:
            raise VerificationFailed(f"expected logits {self.logits[tile].shape} from {runtime}, got {logits.shape}")
        difference: NDArray[np.float32] = np.abs(self.logits[tile] - logits)
        return difference


@dataclass(frozen=True)
class Reference:
    """What torch said of all volumes; see `run_reference`."""

    told: list[Told]
    tiling: Tiling
    classes: int

    def patch(self, volume: int, tile: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The input (1, C, *patch) of a tile whose logits were kept, and those logits (1, K, *patch)."""
        told = self.told[volume]
        images, mask = told.head.load()
        size = self.tiling.patch
        start = plan_tiles(pad_to(mask, size), size, self.tiling.overlap)[tile]
        return extract_patch(pad_to(images, size), start, size)[None], told.logits[tile]

    def most_varied(self) -> tuple[int, int]:
        """Volume and tile, of those whose logits were kept, whose rarest label is the least rare."""

        def rarest(place: tuple[int, int]) -> list[int]:
            labels = self.told[place[0]].logits[place[1]][0].argmax(axis=0)
            return sorted(np.bincount(labels.ravel(), minlength=self.classes).tolist())

        return max(((volume, tile) for volume, told in enumerate(self.told) for tile in told.logits), key=rarest)

    @property
    def max_abs_logit(self) -> float:
        """The largest logit of torch."""
        return max(float(np.abs(logits).max()) for told in self.told for logits in told.logits.values())


class Watched:
    """An engine whose logits are shown to someone, numbered by tile, before they are used; each run is timed."""

    def __init__(self, engine: Engine, watch: Callable[[int, NDArray[np.float32]], None]) -> None:
        self.batch = engine.batch
        self.runtime, self.version = engine.runtime, engine.version
        self.device, self.precision = engine.device, engine.precision
        self.patch_ms: list[float] = []
        self._engine = engine
        self._watch = watch
        self._tile = 0

    def run(self, patches: NDArray[np.float32]) -> NDArray[Any]:
        """Run patches and show what comes of each.

        Raises:
            VerificationFailed: the engine fails.
        """
        began = time.perf_counter()
        try:
            logits = self._engine.run(patches)
        except Exception as error:
            raise VerificationFailed(
                f"expected {self.runtime} to run a patch of {patches.shape[2:]}, it says: {first_line(error)}",
                hint="free memory, or choose a smaller --patch",
            ) from error
        self.patch_ms.append(1000 * (time.perf_counter() - began) / len(patches))
        for one in logits:
            self._watch(self._tile, one[None])
            self._tile += 1
        return logits

    def close(self) -> None:
        """The engine belongs to the caller."""


def run_reference(
    engine: Engine, heads: Sequence[Head], tiling: Tiling, classes: int, progress: Progress = silent
) -> Reference:
    """Run the network itself on all volumes and keep what it says.

    Args:
        engine: torch in fp32, or where torch is not, what was proven against it.
        heads: the volumes.
        tiling: how they are cut and put together.
        classes: number of classes.
        progress: called once per tile.

    Raises:
        VerificationFailed: a logit is not finite, or a volume has nothing to segment.
    """
    tile_bytes = 4 * classes * math.prod(tiling.patch)
    most_tiles = max(1, _KEPT_BYTES // tile_bytes // len(heads))
    told = []
    for head in heads:
        images, mask = head.load()
        heard = Told(head, mask, tiling, most_tiles)
        labels = segment_volume(
            Watched(engine, heard.listen), images, mask, tiling, step(progress, engine.runtime, head)
        )
        heard.labels = labels[mask]
        heard.truth = None if head.load_truth is None else head.load_truth()[mask]
        told.append(heard)
    return Reference(told, tiling, classes)


def step(progress: Progress, runtime: str, head: Head) -> Callable[[int, int], None]:
    """What tells of the tiles of a volume as they are done."""
    name = f"compare: {runtime}, {head.name}"
    return lambda done, total: progress(name, done, total)
