"""A small U-Net, its ONNX file, and a run that was never trained but has everything a run has."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from segkit import Registry
from segkit.preprocess import Preprocessing
from segkit.run import Run, RunConfig
from segkit_export.onnx_export import to_onnx

PATCH = (16, 16, 16)
OPTIONS = {"width": 4, "levels": 2}


def build_unet(registry: Registry, channels: int = 1, classes: int = 4) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return registry.build_model("unet3d", channels, classes, OPTIONS).eval()


@pytest.fixture(scope="session")
def unet(registry: Registry) -> torch.nn.Module:
    return build_unet(registry)


@pytest.fixture(scope="session")
def unet_onnx(unet: torch.nn.Module) -> bytes:
    return to_onnx(unet, 1, PATCH, {"segkit.name": "unet3d"})


@pytest.fixture
def run(tmp_path: Path, phantom_folder: Path, registry: Registry) -> Run:
    config = RunConfig(
        recipe="segkit",
        model="unet3d",
        model_version="0.1.0",
        options=OPTIONS,
        dataset="phantom",
        dataset_options={},
        data=phantom_folder,
        store=Path("store"),
        modalities=("T1",),
        labels=registry.card("dataset", "phantom").labels,
        ignored=(),
        train_subjects=("sub-001", "sub-002"),
        train_labels_sha256=(),
        held_out_subjects=("sub-003",),
        preprocessing=Preprocessing(background="zero"),
        least_spacing_mm=(1.9, 1.9, 1.9),
        most_spacing_mm=(2.1, 2.1, 2.1),
        patch=(48, 48, 48),
        loss="dice-ce",
        loss_options={},
        sampler="nonempty",
        augmentation=(),
        optimizer="sgd",
        momentum=0.9,
        learning_rate=0.01,
        schedule="constant",
        weight_decay=0.0,
        precision="fp32",
        epochs=1,
        patches_per_epoch=1,
        batch_size=1,
        accumulation=1,
        processes=1,
        fixed_patches=False,
        validation_patches=1,
        patience=0,
        frozen=(),
        initial=None,
        overlap=0.0,
        seed=0,
        threads=1,
        deterministic=False,
        software={},
    )
    made = Run.create(tmp_path / "run", config)
    save_file(build_unet(registry).state_dict(), made.best)
    return made
