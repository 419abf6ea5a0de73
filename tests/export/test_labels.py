"""Labels in the graph: beside the logits, and what is proven where nothing is blended."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from segkit import Registry
from segkit.errors import DataError, VerificationFailed
from segkit.run import Run
from segkit_export import variants
from segkit_export.exporter import Request, export
from segkit_export.graph_edit import add_labels
from segkit_export.tensorrt_build import EngineRequest, build_engine
from segkit_export.variants import Variants
from segkit_runtime.engines import open_engine
from segkit_runtime.layout import MODEL

from .conftest import PATCH
from .test_exporter import request
from .test_tensorrt_build import needs_rtx

RUNTIMES = ["onnxruntime", "openvino"]


@pytest.fixture(scope="module")
def scores() -> bytes:
    """Gives its image (B, 3, X, Y, Z) back as logits; batch and size are open."""
    shape = ["batch", 3, "x", "y", "z"]
    weights = helper.make_tensor("weights", TensorProto.FLOAT, [3, 3, 1, 1, 1], np.eye(3).ravel())
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "weights"], ["logits"])],
        "scores",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(model.SerializeToString())


@pytest.fixture
def equals() -> NDArray[np.float32]:
    """Whole numbers of which many are equal."""
    return np.random.default_rng(0).integers(-1, 2, (2, 3, 5, 6, 7)).astype(np.float32)


def outputs(content: bytes) -> dict[str, tuple[int, list[str | int]]]:
    graph = onnx.load_model_from_string(content).graph
    tensors = {value.name: value.type.tensor_type for value in graph.output}
    return {
        name: (kind.elem_type, [side.dim_param or side.dim_value for side in kind.shape.dim])
        for name, kind in tensors.items()
    }


def test_the_outputs_are_logits_labels_and_a_mean_and_open_sides_stay_open(scores: bytes) -> None:
    made = add_labels(scores)
    assert outputs(made) == {
        "logits": (TensorProto.FLOAT, ["batch", 3, "x", "y", "z"]),
        "labels": (TensorProto.UINT8, ["batch", "x", "y", "z"]),
        "mean_logit": (TensorProto.FLOAT, ["batch"]),
    }
    assert made == add_labels(scores)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_of_equal_logits_the_first_class_is_taken_as_numpy_does(
    scores: bytes, equals: NDArray[np.float32], runtime: str
) -> None:
    engine = open_engine(runtime, add_labels(scores), output="labels")
    labels = engine.run(equals)
    assert labels.dtype == np.uint8
    assert np.array_equal(labels, equals.argmax(axis=1))
    assert np.array_equal(open_engine(runtime, add_labels(scores)).run(equals), equals)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_logit_that_is_no_number_is_an_error_though_labels_hide_it(
    scores: bytes, equals: NDArray[np.float32], runtime: str, bad: float
) -> None:
    equals[1, 2, 3, 3, 3] = bad
    with pytest.raises(DataError, match=f"expected finite logits from {runtime}"):
        open_engine(runtime, add_labels(scores), output="labels").run(equals)


def test_every_precision_gets_them_as_the_last_step_of_its_making(unet_onnx: bytes) -> None:
    patch = np.random.default_rng(0).standard_normal((1, 1, *PATCH)).astype(np.float32)
    made = Variants(unet_onnx, lambda: [patch], labels=True)
    plain = Variants(unet_onnx, lambda: [patch])
    for one, other in (
        (made.fp32, plain.fp32),
        (made.half("fp16"), plain.half("fp16")),
        (made.half("bf16"), plain.half("bf16")),
        (made.quantised("openvino"), plain.quantised("openvino")),
        (made.quantised("tensorrt"), plain.quantised("tensorrt")),
    ):
        assert one.model.outputs == list(outputs(one.onnx)) == ["logits", "labels", "mean_logit"]
        assert other.model.outputs == list(outputs(other.onnx)) == ["logits"]
        assert one.onnx == add_labels(other.onnx)
        assert outputs(one.onnx)["labels"] == (TensorProto.UINT8, [1, *PATCH])


@needs_rtx
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_tensorrt_builds_all_three_outputs(unet_onnx: bytes, precision: str) -> None:
    made = Variants(unet_onnx, list, labels=True)
    onnx_file = made.fp32.onnx if precision == "fp32" else made.half(precision).onnx  # type: ignore[arg-type]
    built = build_engine(onnx_file, request=EngineRequest(precision=precision))  # type: ignore[arg-type]
    assert built.activation_bytes > 0


def test_a_run_whose_tiles_do_not_overlap_is_proven_on_the_labels_that_it_tells(registry: Registry, run: Run) -> None:
    assert run.config.overlap == 0
    bundle = export(Request(name=str(run.folder)), registry).bundle
    (model,) = bundle.manifest.models
    assert model.outputs == list(outputs(bundle.read(MODEL))) == ["logits", "labels", "mean_logit"]
    assert all(proof.proven and proof.label_agreement > 0.9999 for proof in bundle.manifest.proofs)


def test_labels_that_are_not_torchs_are_caught_though_the_logits_are(
    registry: Registry, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def least(content: bytes) -> bytes:
        model = onnx.load_model_from_string(add_labels(content))
        (node,) = (node for node in model.graph.node if node.op_type == "ArgMax")
        node.op_type = "ArgMin"
        return bytes(model.SerializeToString())

    monkeypatch.setattr(variants, "add_labels", least)
    with pytest.raises(VerificationFailed, match=r"expected onnxruntime in fp32 to do what torch does .* agrees on "):
        export(Request(name=str(run.folder)), registry)
    assert not (run.folder / "unet3d.segkit").exists()


def test_where_tiles_overlap_logits_are_blended_and_the_file_has_nothing_else(
    registry: Registry, tmp_path: Path
) -> None:
    bundle = export(request(tmp_path / "x.segkit"), registry).bundle
    assert bundle.manifest.inference.overlap > 0
    assert [model.outputs for model in bundle.manifest.models] == [["logits"]]
    assert list(outputs(bundle.read(MODEL))) == ["logits"]
