from __future__ import annotations

import getpass
import logging
import re
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from segkit import Registry
from segkit_export.errors import ExportFailed
from segkit_export.onnx_export import OPSET, to_onnx
from segkit_runtime.engines import open_engine

from .conftest import PATCH


class Branching(torch.nn.Module):
    """Asks for the value of a voxel: no graph can be traced through it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if float(x.sum()) > 0 else -x


class Pair(torch.nn.Module):
    """Returns more than logits."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x + 1, x + 2


class Shrinking(torch.nn.Module):
    """A convolution without padding: the output is smaller than the input."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv3d(1, 2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.convolution(x)


def test_the_file_is_valid_and_says_opset_names_and_shapes(unet_onnx: bytes) -> None:
    onnx.checker.check_model(unet_onnx, full_check=True)
    model = onnx.load_from_string(unet_onnx)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", OPSET)]
    (image,), (logits,) = model.graph.input, model.graph.output
    assert (image.name, logits.name) == ("image", "logits")
    assert [dim.dim_value for dim in image.type.tensor_type.shape.dim] == [1, 1, *PATCH]
    assert [dim.dim_value for dim in logits.type.tensor_type.shape.dim] == [1, 4, *PATCH]
    assert {prop.key: prop.value for prop in model.metadata_props} == {"segkit.name": "unet3d"}


def test_two_exports_give_the_same_bytes(unet: torch.nn.Module, unet_onnx: bytes) -> None:
    assert to_onnx(unet, 1, PATCH, {"segkit.name": "unet3d"}) == unet_onnx


def test_the_file_says_nothing_of_this_machine(unet_onnx: bytes) -> None:
    telling = [sys.prefix, str(Path.home()), str(Path(__file__).parents[2]), "stack_trace", "site-packages", ".py"]
    telling += [getpass.getuser() + "/"]
    assert [text for text in telling if text.encode() in unet_onnx] == []


def test_batch_norms_are_folded_into_convolutions(unet_onnx: bytes) -> None:
    operators = {node.op_type for node in onnx.load_from_string(unet_onnx).graph.node}
    assert "BatchNormalization" not in operators
    assert "Conv" in operators


@pytest.mark.parametrize(
    ("name", "options"), [("vnet-light", {}), ("unet3d", {"width": 4, "levels": 3, "norm": "instance"})]
)
def test_runtimes_agree_with_torch(registry: Registry, name: str, options: dict[str, int | str]) -> None:
    network = registry.build_model(name, 2, 4, options).eval()
    patch = np.random.default_rng(0).standard_normal((1, 2, *PATCH), np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(patch)).numpy()
    content = to_onnx(network, 2, PATCH)
    for runtime in ("onnxruntime", "openvino"):
        engine = open_engine(runtime, content)
        assert np.abs(engine.run(patch) - expected).max() < 1e-3
        engine.close()


def test_the_exporter_is_quiet_and_leaves_loggers_as_they_were(
    unet: torch.nn.Module, capfd: pytest.CaptureFixture[str]
) -> None:
    before = logging.getLogger("torch.onnx").level
    to_onnx(unet, 1, PATCH)
    assert logging.getLogger("torch.onnx").level == before
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (Branching(), "expected a network that torch can export to ONNX opset 20, Branching is not: .*; keep to"),
        (Pair(), re.escape("expected one output of shape (1, classes, 16, 16, 16), the network gives (1, 1, 16")),
        (Shrinking(), re.escape("the network gives (1, 2, 14, 14, 14); a model returns logits")),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, torch.nn.Module) else "",
)
def test_a_network_that_breaks_the_contract_is_refused(network: torch.nn.Module, said: str) -> None:
    with pytest.raises(ExportFailed, match=said):
        to_onnx(network.eval(), 1, PATCH)


class Norms(torch.nn.Module):
    """Norms behind a convolution, behind a transposed one, and by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.down = torch.nn.Sequential(torch.nn.Conv3d(1, 4, 1), torch.nn.BatchNorm3d(4), torch.nn.ReLU())
        self.up = torch.nn.Sequential(torch.nn.ConvTranspose3d(4, 4, 1, bias=False), torch.nn.BatchNorm3d(4))
        self.norm = torch.nn.BatchNorm3d(4)
        self.last = torch.nn.Conv3d(4, 2, 1, bias=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.last(self.norm(self.up(self.down(images)) + 1).relu())
        return logits


def test_a_convolution_into_which_a_norm_was_folded_keeps_its_own_name() -> None:
    graph = onnx.load_from_string(to_onnx(Norms().eval(), 1, (4, 4, 4))).graph
    assert [node.name for node in graph.node] == [
        "down.0/Conv",
        "down.2/Relu",
        "up.0/ConvTranspose",
        "/Add",
        "norm/BatchNormalization",
        "/Relu",
        "last/Conv",
    ]
