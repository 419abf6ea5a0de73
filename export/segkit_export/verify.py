"""The proof: an engine is held against torch fp32 on logits of patches and on labels of whole volumes.

What torch said is a `Reference`, and each engine is compared with that.
"""

from __future__ import annotations

import dataclasses
import statistics
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from segkit.inference import Engine, Tiling, segment_volume
from segkit.metrics import confusion_matrix, dice
from segkit_export.progress import Progress, silent
from segkit_export.reference import Reference, Told, Watched, step
from segkit_export.tolerances import TOLERANCES, logit_bound
from segkit_runtime.bundle import MODEL
from segkit_runtime.manifest import Arithmetic, Precision, Proof, Tolerance
from segkit_runtime.processor import cpu_instructions

_BINS = np.logspace(-9, 9, 721)
"""Edges of the bins that differences of logits are counted in: 40 a decade, so a quantile is exact to 6 %."""


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
    given = Labels(reference.classes)
    patch_ms: list[float] = []
    for volume, told in enumerate(reference.told):

        def compare(tile: int, logits: NDArray[np.float32], volume: int = volume, told: Told = told) -> None:
            found = told.difference(engine.runtime, tile, logits)
            if found is not None:
                differences.add(volume, tile, found)

        patch_ms += given.ask(Watched(engine, compare), told, reference.tiling, progress)
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
        label_agreement=given.agreement,
        least_dice=given.least_dice,
        dice_difference=given.dice_difference,
        voxels=int(given.confusion.sum()),
        volumes=[told.head.name for told in reference.told],
        patch_ms=round(statistics.median(patch_ms), 3),
        cpu_instructions=list(cpu_instructions()) if engine.device == "cpu" else None,
        tolerance=tolerance,
        proven=False,
    )
    volume, tile = differences.worst
    return Finding(proof=_judge(proof), worst=given.worst, volume=volume, tile=tile)


def prove_labels(finding: Finding, engine: Engine, reference: Reference, progress: Progress = silent) -> Finding:
    """Hold the labels that a file tells itself against the reference, where it was its logits that were compared.

    Args:
        finding: what `prove` found of the same file in the same precision.
        engine: gives labels; it is what segments volumes, so its labels and its time are those of the proof.
        reference: what torch said.
        progress: called once per tile.

    Raises:
        VerificationFailed: the engine does not run.
    """
    given = Labels(reference.classes)
    patch_ms: list[float] = []
    for told in reference.told:
        patch_ms += given.ask(Watched(engine, lambda tile, labels: None), told, reference.tiling, progress)
    proof = finding.proof.model_copy(
        update={
            "label_agreement": given.agreement,
            "least_dice": given.least_dice,
            "dice_difference": given.dice_difference,
            "patch_ms": round(statistics.median(patch_ms), 3),
        }
    )
    return dataclasses.replace(finding, proof=_judge(proof), worst=given.worst)


def _judge(proof: Proof) -> Proof:
    """The same proof, with whether it keeps to its tolerances."""
    tolerance = proof.tolerance
    bound = logit_bound(tolerance, proof.max_abs_logit)
    proven = (
        (bound is None or proof.max_abs_logit_difference < bound)
        and proof.label_agreement >= tolerance.least_label_agreement
        and (proof.dice_difference is None or proof.dice_difference <= tolerance.most_dice_difference)
    )
    return proof.model_copy(update={"proven": proven})


class Labels:
    """Labels of whole volumes as they come in, held against torch's and against the truth."""

    def __init__(self, classes: int) -> None:
        self.confusion = np.zeros((classes, classes), np.int64)
        self.worst: WorstSlice | None = None
        self._against_truth = np.zeros((2, classes, classes), np.int64)

    def ask(self, engine: Watched, told: Told, tiling: Tiling, progress: Progress) -> list[float]:
        """Let an engine segment a volume, and return the times of its patches in ms."""
        images, mask = told.head.load()
        labels = segment_volume(engine, images, mask, tiling, step(progress, engine.runtime, told.head))
        classes = len(self.confusion)
        self.confusion += confusion_matrix(told.labels, labels[mask], classes)
        if told.truth is not None:
            for side, given in enumerate((told.labels, labels[mask])):
                self._against_truth[side] += confusion_matrix(told.truth, given, classes)
        self.worst = _worse(self.worst, told, images, mask, labels)
        return engine.patch_ms

    @property
    def agreement(self) -> float:
        """Share of the voxels that got torch's label."""
        return float(np.trace(self.confusion) / self.confusion.sum())

    @property
    def least_dice(self) -> float:
        """Least Dice of a class between both."""
        return float(np.nanmin(dice(self.confusion)))

    @property
    def dice_difference(self) -> float | None:
        """Largest change of the Dice of a class against the truth, if there is one; where a side lacks it, from 0."""
        if not self._against_truth.any():
            return None
        torch, engine = (np.nan_to_num(dice(confusion)) for confusion in self._against_truth)
        return float(np.abs(torch - engine).max())


def _worse(
    worst: WorstSlice | None,
    told: Told,
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
