"""Half precision: what is rounded, what stays fp32, and what a GPU would make of it."""

from __future__ import annotations

import importlib.util
from collections import Counter
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from segkit.errors import UsageError
from segkit_export.emulate import emulate
from segkit_export.errors import ExportFailed
from segkit_export.graph_edit import HalfPrecision
from segkit_export.node_names import module_path
from segkit_export.onnx_export import to_onnx
from segkit_export.precision import lower
from segkit_export.tensorrt_build import EngineRequest, build_engine
from segkit_runtime.engines import open_engine

from .conftest import PATCH

HALVES: tuple[HalfPrecision, ...] = ("fp16", "bf16")
ELEM_TYPES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
DTYPES: dict[str, Any] = {"fp16": np.float16, "bf16": ml_dtypes.bfloat16}

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="needs tensorrt_rtx: pip install segkit3d[trt]"
)
both = pytest.mark.parametrize("precision", HALVES)


class Small(torch.nn.Module):
    """All that needs an island: an instance norm, a transposed convolution, a resize and a softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.down = torch.nn.Sequential(
            torch.nn.Conv3d(1, 8, 3, stride=2, padding=1), torch.nn.InstanceNorm3d(8, affine=True), torch.nn.LeakyReLU()
        )
        self.up = torch.nn.ConvTranspose3d(8, 4, 2, stride=2)
        self.grow = torch.nn.Upsample(scale_factor=2, mode="trilinear")
        self.head = torch.nn.Conv3d(12, 4, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.down(images)
        logits: torch.Tensor = self.head(torch.cat([self.up(features), self.grow(features)], 1))
        return logits * torch.softmax(logits, 1)


@pytest.fixture(scope="module")
def small() -> bytes:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return to_onnx(Small().eval(), 1, PATCH)


@pytest.fixture(scope="module")
def images() -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((1, 1, *PATCH), np.float32)


def output_types(content: bytes) -> dict[str, int]:
    """The type of what each node gives, by the node's name; all of its outputs have one."""
    graph = onnx.load_from_string(content).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}
    return {node.name: types[node.output[0]] for node in graph.node}


def casts_of(content: bytes) -> set[str]:
    return {node.name for node in onnx.load_from_string(content).graph.node if node.op_type == "Cast"}


def operators_in(content: bytes, elem_type: int) -> set[str]:
    types = output_types(content)
    return {node.op_type for node in onnx.load_from_string(content).graph.node if types[node.name] == elem_type}


def weights_of(content: bytes) -> dict[str, NDArray[Any]]:
    return {
        weights.name: numpy_helper.to_array(weights) for weights in onnx.load_from_string(content).graph.initializer
    }


def make_graph(
    nodes: list[onnx.NodeProto], weights: dict[str, NDArray[Any]], shape: tuple[int, ...] = (1, 1, 4, 4, 4)
) -> bytes:
    """From `image` to `logits`, both of one shape."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("image", "logits")]
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "graph", ends[:1], ends[1:], tensors)
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()
    )


@both
def test_input_and_output_stay_fp32_under_their_names(small: bytes, precision: HalfPrecision) -> None:
    model = onnx.load_from_string(lower(small, precision))
    ends = [*model.graph.input, *model.graph.output]
    assert [end.name for end in ends] == ["image", "logits"]
    assert {end.type.tensor_type.elem_type for end in ends} == {TensorProto.FLOAT}
    assert model.opset_import[0].version == {"fp16": 20, "bf16": 22}[precision]


@both
def test_convolutions_are_lowered_with_their_weights(small: bytes, precision: HalfPrecision) -> None:
    content = lower(small, precision)
    assert {"Conv", "LeakyRelu", "Concat"} <= operators_in(content, ELEM_TYPES[precision])
    assert "Conv" not in operators_in(content, TensorProto.FLOAT)
    exact, rounded = weights_of(small), weights_of(content)
    np.testing.assert_array_equal(rounded["head.weight"], exact["head.weight"].astype(DTYPES[precision]))


@both
def test_norms_from_mean_to_root_and_softmaxes_stay_fp32(small: bytes, precision: HalfPrecision) -> None:
    content = lower(small, precision)
    types = output_types(content)
    inside = [name.split("/") for name in types.keys() - casts_of(content) if "/InstanceNormalization/" in name]
    norm = {name[2].split("_")[0]: types["/".join(name)] for name in inside}
    assert set(norm) == {"ReduceMean", "ReduceL2", "AveragePool", "Sub", "Mul", "Add", "Sqrt", "Div"}
    assert set(norm.values()) == {TensorProto.FLOAT}
    assert types["/Softmax"] == TensorProto.FLOAT


class NormTwice(torch.nn.Module):
    """One module whose norms have one name but for a number."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.InstanceNorm3d(1)
        self.between = torch.nn.Conv3d(1, 1, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.norm(self.between(self.norm(images)))
        return found


@both
def test_a_norm_that_is_called_twice_stays_fp32_both_times(precision: HalfPrecision) -> None:
    content = lower(to_onnx(NormTwice().eval(), 1, PATCH), precision)
    types = output_types(content)
    inside = {name: types[name] for name in types.keys() - casts_of(content) if "/InstanceNormalization" in name}
    assert {name.split("/")[1] for name in inside} == {"InstanceNormalization", "InstanceNormalization_2"}
    assert set(inside.values()) == {TensorProto.FLOAT}


def test_transposed_convolutions_stay_fp32_in_bf16_alone(small: bytes) -> None:
    assert output_types(lower(small, "bf16"))["up/ConvTranspose"] == TensorProto.FLOAT
    assert output_types(lower(small, "fp16"))["up/ConvTranspose"] == TensorProto.FLOAT16


def test_norms_that_the_exporter_leaves_stay_fp32(registry: Any) -> None:
    network = torch.nn.Sequential(torch.nn.BatchNorm3d(1), torch.nn.GroupNorm(1, 1), torch.nn.Conv3d(1, 2, 1)).eval()
    kept = operators_in(lower(to_onnx(network, 1, PATCH), "fp16"), TensorProto.FLOAT)
    assert {"BatchNormalization", "InstanceNormalization"} <= kept


@both
def test_the_factors_of_a_resize_stay_fp32(small: bytes, precision: HalfPrecision) -> None:
    model = onnx.load_from_string(lower(small, precision))
    (resize,) = (node for node in model.graph.node if node.op_type == "Resize")
    (factors,) = (tensor for tensor in model.graph.initializer if tensor.name == resize.input[2])
    assert factors.data_type == TensorProto.FLOAT


@both
def test_an_island_and_all_inside_it_stays_fp32_to_the_last_bit(small: bytes, precision: HalfPrecision) -> None:
    content = lower(small, precision, ["down", "/Concat"])
    types = output_types(content)
    inside = {name for name in types.keys() - casts_of(content) if module_path(name).startswith("down")}
    assert {"down.0/Conv", "down.2/LeakyRelu"} < inside
    assert {types[name] for name in (*inside, "/Concat")} == {TensorProto.FLOAT}
    assert types["head/Conv"] == ELEM_TYPES[precision]
    np.testing.assert_array_equal(weights_of(content)["down.0.weight"], weights_of(small)["down.0.weight"])


def test_an_island_that_is_nowhere_is_refused_with_the_modules_there_are(small: bytes) -> None:
    with pytest.raises(UsageError, match=r"got 'dow'; its modules are: down\.0, down\.1, down\.2, grow, head"):
        lower(small, "fp16", ["down.0", "dow"])


@both
def test_no_cast_is_undone_by_the_next_and_none_is_made_twice(small: bytes, precision: HalfPrecision) -> None:
    graph = onnx.load_from_string(lower(small, precision, ["head"])).graph
    casts = [node for node in graph.node if node.op_type == "Cast"]
    assert casts
    assert not {node.output[0] for node in casts} & {node.input[0] for node in casts}
    assert max(Counter((node.input[0], node.attribute[0].i) for node in casts).values()) == 1


@both
def test_the_file_is_valid_sorted_and_the_same_each_time(small: bytes, precision: HalfPrecision) -> None:
    content = lower(small, precision)
    onnx.checker.check_model(content, full_check=True)
    assert lower(small, precision) == content


def test_metadata_is_kept(unet_onnx: bytes) -> None:
    props = onnx.load_from_string(lower(unet_onnx, "fp16")).metadata_props
    assert {prop.key: prop.value for prop in props} == {"segkit.name": "unet3d"}


def test_weights_that_two_take_in_different_types_are_kept_in_both() -> None:
    factor = np.array(1 + 2**-20, np.float32)
    nodes = [
        helper.make_node("Mul", ["image", "factor"], ["a"], name="a/Mul"),
        helper.make_node("Mul", ["a", "factor"], ["logits"], name="b/Mul"),
    ]
    kept = weights_of(lower(make_graph(nodes, {"factor": factor}), "fp16", ["a"]))
    assert {name: (array.dtype, float(array)) for name, array in kept.items()} == {
        "factor": (np.float32, float(factor)),
        "factor_fp16": (np.float16, 1.0),
    }


def test_weights_beyond_fp16_are_named_and_fit_into_bf16() -> None:
    nodes = [helper.make_node("Mul", ["image", "gain"], ["logits"], name="block.scale/Mul")]
    content = make_graph(nodes, {"gain": np.array([70000, 1], np.float32).reshape(2, 1, 1, 1, 1)[:1]})
    with pytest.raises(
        ExportFailed, match=r"at most 65504 for fp16, 'gain' of 'block\.scale' has 70000; export in bf16"
    ):
        lower(content, "fp16")
    assert weights_of(lower(content, "fp16", ["block"]))["gain"] == 70000
    assert weights_of(lower(content, "bf16"))["gain"] == np.array(70000, ml_dtypes.bfloat16)


def test_weights_below_fp16_become_zero() -> None:
    nodes = [helper.make_node("Mul", ["image", "gain"], ["logits"], name="a/Mul")]
    assert weights_of(lower(make_graph(nodes, {"gain": np.array(1e-9, np.float32)}), "fp16"))["gain"] == 0


def test_branches_are_refused() -> None:
    inner = helper.make_graph(
        [helper.make_node("Relu", ["image"], ["inner"])],
        "inner",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, (1, 1, 4, 4, 4))],
    )
    node = helper.make_node("If", ["yes"], ["logits"], then_branch=inner, else_branch=inner)
    with pytest.raises(ExportFailed, match="expected a graph without branches"):
        lower(make_graph([node], {"yes": np.array(True)}), "fp16")


def test_junk_is_refused() -> None:
    with pytest.raises(ExportFailed, match="expected an ONNX file, its reader says"):
        lower(b"no onnx", "fp16")


@both
def test_each_weight_and_each_value_is_rounded_and_sums_are_fp32(precision: HalfPrecision) -> None:
    """Exactly what numpy gives, at each level of optimisation: no runtime may drop a Cast that rounds."""
    dtype = DTYPES[precision]
    rng = np.random.default_rng(0)
    images = (rng.standard_normal((1, 1, 8, 8, 8)) * 10 ** rng.uniform(-9, 4, (1, 1, 8, 8, 8))).astype(np.float32)
    images.flat[:2] = 1 + 2**-12, 1 + 2**-9 + 2**-12
    weights = {"factor": np.array(1.2345678, np.float32), "shift": np.array(0.1, np.float32)}
    nodes = [
        helper.make_node("Mul", ["image", "factor"], ["a"], name="a/Mul"),
        helper.make_node("Relu", ["a"], ["b"], name="b/Relu"),
        helper.make_node("Add", ["b", "shift"], ["logits"], name="c/Add"),
    ]

    def rounded(values: NDArray[np.float32]) -> NDArray[np.float32]:
        return values.astype(dtype).astype(np.float32)

    product = rounded(rounded(images) * rounded(weights["factor"]))
    expected = rounded(np.maximum(product, 0) + rounded(weights["shift"]))
    content = emulate(lower(make_graph(nodes, weights, images.shape), precision), precision)
    for level in onnxruntime.GraphOptimizationLevel.__members__.values():
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = level
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        np.testing.assert_array_equal(session.run(None, {"image": images})[0], expected, err_msg=str(level))
    np.testing.assert_array_equal(open_engine("onnxruntime", content).run(images), expected)


@both
def test_emulation_has_half_precision_between_two_casts_only(small: bytes, precision: HalfPrecision) -> None:
    content = emulate(lower(small, precision), precision)
    onnx.checker.check_model(content, full_check=True)
    assert operators_in(content, ELEM_TYPES[precision]) == {"Cast"}
    assert {array.dtype for array in weights_of(content).values()} <= {np.dtype(np.float32), np.dtype(np.int64)}
    assert emulate(lower(small, precision), precision) == content


def test_sums_of_a_convolution_are_not_rounded_on_the_way() -> None:
    """In fp16, 2048 + 1 is 2048: an accumulator in fp16 would never leave it."""
    kernel = np.ones((1, 1, 4, 4, 4), np.float32)
    nodes = [helper.make_node("Conv", ["image", "kernel"], ["logits"], name="a/Conv", auto_pad="SAME_LOWER")]
    images = np.ones((1, 1, 4, 4, 4), np.float32)
    images[0, 0, 2, 2, 2] = 2048
    logits = open_engine("onnxruntime", emulate(lower(make_graph(nodes, {"kernel": kernel}), "fp16"), "fp16")).run(
        images
    )
    assert logits.max() == np.float16(2048 + 63)


@pytest.mark.parametrize(("precision", "most"), [("fp16", 2e-3), ("bf16", 2e-2)])
@pytest.mark.parametrize("fixture", ["small", "unet_onnx"])
def test_logits_are_those_of_fp32_to_the_digits_that_the_precision_has(
    fixture: str, precision: HalfPrecision, most: float, images: NDArray[np.float32], request: pytest.FixtureRequest
) -> None:
    content = request.getfixturevalue(fixture)
    exact = open_engine("onnxruntime", content).run(images)
    half = open_engine("onnxruntime", emulate(lower(content, precision), precision)).run(images)
    error = np.abs(half - exact).max() / np.abs(exact).max()
    assert most / 1000 < error < most


def test_an_island_mends_what_it_holds(unet_onnx: bytes, images: NDArray[np.float32]) -> None:
    exact = open_engine("onnxruntime", unet_onnx).run(images)

    def error(islands: list[str]) -> float:
        content = emulate(lower(unet_onnx, "bf16", islands), "bf16")
        return float(np.abs(open_engine("onnxruntime", content).run(images) - exact).max())

    names = [node.name for node in onnx.load_from_string(unet_onnx).graph.node]
    assert error(names) == 0
    assert 0 < error(["encoder", "decoder"]) < error([])


@needs_rtx
@both
def test_tensorrt_builds_it_with_less_memory(unet_onnx: bytes, precision: HalfPrecision) -> None:
    full = build_engine(unet_onnx)
    half = build_engine(lower(unet_onnx, precision), request=EngineRequest(precision=precision))
    assert half.weight_bytes < 0.75 * full.weight_bytes
    assert half.activation_bytes < full.activation_bytes


@needs_rtx
@both
def test_tensorrt_builds_each_island(small: bytes, precision: HalfPrecision) -> None:
    for islands in ([], ["down"], ["up", "head"]):
        assert build_engine(lower(small, precision, islands), request=EngineRequest(precision=precision)).engine
