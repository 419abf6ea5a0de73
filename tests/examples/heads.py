"""A head and a bundle that are small, and as real ones are in all that the C++ program has to mind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import onnx
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from onnx import TensorProto, helper

from segkit_export.graph_edit import add_labels
from segkit_runtime.manifest import Inference

Head = dict[str, Path]
SHAPE = (19, 23, 14)
# 1.0 x 1.1 x 1.2 mm, turned by 25 degrees about an axis that is none of the patient's.
_turn = np.array([[0, -3, 2], [3, 0, -1], [-2, 1, 0]]) / np.sqrt(14)
AFFINE = np.eye(4)
AFFINE[:3, :3] = (np.eye(3) + np.sin(0.44) * _turn + (1 - np.cos(0.44)) * _turn @ _turn) * [1.0, 1.1, 1.2]
AFFINE[:3, 3] = [-7.25, -20.5, 3.75]


def make_network(channels: int, with_labels: bool = False) -> bytes:
    """Two convolutions of random weights, whose labels are a mix of three classes.

    Args:
        channels: of its input.
        with_labels: also give the largest class and the mean of the logits, as files for use without overlap do.
    """
    rng = np.random.default_rng(27)
    tensors = {
        "w1": rng.normal(0, 0.4, (6, channels, 3, 3, 3)),
        "b1": rng.normal(0, 0.1, 6),
        "w2": rng.normal(0, 0.4, (3, 6, 3, 3, 3)),
        "b2": np.zeros(3),
    }
    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["hidden"], pads=[1] * 6),
        helper.make_node("LeakyRelu", ["hidden"], ["bent"]),
        helper.make_node("Conv", ["bent", "w2", "b2"], ["logits"], pads=[1] * 6),
    ]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", 3, "x", "y", "z"])]
    graph = helper.make_graph(
        nodes,
        "two-convolutions",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["b", channels, "x", "y", "z"])],
        outputs,
        [onnx.numpy_helper.from_array(value.astype(np.float32), name) for name, value in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    content = bytes(model.SerializeToString())
    return add_labels(content) if with_labels else content


def draw_head(dtype: type[np.generic]) -> dict[str, np.ndarray]:
    """Two images with zeros around an ellipsoid, and a few inside it."""
    rng = np.random.default_rng(5)
    places = np.stack(np.meshgrid(*[np.linspace(-1.2, 1.1, n) for n in SHAPE], indexing="ij"))
    inside = (places**2).sum(0) < 1
    return {
        name: (rng.integers(1, 120, SHAPE) * inside * (rng.random(SHAPE) > 0.02)).astype(dtype) for name in ("T1", "T2")
    }


def save_head(folder: Path, arrays: dict[str, np.ndarray], codes: dict[str, str], ending: str, **fields: Any) -> Head:
    """Write each image with its axes in the order and direction of its code, for example LPS."""
    folder.mkdir()
    for name, array in arrays.items():
        image = nib.Nifti1Image(array, AFFINE)
        image = image.as_reoriented(ornt_transform(io_orientation(AFFINE), axcodes2ornt(codes[name])))
        image.header.set_xyzt_units("mm", "sec")
        for field, value in fields.items():
            image.header[field] = value
        image.to_filename(folder / f"{name}{ending}")
    return {name: folder / f"{name}{ending}" for name in arrays}


def make_small(make_bundle: Callable[..., Path], background: str = "mask", **changes: Any) -> Path:
    facts: dict[str, Any] = {
        "model": make_network(3 if background == "mask" else 2),
        "preprocessing": {"normalisation": "zscore-nonzero", "background": background},
        "inference": Inference(patch=(8, 9, 10), overlap=0.5, blending="gaussian"),
    }
    return make_bundle(**{**facts, **changes})
