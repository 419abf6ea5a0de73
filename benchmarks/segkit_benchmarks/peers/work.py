"""What `segkit bench peers` does: networks, volumes, and the cases in which all sides do the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from segkit.cards import OptionValue, Size

MODALITIES = ("T1", "T2")
CLASSES = 4
SEGKIT = "segkit"
OPENVINO, ONNXRUNTIME = "segkit, openvino", "segkit, onnxruntime"
OPENVINO_BF16, OPENVINO_INT8 = "segkit, openvino bf16", "segkit, openvino int8"
MONAI, MONAI_BF16, MONAI_CROPPED = "MONAI", "MONAI, bf16", "MONAI, cropped"
TORCHIO, NNUNET, NNUNET_CROPPED = "TorchIO", "nnU-Net", "nnU-Net, cropped"
TORCH, MEDICALZOO = "torch", "MedicalZoo"
PHANTOM_SEED = 11
PROGRAM_OVERLAP = 0.5
"""Of tiles, in programs that are started anew in each round."""

Content = Literal["dense", "stripped", "check"]
"""Of a volume: no voxel is zero; zero around the brain; the middle of a stripped one, on which labels are compared."""


@dataclass(frozen=True)
class Case:
    """What all sides do.

    Attributes:
        content: of the volume.
        overlap: of patches; 0, or 0.5 with Gaussian weights.
        sides: who does it. Not all do everything: that would take an hour, and say little more.
    """

    content: Content
    overlap: float
    sides: tuple[str, ...] = field(default=(), compare=False)

    def __str__(self) -> str:
        return f"{self.content}, " + ("no overlap" if self.overlap == 0 else f"overlap {self.overlap:g}, Gaussian")


@dataclass(frozen=True, kw_only=True)
class Net:
    """A network that volumes are segmented with.

    Attributes:
        model: name of the plugin.
        options: its options.
        channels: of its input.
        patch: (x, y, z) voxels.
        cases: that it is measured in.
    """

    model: str
    options: Mapping[str, OptionValue] = field(default_factory=dict)
    channels: int
    patch: Size
    cases: tuple[Case, ...]


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is measured.

    Attributes:
        nets: of the volumes; process start and the whole run take the first.
        preset: of the phantom.
    """

    nets: tuple[Net, ...]
    preset: str


_FIRST = (OPENVINO, OPENVINO_INT8, OPENVINO_BF16, MONAI, MONAI_BF16)
_UNET_CASES = (
    Case("dense", 0, (*_FIRST, ONNXRUNTIME, TORCHIO, TORCH, MEDICALZOO)),
    Case("stripped", 0, (*_FIRST, MONAI_CROPPED, MEDICALZOO)),
    Case("dense", 0.5, (*_FIRST, NNUNET)),
    Case("stripped", 0.5, (OPENVINO, OPENVINO_INT8, OPENVINO_BF16, MONAI_CROPPED, NNUNET_CROPPED)),
)
_VNET_CASES = (Case("dense", 0, (*_FIRST, ONNXRUNTIME, MEDICALZOO)),)

FULL = Work(
    nets=(
        Net(
            model="unet3d-residual",
            options={"width": 16},
            channels=2,
            patch=(128, 128, 64),
            cases=_UNET_CASES,
        ),
        Net(model="vnet", channels=1, patch=(128, 128, 64), cases=_VNET_CASES),
    ),
    preset="iseg",
)
"""256x192x144 voxels, as in iSEG-2017. The first network is the UNet3D of MedicalZoo, the second its VNet."""

QUICK = Work(
    nets=(replace(FULL.nets[0], options={"width": 4}, patch=(32, 32, 32)),),
    preset="mini",
)
"""80x96x80 voxels of 2 mm, and a quarter of the width: it shows that everything runs, not how fast."""


def bundle_path(folder: Path, model: str, overlap: float) -> Path:
    """Where the export of a network for tiles of an overlap is."""
    return folder / f"{model}-overlap-{overlap:g}.segkit"


@dataclass(frozen=True, kw_only=True)
class Task:
    """What one side is told.

    Attributes:
        folder: holds all that was prepared.
        network: see `segkit_benchmarks.peers.network.load_network`.
        model: its name, and that of its files.
        channels: of its input.
        patch: (x, y, z) voxels.
        case: what is done.
        labels: where the labels of the check volume go.
        threads: of the CPU.
    """

    folder: Path
    network: Mapping[str, Any]
    model: str
    channels: int
    patch: Size
    case: Case
    labels: Path
    threads: int

    def read(self, content: Content) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Normalised images (C, X, Y, Z) and the mask (X, Y, Z) of voxels that are not zero."""
        images: NDArray[np.float32] = np.load(self.folder / f"{content}.npy")[: self.channels]
        mask: NDArray[np.bool_] = np.load(self.folder / f"{content}-mask.npy")
        return images, mask
