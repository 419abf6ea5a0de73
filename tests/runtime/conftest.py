"""Small heads, and a small bundle whose answer is known voxel by voxel."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from segkit_export.graph_edit import add_labels
from segkit_runtime.bundle import Bundle, write_bundle
from segkit_runtime.manifest import (
    CompiledEngine,
    Inference,
    Label,
    Manifest,
    Model,
    Network,
    Proof,
    Spacing,
    Tolerance,
    Weights,
)

MakeBundle = Callable[..., Path]


def make_onnx(
    channels: int = 2, classes: int = 3, scale: float = 1.0, last: float = 1.0, labels: bool = False
) -> bytes:
    """A convolution of three classes: background where both images are weak, else the stronger image.

    They are the first and the last channel, this one times `last`. It is looked at one voxel to the right, so an image
    that was not turned to RAS gives other labels.
    """
    weights = np.zeros((classes, channels, 3, 3, 3), np.float32)
    weights[1, 0, 1, 1, 1] = scale
    weights[2, -1, 2, 1, 1] = scale * last
    bias = np.array([10.5] + [0.0] * (classes - 1), np.float32)
    nodes = [helper.make_node("Conv", ["image", "weights", "bias"], ["logits"], pads=[1] * 6)]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", classes, "x", "y", "z"])]
    graph = helper.make_graph(
        nodes,
        "threshold",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["b", channels, "x", "y", "z"])],
        outputs,
        [onnx.numpy_helper.from_array(weights, "weights"), onnx.numpy_helper.from_array(bias, "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    content = bytes(model.SerializeToString())
    return add_labels(content) if labels else content


def make_proof(runtime: str, **changes: Any) -> Proof:
    version = {"openvino": "2026.4.1", "onnxruntime": "1.32.0"}[runtime]
    facts = {
        "runtime": runtime,
        "version": version,
        "device": "cpu",
        "precision": "fp32",
        "model": "model.onnx",
        "patches": 4,
        "max_abs_logit_difference": 1e-6,
        "mean_abs_logit_difference": 1e-7,
        "p999_abs_logit_difference": 9e-7,
        "max_abs_logit": 30.0,
        "label_agreement": 1.0,
        "least_dice": 1.0,
        "voxels": 1000,
        "volumes": ["a made-up head"],
        "tolerance": Tolerance(most_logit_difference=1e-3, least_label_agreement=0.9999, most_dice_difference=1e-3),
        "proven": True,
    }
    return Proof(**{**facts, **changes})


def make_engine(**changes: Any) -> CompiledEngine:
    """What a manifest says of an engine that was built from an empty file."""
    facts: dict[str, Any] = {
        "file": "engines/toy.engine",
        "runtime": "tensorrt_rtx",
        "version": "1.7.1.116",
        "precision": "fp16",
        "model": "model.onnx",
        "onnx_sha256": hashlib.sha256(b"").hexdigest(),
        "shapes": ([1, 2, 8, 8, 8],) * 3,
        "targets": ["sm80+"],
        "flags": [],
        "build_seconds": 1.0,
        "activation_bytes": 96 * 2**20,
        "weight_bytes": 174 * 2**20,
        "status": "built, not run",
    }
    return CompiledEngine(**{**facts, **changes})


def make_manifest(model: bytes, **changes: Any) -> Manifest:
    facts: dict[str, Any] = {
        "name": "threshold",
        "created": "2026-01-01T00:00:00Z",
        "segkit_version": "0.1.0",
        "modalities": ["T1", "T2"],
        "spacing": Spacing(least_mm=(0.9, 1.0, 1.1), most_mm=(1.1, 1.2, 1.3)),
        "preprocessing": {"normalisation": "none", "background": "zero"},
        "inference": Inference(patch=(8, 8, 8), overlap=0.5, blending="gaussian"),
        "labels": [
            Label(code=0, name="background"),
            Label(code=150, name="grey matter"),
            Label(code=250, name="white matter"),
        ],
        "network": Network(
            model="segkit3d:threshold",
            version="0.1.0",
            options={"width": 1},
            parameters=165,
            layers={"convolutions": 1},
            layer_rules={"convolutions": "calls of a convolution"},
            macs=82944,
        ),
        "weights": Weights(trained=True, dataset="made up", train_subjects=["1"], dice={"grey matter": 0.9}),
        "models": [Model(file="model.onnx", precision="fp32", opset=20, sha256=hashlib.sha256(model).hexdigest())],
        "proofs": [make_proof("openvino"), make_proof("onnxruntime")],
        "engines": [],
        "software": {"torch": "2.13.0"},
    }
    return Manifest(**{**facts, **changes})


@pytest.fixture
def make_bundle(tmp_path: Path) -> MakeBundle:
    """Writes a bundle; `files` are added to it, and other keywords change its manifest."""

    def make(
        name: str = "threshold.segkit",
        model: bytes | None = None,
        files: Mapping[str, bytes] | None = None,
        **changes: Any,
    ) -> Path:
        content = make_onnx() if model is None else model
        contents = {"model.onnx": content, "engines/toy.engine": b"not a real engine", **(files or {})}
        return write_bundle(tmp_path / name, make_manifest(content, **changes), contents).folder

    return make


@pytest.fixture
def bundle(make_bundle: MakeBundle) -> Path:
    """A bundle that is as it should be."""
    return make_bundle()


@pytest.fixture
def opened(bundle: Path) -> Bundle:
    return Bundle.open(bundle)


@pytest.fixture(scope="session")
def head_arrays() -> dict[str, np.ndarray]:
    """Two images (14, 17, 12), zero around a box, in RAS."""
    rng = np.random.default_rng(3)
    inside = np.zeros((14, 17, 12), bool)
    inside[2:12, 3:15, 1:10] = True
    # Even and odd numbers: no two classes are ever equally likely.
    drawn = {"T1": 2 * rng.integers(1, 15, inside.shape), "T2": 2 * rng.integers(0, 15, inside.shape) + 1}
    return {name: np.where(inside, values, 0).astype(np.int16) for name, values in drawn.items()}


@pytest.fixture(scope="session")
def affine() -> np.ndarray:
    """RAS, 1.0 x 1.1 x 1.2 mm, no rotation."""
    return np.array([[1.0, 0, 0, -7.25], [0, 1.1, 0, -20.5], [0, 0, 1.2, 3.75], [0, 0, 0, 1]])


@pytest.fixture
def head(tmp_path: Path, head_arrays: dict[str, np.ndarray], affine: np.ndarray) -> dict[str, Path]:
    """The files of a head in RAS."""
    return save_head(tmp_path / "head", head_arrays, affine)


def save_head(folder: Path, arrays: dict[str, np.ndarray], affine: np.ndarray) -> dict[str, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        image = nib.Nifti1Image(array, affine)
        image.header.set_xyzt_units("mm", "sec")
        image.to_filename(folder / f"{name}.nii.gz")
    return {name: folder / f"{name}.nii.gz" for name in arrays}


@pytest.fixture
def without_module(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes a module look as if it were not installed."""

    def hide(name: str) -> None:
        real = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda module, package=None: None if module == name else real(module, package)
        )

    return hide


@pytest.fixture(scope="session", name="make_onnx")
def make_onnx_fixture() -> Callable[..., bytes]:
    return make_onnx


@pytest.fixture(scope="session", name="make_manifest")
def make_manifest_fixture() -> Callable[..., Manifest]:
    return make_manifest


@pytest.fixture(scope="session", name="make_engine")
def make_engine_fixture() -> Callable[..., CompiledEngine]:
    return make_engine


@pytest.fixture(scope="session", name="make_proof")
def make_proof_fixture() -> Callable[..., Proof]:
    return make_proof


@pytest.fixture(scope="session", name="save_head")
def save_head_fixture() -> Callable[..., dict[str, Path]]:
    return save_head
