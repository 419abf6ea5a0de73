"""The pictures of `segkit report`: each function draws one and returns what it shows, for figures.json."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.cards import Size
from segkit.dataset import IGNORE
from segkit.metrics import confusion_matrix, dice
from segkit.pictures import (
    AXIAL,
    CORONAL,
    SAGITTAL,
    Panel,
    cut,
    grey_window,
    save_dice_curve,
    save_loss_curve,
    save_panels,
)

Figure = dict[str, Any]
"""What one picture shows: its file, the thesis' figures it stands for, and its numbers."""

_NEIGHBOURS = 2
_PLANES = {AXIAL: "axial z", CORONAL: "coronal y", SAGITTAL: "sagittal x"}


@dataclass(frozen=True, kw_only=True)
class Head:
    """One labelled subject, read and preprocessed.

    Attributes:
        trained_on: whether its label was trained on, so that what is seen says little of other heads.
        modality: name of the first one, which is the background of the pictures.
        image: (X, Y, Z) its intensities.
        images: (C, X, Y, Z) float32, normalised.
        mask: (X, Y, Z), the voxels that can be anything but background.
        truth: (X, Y, Z) class indices, 255 = ignored.
        spacing_mm: voxel size (x, y, z).
        classes: their names, background first.
        best_slice: the z of the axial slice that holds most labelled voxels.
    """

    subject: str
    trained_on: bool
    modality: str
    image: NDArray[Any]
    images: NDArray[np.float32]
    mask: NDArray[np.bool_]
    truth: NDArray[np.uint8]
    spacing_mm: tuple[float, float, float]
    classes: tuple[str, ...]
    best_slice: int

    @property
    def title(self) -> str:
        """The subject, and whether its score says anything."""
        return f"{self.subject} (trained on)" if self.trained_on else f"{self.subject} (held out)"

    def panel(self, image: NDArray[Any], axis: int, index: int, **what: Any) -> Panel:
        """A plane of `image`, whose voxels are this head's."""
        x_mm, y_mm, z_mm = self.spacing_mm
        spacing_mm = {AXIAL: (x_mm, y_mm), CORONAL: (x_mm, z_mm), SAGITTAL: (y_mm, z_mm)}[axis]
        return Panel(image=cut(image, axis, index), axis=axis, spacing_mm=spacing_mm, **what)


@dataclass(frozen=True)
class SlabLabels:
    """The best slice, segmented twice. `predictions` (X, Y): how many of them meet in each voxel of the second."""

    alone: NDArray[np.uint8]
    combined: NDArray[np.uint8]
    predictions: NDArray[np.int64]


def labelled(classes: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where the class is neither background nor ignored."""
    foreground: NDArray[np.bool_] = (classes != 0) & (classes != IGNORE)
    return foreground


def dice_curve(out: Path, rows: Sequence[Mapping[str, Any]], name: str) -> Figure:
    """Figures 62, 64, 66, 68: the Dice of each class by epoch; `rows` of metrics.csv."""
    save_dice_curve(out / "dice-curve.png", rows, name)
    best = max(rows, key=lambda row: -math.inf if math.isnan(row["mean_dice"]) else row["mean_dice"])
    keys = [key for key in best if key.startswith("dice_")]
    return {
        "file": "dice-curve.png",
        "thesis_figures": [62, 64, 66, 68],
        "shows": "hard Dice of whole held-out volumes by epoch, each class but background, and their mean",
        "epochs": len(rows),
        "best_epoch": best["epoch"],
        "best_mean_dice": _percent(best["mean_dice"]),
        "best_dice": {key.removeprefix("dice_"): _percent(best[key]) for key in keys},
    }


def loss_curve(out: Path, rows: Sequence[Mapping[str, Any]], name: str) -> Figure:
    """Figures 63, 65, 67, 69: training and validation loss by epoch; `rows` of metrics.csv."""
    save_loss_curve(out / "loss-curve.png", rows, name)
    return {
        "file": "loss-curve.png",
        "thesis_figures": [63, 65, 67, 69],
        "shows": "mean loss by epoch, of the patches trained on and of fixed patches of held-out subjects",
        "epochs": len(rows),
        "first": {key: rows[0][key] for key in ("loss", "validation_loss")},
        "last": {key: rows[-1][key] for key in ("loss", "validation_loss")},
    }


def output_volumes(out: Path, head: Head, logits: NDArray[np.float32], corner: Size) -> Figure:
    """Figure 70: logits (K, x, y, z) of the patch at `corner`, without softmax, around the largest of each class."""
    volumes = {**dict(zip(head.classes, logits, strict=True)), "largest of all": logits.max(0)}
    panels, maxima = [], {}
    for name, volume in volumes.items():
        x, y, z = (int(i) for i in np.unravel_index(volume.argmax(), volume.shape))
        count = min(2 * _NEIGHBOURS + 1, volume.shape[2])
        first = min(max(0, z - _NEIGHBOURS), volume.shape[2] - count)
        shown = range(first, first + count)
        window = float(volume[..., first : first + count].min()), float(volume.max())
        panels.append(
            [
                head.panel(
                    volume,
                    AXIAL,
                    at,
                    window=window,
                    cross=(x, y) if at == z else None,
                    title=f"{name}, z {corner[2] + at}" if at == first else f"z {corner[2] + at}",
                )
                for at in shown
            ]
        )
        place = [start + i for start, i in zip(corner, (x, y, z), strict=True)]
        maxima[name] = {"logit": float(volume.max()), "voxel": place, "slices": [corner[2] + at for at in shown]}
    title = f"{head.title}: last layer, the largest logit (+) and its neighbouring slices"
    save_panels(out / "output-volumes.png", panels, title=title, scale_bar=True, colour_bar="logit")
    return {
        "file": "output-volumes.png",
        "thesis_figures": [70],
        "shows": "axial slices of the logits of one patch, without softmax, around the largest of each class",
        "corner": list(corner),
        "size": list(logits.shape[1:]),
        "maxima": maxima,
    }


def predicted_slice(out: Path, head: Head, labels: NDArray[np.uint8], overlap: float) -> Figure:
    """Figure 71: a slice of the segmented volume (X, Y, Z), `overlap` being that of its tiles."""
    at = head.best_slice
    wrong, share = _errors(head.truth[..., at], labels[..., at])
    window = grey_window(head.image)
    layers: dict[str, dict[str, Any]] = {
        f"{head.modality}, axial z {at}": {},
        "prediction": {"labels": labels[..., at]},
        "truth": {"labels": head.truth[..., at]},
        f"wrong: {share:.1f} % of labelled": {"marked": wrong},
    }
    row = [head.panel(head.image, AXIAL, at, title=text, window=window, **what) for text, what in layers.items()]
    save_panels(out / "predicted-slice.png", [row], names=head.classes, title=head.title, scale_bar=True)
    return {
        "file": "predicted-slice.png",
        "thesis_figures": [71],
        "shows": "the axial slice with most labelled voxels: image, prediction of the whole volume, truth, errors",
        "slice": at,
        "overlap": overlap,
        "wrong_voxels": int(wrong.sum()),
        "wrong_percent": share,
        "dice_of_slice": _dice(head.truth[..., at], labels[..., at], head.classes),
        "dice_of_volume": _dice(head.truth, labels, head.classes),
    }


def sub_volume(out: Path, head: Head, logits: NDArray[np.float32], corner: Size) -> Figure:
    """Figure 72: what the logits (K, x, y, z) of the patch at `corner` say of it, beside the truth."""
    image, truth, mask = (_crop(array, corner, logits.shape[1:]) for array in (head.image, head.truth, head.mask))
    labels = np.where(mask, logits.argmax(0), 0).astype(np.uint8)
    wrong, share = _errors(truth, labels)
    window = grey_window(image)
    rows = []
    for axis, plane in _PLANES.items():
        at = labels.shape[axis] // 2
        layers: dict[str, dict[str, Any]] = {
            head.modality: {},
            "prediction": {"labels": cut(labels, axis, at)},
            "truth": {"labels": cut(truth, axis, at)},
            "wrong": {"marked": cut(wrong, axis, at)},
        }
        titles = [f"{name}, {plane} {corner[axis] + at}" if name == head.modality else name for name in layers]
        rows.append(
            [
                head.panel(image, axis, at, title=text, window=window, **what)
                for text, what in zip(titles, layers.values(), strict=True)
            ]
        )
    title = f"{head.title}: one patch, {share:.1f} % of its labelled voxels wrong"
    save_panels(out / "sub-volume.png", rows, names=head.classes, title=title, scale_bar=True)
    return {
        "file": "sub-volume.png",
        "thesis_figures": [72],
        "shows": "middle planes of the patch that holds most of the rarest class: image, its prediction, truth, errors",
        "corner": list(corner),
        "size": list(labels.shape),
        "wrong_voxels": int(wrong.sum()),
        "wrong_percent": share,
        "dice_of_patch": _dice(truth, labels, head.classes),
    }


def overlapping(out: Path, head: Head, slab: SlabLabels) -> Figure:
    """Figure 73: a slice from patches, the same from overlapping patches, and where they differ."""
    at, truth = head.best_slice, head.truth[..., head.best_slice]
    differ = slab.alone != slab.combined
    (wrong_alone, share_alone), (wrong, share) = (_errors(truth, labels) for labels in (slab.alone, slab.combined))
    met = slab.predictions[head.mask[..., at]]
    usual = int(np.median(met))
    layers: list[list[tuple[str, dict[str, Any]]]] = [
        [
            (f"truth, axial z {at}", {"labels": truth}),
            ("without overlap", {"labels": slab.alone}),
            (f"combined from {usual} overlapping", {"labels": slab.combined}),
        ],
        [
            (f"the two differ: {int(differ.sum())} voxels", {"marked": differ}),
            (f"wrong: {share_alone:.1f} % of labelled", {"marked": wrong_alone}),
            (f"wrong: {share:.1f} % of labelled", {"marked": wrong}),
        ],
    ]
    window = grey_window(head.image)
    rows = [
        [head.panel(head.image, AXIAL, at, title=text, window=window, **what) for text, what in row] for row in layers
    ]
    title = f"{head.title}: a slice from patches, and from overlapping patches"
    save_panels(out / "overlapping.png", rows, names=head.classes, title=title, scale_bar=True)
    return {
        "file": "overlapping.png",
        "thesis_figures": [73],
        "shows": "an axial slice from patches without overlap, and from patches that overlap by half along x and y",
        "slice": at,
        "predictions_per_voxel": {"least": int(met.min()), "median": usual, "most": int(met.max())},
        "differing_voxels": int(differ.sum()),
        "without_overlap": {"wrong_percent": share_alone, "dice_of_slice": _dice(truth, slab.alone, head.classes)},
        "combined": {"wrong_percent": share, "dice_of_slice": _dice(truth, slab.combined, head.classes)},
    }


def _crop(array: NDArray[Any], corner: Size, size: Sequence[int]) -> NDArray[Any]:
    x, y, z = (slice(start, start + side) for start, side in zip(corner, size, strict=True))
    return array[x, y, z]


def _errors(truth: NDArray[np.uint8], labels: NDArray[np.uint8]) -> tuple[NDArray[np.bool_], float]:
    """Where two segmentations disagree, and what percentage that is of the voxels that either of them labels."""
    wrong = (truth != labels) & (truth != IGNORE)
    either = (labelled(truth) | labelled(labels)) & (truth != IGNORE)
    return wrong, round(100 * int(wrong.sum()) / max(1, int(either.sum())), 2)


def _dice(truth: NDArray[np.uint8], labels: NDArray[np.uint8], classes: Sequence[str]) -> dict[str, float | None]:
    scores = dice(confusion_matrix(truth, labels, len(classes)))
    return {name: _percent(score) for name, score in zip(classes, scores, strict=True)}


def _percent(score: float) -> float | None:
    """JSON has no NaN, the Dice of a class that is nowhere."""
    return round(100 * float(score), 2) if np.isfinite(score) else None
