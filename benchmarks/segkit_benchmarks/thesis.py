"""The figures of the thesis that segkit began with: Adaloglou 2019, MSc thesis, Patras, chapter 6.

Dice in %, each of one held-out subject. Every average exceeds the mean of its three classes: background counts in it.
Table 1 was measured on a GTX 1080 at batch size 1; it has no latency and no memory of inference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from segkit.cards import Size

Scores = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Printed:
    """A row of Table 1, as it is printed there.

    Attributes:
        parameters_million: millions of parameters.
        layers: number of layers; the table does not say how they were counted.
        layer_rule: the rule of `segkit.complexity.RULES` that the number fits best.
        patches: challenge -> sub-volume in voxels.
        modalities: numbers of modalities that it was run with.
        memory_gb: challenge -> GPU memory of training.
        hours: of training.
    """

    parameters_million: float
    layers: int
    layer_rule: str
    patches: Mapping[str, Size]
    modalities: tuple[int, ...]
    memory_gb: Mapping[str, float]
    hours: float


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the thesis' tables.

    Attributes:
        title: as it is printed there.
        models: the networks of segkit that stand on it.
        modalities: how many it took of each challenge's; 0 where it was not run.
        dsc: challenge -> "average" (background counted) and Dice of each class, %.
        table1: what Table 1 says of it.
    """

    title: str
    models: tuple[str, ...]
    modalities: Mapping[str, int]
    dsc: Mapping[str, Scores]
    table1: Printed


ISEG, MRBRAINS = "iSEG 2017", "MRBrainS 2018"


def _scores(average: float, csf: float, gm: float, wm: float) -> Scores:
    return {"average": average, "CSF": csf, "GM": gm, "WM": wm}


def _large(
    parameters_million: float, layers: int, rule: str, modalities: tuple[int, ...], gb: Scores, hours: float
) -> Printed:
    """A network of large patches."""
    return Printed(
        parameters_million=parameters_million,
        layers=layers,
        layer_rule=rule,
        patches={ISEG: (128, 128, 64), MRBRAINS: (128, 128, 32)},
        modalities=modalities,
        memory_gb=gb,
        hours=hours,
    )


def _small(parameters_million: float, layers: int, modalities: tuple[int, ...], gb: float, hours: float) -> Printed:
    """A network of patches of 28^3, for which one figure stands for both challenges."""
    return Printed(
        parameters_million=parameters_million,
        layers=layers,
        layer_rule="leaf_calls",
        patches={ISEG: (28, 28, 28), MRBRAINS: (28, 28, 28)},
        modalities=modalities,
        memory_gb={ISEG: gb, MRBRAINS: gb},
        hours=hours,
    )


ROWS = (
    Row(
        title="VNet",
        models=("vnet",),
        modalities={ISEG: 1, MRBRAINS: 1},
        dsc={ISEG: _scores(87.20, 92.53, 71.42, 84.88), MRBRAINS: _scores(83.04, 79.88, 83.04, 77.34)},
        table1=_large(45, 113, "module_calls", (1,), {ISEG: 4.1, MRBRAINS: 3.9}, 6),
    ),
    Row(
        title="VNet light",
        models=("vnet-light",),
        modalities={ISEG: 1, MRBRAINS: 1},
        dsc={ISEG: _scores(83.79, 87.51, 69.07, 80.04), MRBRAINS: _scores(82.63, 77.80, 84.85, 76.15)},
        table1=_large(25, 84, "module_calls", (1,), {ISEG: 2.5, MRBRAINS: 2.0}, 5),
    ),
    Row(
        title="3D-UNet",
        models=("unet3d", "unet3d-residual"),
        modalities={ISEG: 2, MRBRAINS: 3},
        dsc={ISEG: _scores(93.84, 94.99, 90.84, 89.51), MRBRAINS: _scores(86.64, 80.57, 85.01, 82.83)},
        table1=_large(10, 95, "leaf_calls", (1, 2, 3), {ISEG: 3.7, MRBRAINS: 1.9}, 4),
    ),
    Row(
        title="3D-DenseNet",
        models=("densenet3d",),
        modalities={ISEG: 2, MRBRAINS: 3},
        dsc={ISEG: _scores(75.51, 79.40, 74.90, 63.92), MRBRAINS: _scores(65.11, 59.96, 49.93, 67.02)},
        table1=_small(2.7, 34, (1, 2, 3), 1.6, 10),
    ),
    Row(
        title="2-stream late fusion",
        models=("densenet3d-2stream-late",),
        modalities={ISEG: 2, MRBRAINS: 2},
        dsc={ISEG: _scores(76.65, 79.51, 72.43, 63.01), MRBRAINS: _scores(68.21, 54.00, 60.42, 71.75)},
        table1=_small(5.2, 67, (2,), 2.0, 12),
    ),
    Row(
        title="2-stream early fusion",
        models=("densenet3d-2stream-early",),
        modalities={ISEG: 2, MRBRAINS: 2},
        dsc={ISEG: _scores(78.63, 86.23, 75.72, 70.71), MRBRAINS: _scores(70.02, 64.07, 61.01, 71.97)},
        table1=_small(2.9, 40, (2,), 1.7, 12),
    ),
    Row(
        title="3-stream early fusion",
        models=("densenet3d-3stream-early",),
        modalities={ISEG: 0, MRBRAINS: 3},
        dsc={MRBRAINS: _scores(76.89, 72.06, 69.43, 80.08)},
        table1=_small(3.4, 43, (3,), 2.5, 16),
    ),
)

_GPU = (
    "the printed figure is what a GPU held; the prediction counts tensors alone, and a context, workspaces of kernels "
    "and the allocator's blocks come on top"
)
_HOURS = (
    "printed for a GTX 1080 and 120 to 400 epochs, it does not say which; here 200 epochs of the thesis' number of "
    "patches, at the time of a step on this machine"
)
_FUSION = (
    "the printed millions fit a dense block of eight layers, the printed layers one of nine; nine are built, and each "
    "modality has a first layer of its own"
)
_COMMON = {"memory": _GPU, "hours": _HOURS}

REASONS: Mapping[str, Mapping[str, str]] = {
    "vnet": {
        **_COMMON,
        "memory": f"{_GPU}; that the printed figure hardly falls for half the patch says how much of it is no tensor",
    },
    "vnet-light": {
        **_COMMON,
        "parameters": "a V-Net without its deepest step down and up has 12.2 million, and counts to the printed layers",
    },
    "unet3d": {
        **_COMMON,
        "parameters": "this is the 3D U-Net of Çiçek 2016 that the text describes; the printed figures fit the public "
        "code's network, which is unet3d-residual",
        "layers": "the printed number fits the public code's network, which is unet3d-residual",
    },
    "unet3d-residual": {
        **_COMMON,
        "parameters": "the printed figure fits the public code's network with the blocks that it calls twice counted "
        "twice; here each has weights of its own",
        "layers": "the printed number counts a softmax, which is part of no network here",
    },
    "densenet3d": _COMMON,
    "densenet3d-2stream-late": _COMMON,
    "densenet3d-2stream-early": {**_COMMON, "parameters": _FUSION},
    "densenet3d-3stream-early": {**_COMMON, "parameters": _FUSION},
}
"""Model -> quantity of Table 1 -> why ours is another, where that is known."""
