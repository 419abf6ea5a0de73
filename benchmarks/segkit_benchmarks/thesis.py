"""The figures of the thesis that segkit began with: Adaloglou 2019, MSc thesis, Patras, chapter 6.

Dice in %, each of one held-out subject. Every average exceeds the mean of its three classes: background counts in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Scores = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the thesis' tables.

    Attributes:
        title: as it is printed there.
        models: the networks of segkit that stand on it.
        modalities: how many it took of each challenge's; 0 where it was not run.
        dsc: challenge -> "average" (background counted) and Dice of each class, %.
    """

    title: str
    models: tuple[str, ...]
    modalities: Mapping[str, int]
    dsc: Mapping[str, Scores]


ISEG, MRBRAINS = "iSEG 2017", "MRBrainS 2018"


def _scores(average: float, csf: float, gm: float, wm: float) -> Scores:
    return {"average": average, "CSF": csf, "GM": gm, "WM": wm}


ROWS = (
    Row(
        title="VNet",
        models=("vnet",),
        modalities={ISEG: 1, MRBRAINS: 1},
        dsc={ISEG: _scores(87.20, 92.53, 71.42, 84.88), MRBRAINS: _scores(83.04, 79.88, 83.04, 77.34)},
    ),
    Row(
        title="VNet light",
        models=("vnet-light",),
        modalities={ISEG: 1, MRBRAINS: 1},
        dsc={ISEG: _scores(83.79, 87.51, 69.07, 80.04), MRBRAINS: _scores(82.63, 77.80, 84.85, 76.15)},
    ),
    Row(
        title="3D-UNet",
        models=("unet3d", "unet3d-residual"),
        modalities={ISEG: 2, MRBRAINS: 3},
        dsc={ISEG: _scores(93.84, 94.99, 90.84, 89.51), MRBRAINS: _scores(86.64, 80.57, 85.01, 82.83)},
    ),
    Row(
        title="3D-DenseNet",
        models=("densenet3d",),
        modalities={ISEG: 2, MRBRAINS: 3},
        dsc={ISEG: _scores(75.51, 79.40, 74.90, 63.92), MRBRAINS: _scores(65.11, 59.96, 49.93, 67.02)},
    ),
    Row(
        title="2-stream late fusion",
        models=("densenet3d-2stream-late",),
        modalities={ISEG: 2, MRBRAINS: 2},
        dsc={ISEG: _scores(76.65, 79.51, 72.43, 63.01), MRBRAINS: _scores(68.21, 54.00, 60.42, 71.75)},
    ),
    Row(
        title="2-stream early fusion",
        models=("densenet3d-2stream-early",),
        modalities={ISEG: 2, MRBRAINS: 2},
        dsc={ISEG: _scores(78.63, 86.23, 75.72, 70.71), MRBRAINS: _scores(70.02, 64.07, 61.01, 71.97)},
    ),
    Row(
        title="3-stream early fusion",
        models=("densenet3d-3stream-early",),
        modalities={ISEG: 0, MRBRAINS: 3},
        dsc={MRBRAINS: _scores(76.89, 72.06, 69.43, 80.08)},
    ),
)
