"""Scores of a network on whole volumes of a data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.cards import DatasetCard
from segkit.dataset import Subject, load_input, read_label
from segkit.errors import DataError
from segkit.inference import Engine, Tiling, segment_volume
from segkit.metrics import confusion_matrix, dice, mean_dice
from segkit.preprocess import Normalisation
from segkit.volume import require_same_grid


@dataclass(frozen=True)
class Score:
    """One subject's score.

    Attributes:
        dice: (K,) Dice of each class, background first, 0 to 1; NaN where a class does not occur.
        image: (X, Y, Z) first modality, for pictures.
        truth: (X, Y, Z) class indices, 255 = ignored.
        labels: (X, Y, Z) class indices that the network gave.
    """

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
    head = load_input({name: subject.images[name] for name in modalities}, modalities, normalisation)
    truth = read_label(subject.label, card)
    require_same_grid(head.volumes[0], truth, modalities[0], "the label")
    labels = segment_volume(engine, head.images, head.mask, tiling, progress)
    scores = dice(confusion_matrix(truth.data, labels, len(card.labels)))
    return Score(scores, head.volumes[0].data, truth.data, labels)


def summarise(scores: Mapping[str, NDArray[np.float64]], card: DatasetCard) -> dict[str, Any]:
    """Put the Dice of each subject into the form of scores.json: per subject and class, and both averages by name.

    `foreground_mean` leaves background out; `thesis_convention` counts it, as the averages of the thesis' tables do.
    """
    names = [label.name for label in card.labels]
    rows = [
        {
            "subject": subject,
            "dice": {name: _number(value) for name, value in zip(names, values, strict=True)},
            "foreground_mean": _number(mean_dice(values, background=False)),
            "thesis_convention": _number(mean_dice(values, background=True)),
        }
        for subject, values in scores.items()
    ]
    mean = np.nanmean(np.stack(list(scores.values())), axis=0)
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
