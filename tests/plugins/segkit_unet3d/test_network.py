"""3D U-Net: the parameters of its paper, its options, and what the contract asks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from segkit.complexity import measure
from segkit.conformance import assert_model_conforms
from segkit.errors import UsageError
from segkit_unet3d import segkit_models
from segkit_unet3d.network import UNet3D

CARD = next(card for card in segkit_models() if card.name == "unet3d")


def test_parameters_are_those_of_the_paper_plus_one_scale_per_normalised_channel() -> None:
    model = UNet3D(3, 3)
    scales = sum(module.num_features for module in model.modules() if isinstance(module, nn.BatchNorm3d))
    assert scales == 2_336
    assert measure(model, 3, CARD.patch).parameters == 19_069_955 + scales == 19_072_291


def test_size_with_one_channel_and_four_classes() -> None:
    found = measure(UNet3D(1, 4), 1, CARD.patch)
    assert (found.parameters, found.module_calls, found.leaf_calls) == (19_070_628, 49, 49)
    assert found.calls_by_kind == {"Conv3d": 15, "BatchNorm3d": 14, "ReLU": 14, "MaxPool3d": 3, "ConvTranspose3d": 3}


def test_channels_double_before_pooling() -> None:
    convs = [m for m in UNet3D(1, 4).encoder.modules() if isinstance(m, nn.Conv3d)]
    assert [conv.out_channels for conv in convs] == [32, 64, 64, 128, 128, 256, 256, 512]


def test_keeps_the_contract() -> None:
    assert_model_conforms(CARD, export=False, width=8)


@pytest.mark.parametrize("options", [{"norm": "instance"}, {"levels": 5}, {"levels": 2}])
def test_keeps_the_contract_with_options(options: dict[str, Any]) -> None:
    assert_model_conforms(CARD, channels=[2], export=False, width=4, **options)


def test_defaults_of_the_card_are_those_of_the_network() -> None:
    model = UNet3D(1, 2)
    same = UNet3D(1, 2, **CARD.options)
    assert [p.shape for p in model.parameters()] == [p.shape for p in same.parameters()]
    assert model.multiple == CARD.multiple


def test_norm_does_not_change_the_number_of_parameters() -> None:
    batch, instance = (measure(UNet3D(1, 2, width=4, norm=norm), 1, (16, 16, 16)) for norm in ("batch", "instance"))
    assert batch.parameters == instance.parameters
    assert instance.calls_by_kind["InstanceNorm3d"] == 14


def test_instance_norm_treats_each_subject_alone() -> None:
    model = UNet3D(1, 2, width=2, norm="instance").train()
    images = torch.rand(2, 1, 16, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(model(images)[:1], model(images[:1]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "expected a width of at least 1 channel, got 0"),
        ({"width": 1.5}, r"expected a width of at least 1 channel, got 1\.5"),
        ({"levels": 1}, "expected 2 to 6 levels, got 1"),
        ({"levels": 7}, "expected 2 to 6 levels, got 7"),
        ({"norm": "layer"}, "expected the norm batch or instance, got 'layer'; choose instance"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        UNet3D(1, 2, **options)
