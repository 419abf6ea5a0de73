"""Scores of a network on whole volumes of a data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.cards import DatasetCard
from segkit.dataset import Subject, read_images, read_label, signal_mask
from segkit.errors import DataError
from segkit.inference import Engine, Tiling, segment_volume
from segkit.metrics import confusion_matrix, dice, mean_dice
from segkit.preprocess import Normalisation, normalise
from segkit.volume import require_same_grid


@dataclass(frozen=True)
class Score:
    """One subject's score.

    Attributes:
        subject: its id.
        dice: (K,) Dice of each class, background first, 0 to 1; NaN where a class does not occur.
        image: (X, Y, Z) first modality, for pictures.
        truth: (X, Y, Z) class indices, 255 = ignored.
        labels: (X, Y, Z) class indices that the network gave.
    """

    subject: str
    dice: NDArray[np.float64]
    image: NDArray[Any]
    truth: NDArray[np.uint8]
    labels: NDArray[np.uint8]


def score_subject(
    engine: Engine,
    subject: Subject,
    card: DatasetCard,
    modalities: Sequence[str],
    normalisation: Normalisation,
    tiling: Tiling,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Score:
    """Segment one labelled subject and score it.

    Raises:
        DataError: it has no label, or a file is bad.
    """
    if subject.label is None:
        raise DataError(
            f"expected a label file for subject {subject.id}, found none", hint="evaluate labelled subjects only"
        )
    _, volumes = read_images({name: subject.images[name] for name in modalities}, modalities)
    truth = read_label(subject.label, card)
    require_same_grid(volumes[0], truth, modalities[0], "the label")
    images = np.stack([normalise(volume.data, normalisation) for volume in volumes])
    labels = segment_volume(engine, images, signal_mask(volumes), tiling, progress)
    scores = dice(confusion_matrix(truth.data, labels, len(card.labels)))
    return Score(subject.id, scores, volumes[0].data, truth.data, labels)


def summarise(scores: Sequence[Score], card: DatasetCard) -> dict[str, Any]:
    """Put scores into the form of scores.json: Dice 0 to 1 per subject and class, and both averages by name.

    `foreground_mean` leaves background out; `thesis_convention` counts it, as the averages of the thesis' tables do.
    """
    names = [label.name for label in card.labels]
    rows = [
        {
            "subject": score.subject,
            "dice": {name: _number(value) for name, value in zip(names, score.dice, strict=True)},
            "foreground_mean": _number(mean_dice(score.dice, background=False)),
            "thesis_convention": _number(mean_dice(score.dice, background=True)),
        }
        for score in scores
    ]
    mean = np.nanmean(np.stack([score.dice for score in scores]), axis=0)
    return {
        "schema": 1,
        "metric": "hard Dice on whole volumes, 0 to 1",
        "subjects": rows,
        "mean": {name: _number(value) for name, value in zip(names, mean, strict=True)},
        "foreground_mean": _number(mean_dice(mean, background=False)),
        "thesis_convention": _number(mean_dice(mean, background=True)),
    }


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return None if np.isnan(value) else round(float(value), 6)
