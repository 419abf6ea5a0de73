"""Instance norms keep their digits on every runtime."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from segkit_export.norms import join_instance_norms
from segkit_export.onnx_export import Dynamic, to_onnx
from segkit_runtime.engines import ONNX_RUNTIMES, open_engine


class Norm(nn.Module):
    """An instance norm with a scale and a shift of its own for each channel, and as many logits as channels."""

    def __init__(self, *, affine: bool = True, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm3d(2, eps=epsilon, affine=affine)
        if affine:
            nn.init.normal_(self.norm.weight)
            nn.init.normal_(self.norm.bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.norm(images)


def operators(content: bytes) -> set[str]:
    return {node.op_type for node in onnx.load_model_from_string(content).graph.node}


def mostly_background(patch: tuple[int, int, int]) -> np.ndarray:
    """A constant background with signal in one voxel out of fifty: what costs a plain sum its digits."""
    rng = np.random.default_rng(0)
    signal = rng.normal(0, 3, (1, 2, *patch)) * (rng.random((1, 2, *patch)) < 0.02)
    return (signal - 0.7).astype(np.float32)


@pytest.mark.parametrize(
    ("network", "patch"),
    [(Norm(), (64, 64, 64)), (Norm(affine=False), (13, 7, 11)), (Norm(epsilon=1e-2), (48, 40, 24))],
)
def test_a_patch_of_background_is_normalised_as_exactly_as_in_double_precision(
    network: nn.Module, patch: tuple[int, int, int]
) -> None:
    images = mostly_background(patch)
    with torch.inference_mode():
        exact = network.double()(torch.from_numpy(images).double()).numpy()
        network.float()
    content = to_onnx(network.eval(), 2, patch)
    assert "InstanceNormalization" not in operators(content)
    for runtime in ONNX_RUNTIMES:
        np.testing.assert_allclose(open_engine(runtime, content).run(images), exact, atol=2e-5, err_msg=runtime)


def test_patches_of_any_size_are_normalised_as_exactly_where_the_sizes_are_open() -> None:
    network = Norm().eval()
    content = to_onnx(network, 2, (16, 16, 16), dynamic="size", multiple=8)
    for patch in ((64, 64, 64), (48, 40, 24)):
        images = mostly_background(patch)
        with torch.inference_mode():
            exact = network.double()(torch.from_numpy(images).double()).numpy()
        for runtime in ONNX_RUNTIMES:
            np.testing.assert_allclose(open_engine(runtime, content).run(images), exact, atol=2e-5, err_msg=runtime)


def test_the_plain_operator_would_lose_those_digits() -> None:
    """If runtimes ever sum better, this fails and `norms` can go."""
    patch = (64, 64, 64)
    shape = [1, 2, *patch]
    node = onnx.helper.make_node("InstanceNormalization", ["image", "scale", "shift"], ["logits"], epsilon=1e-5)
    values = [onnx.numpy_helper.from_array(np.full(2, v, np.float32), n) for n, v in (("scale", 1), ("shift", 0))]
    tensors = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in ("image", "logits")]
    graph = onnx.helper.make_graph([node], "plain", tensors[:1], tensors[1:], values)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    images = mostly_background(patch)
    exact = nn.InstanceNorm3d(2)(torch.from_numpy(images).double()).numpy()
    for runtime in ONNX_RUNTIMES:
        plain = open_engine(runtime, model.SerializeToString()).run(images)
        assert np.abs(plain - exact).max() > 1e-4, runtime


class Twice(nn.Module):
    """Two norms by the network itself, whose nodes have no module to be named by, and a convolution between them."""

    def __init__(self) -> None:
        super().__init__()
        self.between = nn.Conv3d(2, 2, 3, padding=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = self.between(nn.functional.instance_norm(images))
        return nn.functional.instance_norm(hidden, weight=torch.tensor([2.0, 3.0]), eps=0.1)


@pytest.mark.parametrize("network", [Norm(), Norm(affine=False), Norm(epsilon=1e-2), Twice()])
@pytest.mark.parametrize(("patch", "dynamic"), [((16, 8, 24), "none"), ((13, 7, 11), "none"), ((16, 8, 24), "size")])
def test_norms_joined_again_are_single_operators_that_compute_the_same(
    network: nn.Module, patch: tuple[int, int, int], dynamic: Dynamic
) -> None:
    written = onnx.load_model_from_string(to_onnx(network.eval(), 2, patch, dynamic=dynamic))
    joined = join_instance_norms(written)
    onnx.checker.check_model(joined, full_check=True)
    norms = 2 if isinstance(network, Twice) else 1
    operators = [node.op_type for node in joined.graph.node]
    assert operators.count("InstanceNormalization") == norms
    assert set(operators) <= {"InstanceNormalization", "Conv"}
    taken = {name for node in joined.graph.node for name in node.input}
    assert {tensor.name for tensor in joined.graph.initializer} <= taken
    images = np.random.default_rng(0).normal(3, 2, (1, 2, *patch)).astype(np.float32)
    with torch.inference_mode():
        expected = network(torch.from_numpy(images)).numpy()
    for runtime in ONNX_RUNTIMES:
        found = open_engine(runtime, joined.SerializeToString()).run(images)
        np.testing.assert_allclose(found, expected, atol=1e-4, err_msg=runtime)
    assert "InstanceNormalization" not in {node.op_type for node in written.graph.node}


def test_group_norms_are_left_as_the_exporter_writes_them() -> None:
    network = nn.GroupNorm(2, 4).eval()
    content = to_onnx(network, 4, (8, 8, 8))
    images = np.random.default_rng(0).standard_normal((1, 4, 8, 8, 8), dtype=np.float32)
    with torch.inference_mode():
        expected = network(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(open_engine("onnxruntime", content).run(images), expected, atol=1e-5)
