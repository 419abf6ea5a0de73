"""The proof: an engine is held against torch fp32 on logits of patches and on labels of whole volumes.

Torch runs once; what it said is kept as a `Reference`, and each engine is compared with that.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from segkit.errors import VerificationFailed
from segkit.inference import Engine, Tiling, segment_volume
from segkit.metrics import confusion_matrix, dice
from segkit.patches import extract_patch, pad_to, plan_tiles
from segkit_export.progress import Progress, silent
from segkit_export.tolerances import TOLERANCES, logit_bound
from segkit_export.volumes import Head
from segkit_runtime.bundle import MODEL
from segkit_runtime.engines import first_line
from segkit_runtime.manifest import Arithmetic, Precision, Proof, Tolerance

_KEPT_BYTES = 2**29
"""Memory for the logits of torch that are kept for comparison: 32 tiles of 128x128x64 voxels and 4 classes."""

_BINS = np.logspace(-9, 9, 721)
"""Edges of the bins that differences of logits are counted in: 40 a decade, so a quantile is exact to 6 %."""


class _Told:
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

    told: list[_Told]
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


@dataclass(frozen=True)
class WorstSlice:
    """The axial slice on which an engine and torch disagree most.

    Attributes:
        head: name of the volume.
        z: place of the slice in voxels.
        voxels: how many got another label.
        image: (X, Y) first channel, as the network gets it.
        torch: (X, Y) class indices by torch.
        engine: (X, Y) class indices by the engine.
    """

    head: str
    z: int
    voxels: int
    image: NDArray[np.float32]
    torch: NDArray[np.uint8]
    engine: NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a comparison found.

    Attributes:
        proof: the figures.
        worst: the slice with most other labels, if there is one.
        volume: number of the volume whose tile is farthest from torch, among those whose logits were kept.
        tile: number of that tile.
    """

    proof: Proof
    worst: WorstSlice | None
    volume: int
    tile: int


@dataclass
class _Differences:
    """Differences of logits as they come in, tile by tile."""

    most: float = 0.0
    total: float = 0.0
    count: int = 0
    bins: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(_BINS) + 1, np.int64))
    worst_mean: float = -1.0
    worst: tuple[int, int] = (0, 0)

    def add(self, volume: int, tile: int, differences: NDArray[np.float32]) -> None:
        mean = float(differences.mean(dtype=np.float64))
        if mean > self.worst_mean:
            self.worst_mean, self.worst = mean, (volume, tile)
        self.most = max(self.most, float(differences.max()))
        self.total += float(differences.sum(dtype=np.float64))
        self.count += differences.size
        self.bins += np.bincount(np.searchsorted(_BINS, differences.ravel()), minlength=len(self.bins))

    def quantile(self, share: float) -> float:
        """An upper bound of a quantile: the edge of its bin."""
        place = int(np.searchsorted(np.cumsum(self.bins), share * self.count))
        return min(self.most, float(_BINS[min(place, len(_BINS) - 1)]))


class _Watched:
    """An engine whose logits are shown to someone, numbered by tile, before they are used; each run is timed."""

    def __init__(self, engine: Engine, watch: Callable[[int, NDArray[np.float32]], None]) -> None:
        self.batch = engine.batch
        self.runtime, self.version = engine.runtime, engine.version
        self.device, self.precision = engine.device, engine.precision
        self.patch_ms: list[float] = []
        self._engine = engine
        self._watch = watch
        self._tile = 0

    def run(self, patches: NDArray[np.float32]) -> NDArray[np.float32]:
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
        heard = _Told(head, mask, tiling, most_tiles)
        labels = segment_volume(
            _Watched(engine, heard.listen), images, mask, tiling, _step(progress, engine.runtime, head)
        )
        heard.labels = labels[mask]
        heard.truth = None if head.load_truth is None else head.load_truth()[mask]
        told.append(heard)
    return Reference(told, tiling, classes)


def prove(
    engine: Engine,
    reference: Reference,
    progress: Progress = silent,
    *,
    model: str = MODEL,
    precision: Precision = "fp32",
    arithmetic: Arithmetic = "native",
    tolerance: Tolerance | None = None,
) -> Finding:
    """Hold an engine against the reference.

    Args:
        engine: made from an exported file.
        reference: what torch said.
        progress: called once per tile.
        model: the file in the bundle.
        precision: what the engine computes in.
        arithmetic: see `Proof`.
        tolerance: what it must keep to; None for what its precision must.

    Returns:
        The figures, whether they keep to the tolerances, and where they are worst. Labels are compared inside the
        mask, since outside of it both say background whatever the network does.

    Raises:
        VerificationFailed: the engine gives logits of another shape, or some that are not finite: there are no figures.
    """
    tolerance = tolerance or TOLERANCES[precision]
    differences = _Differences()
    confusion = np.zeros((reference.classes, reference.classes), np.int64)
    against_truth = np.zeros((2, reference.classes, reference.classes), np.int64)
    worst: WorstSlice | None = None
    patch_ms: list[float] = []
    for volume, told in enumerate(reference.told):
        images, mask = told.head.load()

        def compare(tile: int, logits: NDArray[np.float32], volume: int = volume, told: _Told = told) -> None:
            found = told.difference(engine.runtime, tile, logits)
            if found is not None:
                differences.add(volume, tile, found)

        watched = _Watched(engine, compare)
        labels = segment_volume(watched, images, mask, reference.tiling, _step(progress, engine.runtime, told.head))
        patch_ms += watched.patch_ms
        confusion += confusion_matrix(told.labels, labels[mask], reference.classes)
        if told.truth is not None:
            for side, given in enumerate((told.labels, labels[mask])):
                against_truth[side] += confusion_matrix(told.truth, given, reference.classes)
        worst = _worse(worst, told, images, mask, labels)
    agreement = float(np.trace(confusion) / confusion.sum())
    dice_difference = _dice_difference(against_truth) if against_truth.any() else None
    bound = logit_bound(tolerance, reference.max_abs_logit)
    proof = Proof(
        runtime=engine.runtime,
        version=engine.version,
        device=engine.device,
        precision=precision,
        model=model,
        arithmetic=arithmetic,
        patches=sum(len(told.logits) for told in reference.told),
        max_abs_logit_difference=differences.most,
        mean_abs_logit_difference=differences.total / differences.count,
        p999_abs_logit_difference=differences.quantile(0.999),
        max_abs_logit=reference.max_abs_logit,
        label_agreement=agreement,
        least_dice=float(np.nanmin(dice(confusion))),
        dice_difference=dice_difference,
        voxels=int(confusion.sum()),
        volumes=[told.head.name for told in reference.told],
        patch_ms=round(statistics.median(patch_ms), 3),
        tolerance=tolerance,
        proven=(bound is None or differences.most < bound)
        and agreement >= tolerance.least_label_agreement
        and (dice_difference is None or dice_difference <= tolerance.most_dice_difference),
    )
    volume, tile = differences.worst
    return Finding(proof=proof, worst=worst, volume=volume, tile=tile)


def _dice_difference(against_truth: NDArray[np.int64]) -> float:
    """How much the Dice of a class against the truth changes at most; a class that one side lacks counts 0."""
    torch, engine = (np.nan_to_num(dice(confusion)) for confusion in against_truth)
    return float(np.abs(torch - engine).max())


def _worse(
    worst: WorstSlice | None,
    told: _Told,
    images: NDArray[np.float32],
    mask: NDArray[np.bool_],
    labels: NDArray[np.uint8],
) -> WorstSlice | None:
    reference = np.zeros_like(labels)
    reference[mask] = told.labels
    others = (reference != labels).sum((0, 1))
    z = int(others.argmax())
    if others[z] <= (worst.voxels if worst else 0):
        return worst
    return WorstSlice(
        told.head.name, z, int(others[z]), images[0, :, :, z].copy(), reference[:, :, z].copy(), labels[:, :, z].copy()
    )


def describe(proof: Proof) -> str:
    """The figures of a proof in words."""
    changed = "" if proof.dice_difference is None else f", changes the Dice of a class by {proof.dice_difference:.2g}"
    return (
        f"differs by up to {proof.max_abs_logit_difference:.2g}{changed} and agrees on {proof.label_agreement:.4%} "
        f"of {proof.voxels:,} voxels"
    )


def _step(progress: Progress, runtime: str, head: Head) -> Callable[[int, int], None]:
    step = f"compare: {runtime}, {head.name}"
    return lambda done, total: progress(step, done, total)
