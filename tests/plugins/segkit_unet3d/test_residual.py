"""Residual 3D U-Net: its size, its blocks' own weights, its side heads, and what the contract asks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from segkit.complexity import measure, require_trainable
from segkit.conformance import assert_model_conforms
from segkit.errors import UsageError
from segkit_unet3d import segkit_models
from segkit_unet3d.residual import ResidualUNet3D

CARD = next(card for card in segkit_models() if card.name == "unet3d-residual")


def test_size_with_two_channels_and_four_classes() -> None:
    found = measure(ResidualUNet3D(2, 4), 2, CARD.patch)
    assert (found.parameters, found.leaf_calls) == (9_475_296, 94)


def test_it_is_larger_than_with_shared_blocks_by_the_second_convolution_of_four_residuals() -> None:
    found = measure(ResidualUNet3D(2, 4), 2, CARD.patch)
    assert found.parameters - 7_125_216 == 27 * sum(channels**2 for channels in (32, 64, 128, 256))


@pytest.mark.parametrize("channels", [1, 3, 4, 5])
def test_an_input_channel_more_costs_one_kernel_per_filter(channels: int) -> None:
    found = measure(ResidualUNet3D(channels, 4), channels, CARD.patch)
    assert found.parameters == 9_475_296 + (channels - 2) * 27 * 16


def test_no_block_is_called_twice() -> None:
    model = ResidualUNet3D(1, 2, width=2)
    convs = sum(isinstance(module, nn.Conv3d) for module in model.modules())
    assert measure(model, 1, (32, 32, 32)).calls_by_kind["Conv3d"] == convs == 30


def test_keeps_the_contract() -> None:
    assert_model_conforms(CARD, export=False, width=4)


def test_defaults_of_the_card_are_those_of_the_network() -> None:
    shapes = [[p.shape for p in ResidualUNet3D(1, 2, **options).parameters()] for options in ({}, CARD.options)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("size", [(16, 16, 32), (48, 16, 16)])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_smallest_legal_sizes_are_kept_forward_and_backward(channels: int, size: tuple[int, int, int]) -> None:
    images = torch.randn(1, channels, *size, requires_grad=True)
    logits = ResidualUNet3D(channels, 3, width=4)(images)
    assert logits.shape == (1, 3, *size)
    logits.square().mean().backward()
    assert images.grad is not None
    assert images.grad.abs().amax((0, 2, 3, 4)).min() > 0


def test_a_cube_of_16_voxels_is_refused_before_training() -> None:
    with pytest.raises(UsageError, match=r"Expected more than 1 spatial element .* choose a larger --patch"):
        require_trainable(ResidualUNet3D(1, 2, width=2), 1, (16, 16, 16), batch_size=1)


@pytest.mark.parametrize(("head", "block"), [(0, 4), (1, 2), (2, 1)])
def test_each_head_adds_blocks_of_its_own_resolution_to_the_logits(head: int, block: int) -> None:
    model = ResidualUNet3D(1, 2, width=2).eval()
    for index, conv in enumerate(model.heads):
        if index != head:
            nn.init.zeros_(conv.weight)
    with torch.no_grad():
        logits = model(torch.randn(1, 1, 32, 32, 32))
    corners = logits[..., ::block, ::block, ::block]
    for axis in (2, 3, 4):
        corners = corners.repeat_interleave(block, dim=axis)
    assert logits.std() > 0
    assert torch.equal(logits, corners)
    finer = logits[..., :: 2 * block, :, :]
    assert not torch.equal(logits, finer.repeat_interleave(2 * block, dim=2))


@pytest.mark.parametrize("width", [0, -1, 1.5])
def test_bad_width_is_refused(width: int) -> None:
    with pytest.raises(UsageError, match=f"expected a width of at least 1 channel, got {width}; the usual one is 16"):
        ResidualUNet3D(1, 2, width=width)


@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning")  # torch.export, about torch itself
def test_onnx_file_computes_the_same(tmp_path: Path) -> None:
    model = ResidualUNet3D(2, 4, width=4).eval()
    images = torch.randn(1, 2, 16, 32, 48)
    file = tmp_path / "model.onnx"
    torch.onnx.export(model, (images,), file, input_names=["images"], opset_version=18, dynamo=True, verbose=False)
    (logits,) = onnxruntime.InferenceSession(file).run(None, {"images": images.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(logits, model(images).numpy(), atol=1e-4)
