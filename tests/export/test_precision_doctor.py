"""The doctor of an export: which layer is wrong, and which modules carry the error of a precision."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from segkit_export.precision_doctor import find_islands, first_wrong_layer, module_order

from .conftest import PATCH

SHAPE = (1, 1, 4, 4, 4)
MODULES = ("stem", "body.0", "body.1", "body.2", "head")


@pytest.fixture(scope="module")
def patch() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((1, 1, *PATCH)).astype(np.float32)


def scaled(content: bytes, node: str, factor: float) -> bytes:
    """The weights of one node times a factor."""
    model = onnx.load_from_string(content)
    (name,) = [one.input[1] for one in model.graph.node if one.name == node]
    (weights,) = [one for one in model.graph.initializer if one.name == name]
    weights.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weights) * np.float32(factor), name))
    return bytes(model.SerializeToString())


def test_every_layer_of_a_good_file_is_torchs(unet: torch.nn.Module, unet_onnx: bytes, patch: np.ndarray) -> None:
    assert first_wrong_layer(unet, unet_onnx, patch) is None


def test_whichever_layer_is_changed_by_five_percent_is_named(
    unet: torch.nn.Module, unet_onnx: bytes, patch: np.ndarray
) -> None:
    layers = [node.name for node in onnx.load_from_string(unet_onnx).graph.node if "Conv" in node.op_type]
    assert len(layers) > 4
    for layer in layers:
        found = first_wrong_layer(unet, scaled(unet_onnx, layer, 1.05), patch)
        assert found is not None
        assert f"{found.module}/{found.operator}" == layer
        assert 0.005 < found.difference < 0.2


def noisy(noise: dict[str, float], islands: Collection[str]) -> bytes:
    """The image as logits, off by the noise of each module that is no island."""
    total = sum(error for module, error in noise.items() if module not in islands)
    graph = helper.make_graph(
        [helper.make_node("Add", ["image", "noise"], ["logits"])],
        "noisy",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, SHAPE)],
        [onnx.numpy_helper.from_array(np.full(SHAPE, total, np.float32), "noise")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("noise", "most", "islands"),
    [
        ({"body.1": 1.0, "head": 0.01}, 0.1, ("body.1",)),
        ({"stem": 0.2, "body.2": 1.0}, 0.1, ("body.2", "stem")),
        ({"stem": 0.2, "body.2": 1.0}, 0.3, ("body.2",)),
    ],
    ids=["one", "two", "the worst suffices"],
)
def test_the_modules_that_carry_the_error_are_found_the_worst_first(
    noise: dict[str, float], most: float, islands: tuple[str, ...]
) -> None:
    image = np.zeros(SHAPE, np.float32)
    found = find_islands(MODULES, lambda kept: noisy(noise, kept), image, image, most)
    assert found.islands == islands
    assert found.carriers[0].module == islands[0]
    assert found.error == pytest.approx(sum(noise.values()), rel=1e-5)
    assert found.mended_error <= most
    assert found.runs < 2 * len(MODULES) + 3


def test_an_error_that_many_modules_carry_a_little_of_is_mended_with_as_few_as_suffice() -> None:
    modules = [f"layer.{number}" for number in range(64)]
    image = np.zeros(SHAPE, np.float32)
    told: list[tuple[int, int]] = []

    def make(kept: Collection[str]) -> bytes:
        return noisy(dict.fromkeys(modules, 0.01), kept)

    found = find_islands(modules, make, image, image, 0.32, progress=lambda _, run, most: told.append((run, most)))
    assert all(run <= most for run, most in told)
    assert [run for run, _ in told] == list(range(1, found.runs + 1))
    assert found.carriers == ()
    assert len(found.islands) == 32
    assert found.mended_error == pytest.approx(0.32, rel=1e-3)


def test_an_island_inside_another_is_not_named() -> None:
    image = np.zeros(SHAPE, np.float32)
    noise = {"stem": 1.0, "stem.0": 0.5, "head": 0.01}
    found = find_islands(list(noise), lambda kept: noisy(noise, kept), image, image, 0.1)
    assert [carrier.module for carrier in found.carriers] == ["stem", "stem.0"]
    assert found.islands == ("stem",)


def test_where_nothing_suffices_no_islands_are_named() -> None:
    """The noise is there whatever is kept in fp32."""
    image = np.zeros(SHAPE, np.float32)
    found = find_islands(MODULES, lambda kept: noisy({"elsewhere": 1.0}, kept), image, image, 0.1)
    assert found.islands == ()
    assert found.carriers == ()
    assert found.mended_error == pytest.approx(1.0)


def test_modules_and_nodes_outside_of_all_are_listed_in_the_order_they_run(unet_onnx: bytes) -> None:
    order = module_order(unet_onnx)
    assert order[0].startswith("encoder.0")
    assert order[-1] == "head"
    assert "/Concat" in order
    assert len(order) == len(set(order))
