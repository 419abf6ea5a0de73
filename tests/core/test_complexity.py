"""Sizes of networks, on networks small enough to count by hand."""

from __future__ import annotations

import copy
import time

import pytest
import torch
from torch import nn

from segkit.complexity import RULES, Complexity, measure


class Block(nn.Module):
    """A block with children, so that it counts by one rule and not by the other."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv3d(2, 4, 3, padding=1), nn.BatchNorm3d(4), nn.Dropout3d())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


class Net(nn.Module):
    """Two calls of a block, in a list, with one activation that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(), nn.Conv3d(4, 2, 1)])
        self.activation = nn.ReLU()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            images = self.activation(block(images))
        return images


def test_parameters_and_weights_are_counted_by_hand() -> None:
    found = measure(Net(), 2, (8, 8, 8))
    parameters = (2 * 4 * 27 + 4) + (4 + 4) + (4 * 2 + 2)
    buffers = 4 * (4 + 4) + 8  # mean and variance float32, number of batches int64
    assert found.parameters == found.trainable_parameters == parameters
    assert found.weights_mib == pytest.approx((4 * parameters + buffers) / 2**20)


def test_both_rules_count_calls_and_dropout_though_it_is_off() -> None:
    found = measure(Net(), 2, (8, 8, 8))
    assert found.calls_by_kind == {"Conv3d": 2, "BatchNorm3d": 1, "Dropout3d": 1, "Block": 1, "ReLU": 2}
    assert found.module_calls == 7
    assert found.leaf_calls == 6
    assert set(RULES) <= set(Complexity.__dataclass_fields__)


def test_frozen_parameters_are_not_trainable() -> None:
    model = Net()
    model.blocks[1].requires_grad_(False)
    found = measure(model, 2, (8, 8, 8))
    assert found.parameters - found.trainable_parameters == 10


def test_a_shared_parameter_counts_once() -> None:
    conv = nn.Conv3d(2, 2, 1)
    assert measure(nn.Sequential(conv, conv), 2, (4, 4, 4)).parameters == 6


@pytest.mark.parametrize(
    ("layer", "macs"),
    [
        (nn.Conv3d(2, 4, 3, padding=1), 8 * 6 * 4 * 27 * 2 * 4),
        (nn.Conv3d(2, 4, 2, stride=2), 4 * 3 * 2 * 8 * 2 * 4),
        # Each input voxel meets each weight once.
        (nn.ConvTranspose3d(2, 4, 2, stride=2), 8 * 6 * 4 * 8 * 2 * 4),
        (nn.Conv3d(2, 4, 3, padding=1, groups=2), 8 * 6 * 4 * 27 * 4),
        (nn.ReLU(), 0),
    ],
    ids=["padded", "strided", "transposed", "grouped", "activation"],
)
def test_macs_are_counted_by_hand(layer: nn.Module, macs: int) -> None:
    assert measure(nn.Sequential(layer), 2, (8, 6, 4)).macs == macs


@pytest.mark.parametrize("training", [True, False])
def test_the_network_is_left_as_it_was(training: bool) -> None:
    model = Net().train(training)
    before = copy.deepcopy(model.state_dict())
    tensors = [*model.parameters(), *model.buffers()]
    measure(model, 2, (8, 8, 8))
    assert all(module.training is training and not module._forward_hooks for module in model.modules())
    assert all(a is b for a, b in zip(tensors, [*model.parameters(), *model.buffers()], strict=True))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_an_input_of_a_terabyte_needs_no_memory_and_no_time() -> None:
    model = Net()
    measure(model, 2, (8, 8, 8))  # torch imports its meta kernels once
    start = time.perf_counter()
    found = measure(model, 2, (4096, 4096, 8192))
    assert time.perf_counter() - start < 2
    assert found.macs == 4096 * 4096 * 8192 * (2 * 4 * 27 + 4 * 2)
