"""Scores of a network on whole volumes of a data set."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.dataset import IGNORE, LabelScheme, Subject, load_input, read_label
from segkit.errors import UnknownName, UsageError
from segkit.inference import Engine, Tiling, segment_volume
from segkit.metrics import (
    INTERVAL,
    bootstrap_interval,
    confusion_matrix,
    dice,
    mean_dice,
    merge_classes,
    volume_similarity,
)
from segkit.preprocess import Preprocessing
from segkit.surfaces import Convention, hd95_mm, surface_dice, surface_distances
from segkit.volume import require_same_grid

METRICS = {
    "dice": "hard Dice, 0 to 1",
    "hd95_mm": "95th percentile of the Hausdorff distance, mm; of the foreground",
    "surface_dice": "share of both surfaces within the tolerance of the other, 0 to 1; of the foreground",
    "volume_similarity": "1 - |difference| / sum of the volumes, 0 to 1",
}
"""What is measured on whole volumes."""


@dataclass(frozen=True)
class Protocol:
    """What is measured, and by which conventions.

    Attributes:
        classes: name of each class, background first.
        regions: name -> indices of the classes that are merged into it, scored beside the classes.
        tolerance_mm: of the surface Dice.
        convention: of HD95 and surface Dice; see `segkit.surfaces`.

    Raises:
        UsageError: a tolerance that is no distance.
    """

    classes: tuple[str, ...]
    regions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    tolerance_mm: float = 1.0
    convention: Convention = "monai"

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance_mm < float("inf"):
            raise UsageError(
                f"expected a tolerance of the surface Dice from 0 mm up, got {self.tolerance_mm:g}",
                hint="choose about the spacing between two raters' outlines, such as 1",
            )

    @property
    def structures(self) -> dict[str, tuple[int, ...]]:
        """Everything that is scored: each class, then each region, with its class indices."""
        return {**{name: (index,) for index, name in enumerate(self.classes)}, **self.regions}


def resolve_regions(classes: Sequence[str], regions: Mapping[str, Sequence[str]]) -> dict[str, tuple[int, ...]]:
    """Turn the class names of each region into class indices.

    Raises:
        UnknownName: no such class.
        UsageError: a region has the name of a class.
    """
    for region, members in regions.items():
        if region in classes:
            raise UsageError(
                f"expected names of regions that no class has, got {region!r}", hint="give the region another name"
            )
        for name in members:
            if name not in classes:
                raise UnknownName("class", name, classes)
    return {region: tuple(classes.index(name) for name in members) for region, members in regions.items()}


@dataclass(frozen=True)
class Measures:
    """What was measured on one subject; nothing of it depends on voxels whose truth is ignored.

    Attributes:
        confusion: (K, K) voxels, rows are the truth.
        values: metric -> class or region -> value; NaN where neither side has it, HD95 inf where only one side has it.
    """

    confusion: NDArray[np.int64]
    values: Mapping[str, Mapping[str, float]]


def measure(
    truth: NDArray[np.uint8], labels: NDArray[np.uint8], spacing_mm: Sequence[float], protocol: Protocol
) -> Measures:
    """Compare a segmentation with the truth.

    Ignored voxels are background on both sides for the surfaces, as they count nothing for the overlap.

    Args:
        truth: (X, Y, Z) class indices, 255 = ignored.
        labels: (X, Y, Z) class indices that the network gave.
        spacing_mm: voxel size (x, y, z).
        protocol: what is measured.
    """
    confusion = confusion_matrix(truth, labels, len(protocol.classes))
    counted = truth != IGNORE
    values: dict[str, dict[str, float]] = {metric: {} for metric in METRICS}
    for name, indices in protocol.structures.items():
        merged = merge_classes(confusion, indices)
        values["dice"][name] = float(dice(merged)[1])
        values["volume_similarity"][name] = float(volume_similarity(merged)[1])
        if indices == (0,):
            continue  # background's surface is that of the whole foreground and of the volume's border
        first, second = (
            counted & np.logical_or.reduce([data == index for index in indices]) for data in (truth, labels)
        )
        surfaces = surface_distances(first, second, spacing_mm, protocol.convention)
        values["hd95_mm"][name] = hd95_mm(surfaces)
        values["surface_dice"][name] = surface_dice(surfaces, protocol.tolerance_mm)
    return Measures(confusion, values)


@dataclass(frozen=True)
class Score:
    """One subject's score.

    Attributes:
        measures: the figures.
        image: (X, Y, Z) first modality, for pictures.
        truth: (X, Y, Z) class indices, 255 = ignored.
        labels: (X, Y, Z) class indices that the network gave.
        spacing_mm: voxel size along X, Y and Z.
    """

    measures: Measures
    image: NDArray[Any]
    truth: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    spacing_mm: tuple[float, float, float]


def score_subject(
    engine: Engine,
    subject: Subject,
    scheme: LabelScheme,
    modalities: Sequence[str],
    preprocessing: Preprocessing,
    tiling: Tiling,
    protocol: Protocol,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Score:
    """Segment one labelled subject and score it.

    Raises:
        DataError: it has no label, or a file is bad.
    """
    truth = read_label(subject, scheme)
    head = load_input(subject, modalities, preprocessing)
    require_same_grid(head.volumes[0], truth, modalities[0], "the label")
    labels = segment_volume(engine, head.channels, head.mask, tiling, progress)
    measures = measure(truth.data, labels, truth.spacing_mm, protocol)
    return Score(measures, head.volumes[0].data, truth.data, labels, head.volumes[0].spacing_mm)


def summarise(scores: Mapping[str, Measures], protocol: Protocol) -> dict[str, Any]:
    """Put the figures of all subjects into the form of scores.json: per subject, and their statistics.

    `foreground_mean` is the mean Dice over the classes but background; `thesis_convention` counts background, as the
    averages of the thesis' tables do. Regions are in neither, nor in `mean`, the Dice of each class.

    JSON has neither NaN nor infinity: both are null. `statistics` says how many subjects each mean is over and how many
    it leaves out: `absent`, where neither side has the structure, and `missed`, where only one has it and its HD95 is
    infinite. Dice, surface Dice and volume similarity of a missed structure are 0 and count.

    Args:
        scores: subject -> its figures; one subject at least.
        protocol: what was measured.
    """
    values = {subject: score.values for subject, score in scores.items()}
    overall = {subject: _overall_dice(measured["dice"], protocol.classes) for subject, measured in values.items()}
    statistics = {
        metric: {
            name: _statistics([measured[metric][name] for measured in values.values()])
            for name in next(iter(values.values()))[metric]
        }
        for metric in METRICS
    }
    averages = {name: _statistics([both[name] for both in overall.values()]) for name in next(iter(overall.values()))}
    return {
        "schema": 2,
        "metrics": METRICS,
        "surface_convention": protocol.convention,
        "tolerance_mm": protocol.tolerance_mm,
        "regions": {
            region: [protocol.classes[index] for index in indices] for region, indices in protocol.regions.items()
        },
        "subjects": [
            {
                "subject": subject,
                **{metric: {name: _number(value) for name, value in of.items()} for metric, of in measured.items()},
                **{name: _number(value) for name, value in overall[subject].items()},
            }
            for subject, measured in values.items()
        ],
        "mean": {name: statistics["dice"][name]["mean"] for name in protocol.classes},
        **{name: average["mean"] for name, average in averages.items()},
        "statistics": {**statistics, **averages},
        "interval": INTERVAL,
        "confusion_matrix": {
            "rows": "truth",
            "columns": "prediction",
            "classes": protocol.classes,
            "voxels": np.sum([score.confusion for score in scores.values()], axis=0).tolist(),
        },
    }


def as_csv(scores: Mapping[str, Measures], protocol: Protocol) -> str:
    """A table of one row per subject and class or region: `nan` is absent on both sides, `inf` missed by one of them.

    Nothing stands where a metric is not taken: the surface of background.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["subject", "structure", *METRICS])
    for subject, score in scores.items():
        for name in protocol.structures:
            measured = [score.values[metric].get(name) for metric in METRICS]
            table.writerow([subject, name, *("" if value is None else f"{value:.6f}" for value in measured)])
    return text.getvalue()


def _overall_dice(scores: Mapping[str, float], classes: Sequence[str]) -> dict[str, float]:
    each = np.array([scores[name] for name in classes])
    return {
        "foreground_mean": mean_dice(each, background=False),
        "thesis_convention": mean_dice(each, background=True),
    }


def _statistics(values: Sequence[float]) -> dict[str, Any]:
    array = np.array(values)
    counted = array[np.isfinite(array)]
    interval = bootstrap_interval(counted)
    return {
        "mean": _number(counted.mean()) if counted.size else None,
        "sd": _number(counted.std(ddof=1)) if counted.size > 1 else None,
        "interval": interval and [_number(bound) for bound in interval],
        "subjects": counted.size,
        "absent": int(np.isnan(array).sum()),
        "missed": int(np.isinf(array).sum()),
    }


def _number(value: float) -> float | None:
    """JSON has neither NaN nor infinity."""
    return round(float(value), 6) if np.isfinite(value) else None
