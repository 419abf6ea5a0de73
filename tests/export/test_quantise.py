"""int8: what each recipe writes, that its runtime takes it, and that labels are kept."""

from __future__ import annotations

import importlib.util
import logging
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from segkit.errors import MissingExtra, UsageError
from segkit_export.errors import ExportFailed
from segkit_export.onnx_export import to_onnx
from segkit_export.quantise import Recipe, quantise
from segkit_export.tensorrt_build import EngineRequest, build_engine
from segkit_runtime.engines import open_engine

from .conftest import PATCH

RUNTIMES: dict[Recipe, str] = {"tensorrt": "onnxruntime", "onnxruntime": "onnxruntime", "openvino": "openvino"}
needs_nncf = pytest.mark.skipif(
    importlib.util.find_spec("nncf") is None, reason="needs nncf: pip install segkit3d[int8]"
)
needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="needs tensorrt_rtx: pip install segkit3d[trt]"
)
each_recipe = pytest.mark.parametrize("recipe", ["tensorrt", "onnxruntime", pytest.param("openvino", marks=needs_nncf)])


@pytest.fixture(scope="module")
def patches() -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal((1, 1, *PATCH), np.float32) for _ in range(3)]


@pytest.fixture(scope="module")
def made(unet_onnx: bytes, patches: list[NDArray[np.float32]]) -> dict[str, bytes]:
    recipes = [recipe for recipe in RUNTIMES if recipe != "openvino" or importlib.util.find_spec("nncf")]
    return {recipe: quantise(unet_onnx, recipe, patches) for recipe in recipes}


def convolutions(content: bytes) -> list[tuple[str, list[str]]]:
    """Each convolution's name, and what operator makes each of its inputs; "" for weights as they are."""
    graph = onnx.load_from_string(content).graph
    makers = {output: node.op_type for node in graph.node for output in node.output}
    return [
        (node.name, [makers.get(value, "") for value in node.input])
        for node in graph.node
        if node.op_type in ("Conv", "ConvTranspose")
    ]


def weights_of(content: bytes) -> dict[str, NDArray[np.generic]]:
    return {
        weights.name: numpy_helper.to_array(weights) for weights in onnx.load_from_string(content).graph.initializer
    }


@each_recipe
def test_each_convolution_takes_quantised_values_and_weights(recipe: Recipe, made: dict[str, bytes]) -> None:
    onnx.checker.check_model(made[recipe], full_check=True)
    found = convolutions(made[recipe])
    if recipe == "onnxruntime":  # which has no transposed convolution in int8
        assert {makers[1] for name, makers in found if "/ConvTranspose" in name} == {""}
        found = [(name, makers) for name, makers in found if "/ConvTranspose" not in name]
    else:
        assert {name.split("/")[1].split("_")[0] for name, _ in found} == {"Conv", "ConvTranspose"}
    assert {makers[1] for _, makers in found} == {"DequantizeLinear"}
    # NNCF quantises before what only moves voxels about.
    moved = {"MaxPool", "Concat"} if recipe == "openvino" else set()
    assert {makers[0] for _, makers in found} <= {"DequantizeLinear", *moved}


@each_recipe
def test_input_output_and_metadata_are_those_of_fp32(recipe: Recipe, made: dict[str, bytes]) -> None:
    model = onnx.load_from_string(made[recipe])
    ends = [*model.graph.input, *model.graph.output]
    assert [(end.name, end.type.tensor_type.elem_type) for end in ends] == [
        ("image", TensorProto.FLOAT),
        ("logits", TensorProto.FLOAT),
    ]
    assert {prop.key: prop.value for prop in model.metadata_props} == {"segkit.name": "unet3d"}


@each_recipe
def test_its_runtime_keeps_most_labels(
    recipe: Recipe, made: dict[str, bytes], unet_onnx: bytes, patches: list[NDArray[np.float32]]
) -> None:
    exact = open_engine("onnxruntime", unet_onnx).run(patches[0])
    logits = open_engine(RUNTIMES[recipe], made[recipe], precision="int8").run(patches[0])
    assert np.abs(logits - exact).max() > 1e-4
    assert (logits.argmax(1) == exact.argmax(1)).mean() > 0.9


@each_recipe
def test_an_island_is_not_quantised(recipe: Recipe, unet_onnx: bytes, patches: list[NDArray[np.float32]]) -> None:
    found = convolutions(quantise(unet_onnx, recipe, patches[:1], islands=["encoder.0"]))
    for name, makers in found:
        if "/ConvTranspose" not in name:
            assert ("DequantizeLinear" in makers) != name.startswith("encoder.0"), name


@each_recipe
def test_only_openvino_has_its_norms_in_one_piece(recipe: Recipe, patches: list[NDArray[np.float32]]) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.InstanceNorm3d(4), nn.ReLU(), nn.Conv3d(4, 2, 1)).eval()
    found = onnx.load_from_string(quantise(to_onnx(network, 1, PATCH), recipe, patches[:1], islands=["1"])).graph
    norms = [node.name for node in found.node if node.op_type == "InstanceNormalization"]
    assert norms == (["1/InstanceNormalization"] if recipe == "openvino" else [])


def test_two_runs_give_the_same_bytes(
    unet_onnx: bytes, patches: list[NDArray[np.float32]], made: dict[str, bytes]
) -> None:
    for recipe in RUNTIMES.keys() & made.keys():
        assert quantise(unet_onnx, recipe, patches) == made[recipe], recipe


def test_tensorrt_has_int8_weights_per_channel_no_zero_points_and_biases_as_they_were(made: dict[str, bytes]) -> None:
    graph = onnx.load_from_string(made["tensorrt"]).graph
    weights = weights_of(made["tensorrt"])
    pairs = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert {weights[node.input[2]].dtype for node in pairs} == {np.dtype(np.int8)}
    assert not any(weights[node.input[2]].any() for node in pairs)
    makers = {node.output[0]: node for node in graph.node}
    for node in graph.node:
        if node.op_type in ("Conv", "ConvTranspose"):
            scales = weights[makers[node.input[1]].input[1]]
            kernel = weights[makers[makers[node.input[1]].input[0]].input[0]]
            assert scales.size == kernel.shape[1 if node.op_type == "ConvTranspose" else 0]
            assert all(value in weights for value in node.input[2:])


@needs_nncf
def test_openvino_computes_what_the_file_says(made: dict[str, bytes], patches: list[NDArray[np.float32]]) -> None:
    """It gets signed values wrong, so they are unsigned; ONNX Runtime tells what the file says."""
    said = open_engine("onnxruntime", made["openvino"], precision="int8").run(patches[0])
    computed = open_engine("openvino", made["openvino"], precision="int8").run(patches[0])
    # A value that lies between two steps may be rounded either way, here and there.
    assert np.abs(computed - said).mean() < 1e-4 * np.abs(said).max()
    graph = onnx.load_from_string(made["openvino"]).graph
    weights = weights_of(made["openvino"])
    values = [node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] not in weights]
    assert {weights[node.input[2]].dtype for node in values} == {np.dtype(np.uint8)}


@each_recipe
def test_nothing_but_convolutions_is_quantised(recipe: Recipe, patches: list[NDArray[np.float32]]) -> None:
    network = torch.nn.Sequential(
        torch.nn.Conv3d(1, 8, 3, padding=1), torch.nn.InstanceNorm3d(8), torch.nn.PReLU(), torch.nn.Conv3d(8, 2, 1)
    )
    graph = onnx.load_from_string(quantise(to_onnx(network.eval(), 1, PATCH), recipe, patches[:1])).graph
    dequantised = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    takers = {node.op_type for node in graph.node if dequantised & set(node.input)}
    # With ONNX Runtime the output of a convolution is int8 as well, and so what is behind it takes it so.
    assert takers == ({"Conv", "ReduceMean", "Sub"} if recipe == "onnxruntime" else {"Conv"})


class Sums(nn.Module):
    """Sums of two convolutions, of a convolution and something else, and of logits."""

    def __init__(self) -> None:
        super().__init__()
        self.entry = nn.Conv3d(1, 8, 3, padding=1)
        self.inner = nn.Conv3d(8, 8, 3, padding=1)
        self.other = nn.Conv3d(8, 8, 3, padding=1)
        self.heads = nn.ModuleList(nn.Conv3d(8, 2, 1) for _ in range(2))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        first = self.entry(images)
        hidden = nn.functional.leaky_relu(first + self.inner(nn.functional.leaky_relu(first)))
        last = self.other(hidden) + hidden
        return self.heads[0](last) + self.heads[1](hidden)


def summed(content: bytes) -> list[list[str]]:
    """What makes the inputs of each sum: the name of a convolution, or an operator."""
    graph = onnx.load_from_string(content).graph
    makers = {output: node for node in graph.node for output in node.output}
    sums = [[makers[name] for name in node.input] for node in graph.node if node.op_type == "Add"]
    return [[maker.name if maker.op_type == "Conv" else maker.op_type for maker in added] for added in sums]


@needs_nncf
def test_openvino_has_the_second_of_two_convolutions_rounded_before_they_are_added(
    patches: list[NDArray[np.float32]],
) -> None:
    torch.manual_seed(0)
    plain = to_onnx(Sums().eval(), 1, PATCH)
    others = [["other/Conv", "LeakyRelu"], ["heads.0/Conv", "heads.1/Conv"]]
    made = quantise(plain, "openvino", patches)
    assert summed(made) == [["entry/Conv", "DequantizeLinear"], *others]
    assert summed(quantise(plain, "openvino", patches, islands=["inner"])) == [["entry/Conv", "inner/Conv"], *others]
    said = open_engine("onnxruntime", made, precision="int8").run(patches[0])
    computed = open_engine("openvino", made, precision="int8").run(patches[0])
    assert np.abs(computed - said).mean() < 1e-3 * np.abs(said).max()


@needs_rtx
def test_tensorrt_builds_it_in_int8(made: dict[str, bytes], unet_onnx: bytes) -> None:
    built = build_engine(made["tensorrt"], request=EngineRequest(precision="int8"))
    assert built.weight_bytes < build_engine(unet_onnx).weight_bytes


def test_progress_is_told_patch_by_patch(unet_onnx: bytes, patches: list[NDArray[np.float32]]) -> None:
    seen: list[tuple[str, int, int]] = []
    quantise(unet_onnx, "tensorrt", patches, lambda *step: seen.append(step))
    assert sorted(set(seen)) == [("calibrate int8", done, 3) for done in range(4)]
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)


@each_recipe
def test_nothing_is_printed_logged_or_left_behind(
    recipe: Recipe,
    unet_onnx: bytes,
    patches: list[NDArray[np.float32]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    handlers = logging.getLogger().handlers[:]
    quantise(unet_onnx, recipe, patches[:1])
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger().handlers == handlers
    assert list(tmp_path.iterdir()) == []


def test_no_patch_is_refused(unet_onnx: bytes) -> None:
    with pytest.raises(UsageError, match="expected at least one patch to calibrate int8 on, got none"):
        quantise(unet_onnx, "tensorrt", [])


def test_an_island_that_is_nowhere_is_refused(unet_onnx: bytes, patches: list[NDArray[np.float32]]) -> None:
    with pytest.raises(UsageError, match="got 'coder'"):
        quantise(unet_onnx, "tensorrt", patches, islands=["coder"])


@each_recipe
def test_patches_of_another_size_are_a_failed_export(recipe: Recipe, unet_onnx: bytes) -> None:
    with pytest.raises(ExportFailed, match=f"expected an int8 graph for {recipe}, its quantiser says: "):
        quantise(unet_onnx, recipe, [np.zeros((1, 2, *PATCH), np.float32)])


def test_a_graph_without_convolutions_is_a_failed_export(patches: list[NDArray[np.float32]]) -> None:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 1, *PATCH)) for name in ("image", "logits")]
    graph = helper.make_graph([helper.make_node("Relu", ["image"], ["logits"])], "graph", ends[:1], ends[1:])
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()
    with pytest.raises(ExportFailed, match="expected convolutions to quantise, found none"):
        quantise(content, "tensorrt", patches)


def test_without_nncf_openvino_names_the_extra(
    unet_onnx: bytes, patches: list[NDArray[np.float32]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"needs the module 'nncf'.*pip install \"segkit3d\[int8\]\""):
        quantise(unet_onnx, "openvino", patches)
