"""V-Net: what the paper's table says of it, and what the contract asks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from segkit.complexity import measure
from segkit.conformance import assert_model_conforms
from segkit_vnet import segkit_models
from segkit_vnet.network import Entry, VNet, vnet_light

CARDS = {card.name: card for card in segkit_models()}


@pytest.mark.parametrize(
    ("name", "parameters", "module_calls", "leaf_calls"),
    [("vnet", 45_611_956, 113, 89), ("vnet-light", 12_247_988, 84, 66)],
)
def test_size(name: str, parameters: int, module_calls: int, leaf_calls: int) -> None:
    found = measure(CARDS[name].load()(1, 4), 1, CARDS[name].patch)
    assert (found.parameters, found.module_calls, found.leaf_calls) == (parameters, module_calls, leaf_calls)


def test_vnet_has_the_layers_of_table_1() -> None:
    kinds = dict(measure(VNet(1, 4), 1, (128, 128, 64)).calls_by_kind)
    layers = {name: kinds.pop(name) for name in ("Conv3d", "ConvTranspose3d", "BatchNorm3d", "PReLU", "Dropout3d")}
    assert layers == {"Conv3d": 21, "ConvTranspose3d": 4, "BatchNorm3d": 24, "PReLU": 32, "Dropout3d": 8}
    assert sum(kinds.values()) == 24


def test_vnet_keeps_the_contract() -> None:
    assert_model_conforms(
        CARDS["vnet"], channels=[3]
    )  # the other numbers change its first block only, as in vnet-light


def test_vnet_light_keeps_the_contract() -> None:
    assert_model_conforms(CARDS["vnet-light"], channels=range(1, 6), export=False)


@pytest.mark.parametrize("channels", range(1, 6))
def test_an_input_channel_more_costs_one_kernel_per_filter(channels: int) -> None:
    with torch.device("meta"):
        model = VNet(channels, 4)
    found = measure(model, channels, CARDS["vnet"].patch)
    assert found.parameters == 45_611_956 + (channels - 1) * 125 * 16


@pytest.mark.parametrize("name", CARDS)
def test_multiple_of_the_network_is_that_of_its_card(name: str) -> None:
    assert CARDS[name].load()(1, 2).multiple == CARDS[name].multiple


def test_odd_numbers_of_coarsest_voxels_keep_their_size() -> None:
    with torch.no_grad():
        assert vnet_light(2, 3).eval()(torch.zeros(1, 2, 8, 24, 40)).shape == (1, 3, 8, 24, 40)


@pytest.mark.parametrize("channels", [1, 3, 5, 16, 17])
def test_entry_adds_the_images_cyclically(channels: int) -> None:
    entry = Entry(channels).eval()
    torch.nn.init.zeros_(entry.conv[0].weight)
    torch.nn.init.zeros_(entry.conv[0].bias)
    images = torch.rand(1, channels, 2, 2, 2)
    with torch.no_grad():
        assert torch.equal(entry(images), images[:, [i % channels for i in range(16)]])


@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning")  # torch.export, about torch itself
def test_exports_to_onnx_with_three_channels(tmp_path: Path) -> None:
    model = vnet_light(3, 4).eval()
    images = torch.rand(1, 3, 8, 16, 24)
    file = tmp_path / "model.onnx"
    torch.onnx.export(model, (images,), file, input_names=["images"], opset_version=18, dynamo=True, verbose=False)
    (logits,) = onnxruntime.InferenceSession(file).run(None, {"images": images.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(logits, model(images).numpy(), atol=1e-4)
