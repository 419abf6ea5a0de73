"""MONAI's networks: what the contract asks, their options, and what is said where MONAI cannot build one."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

import monai.networks.nets
import pytest
import torch

from segkit.complexity import measure, require_trainable
from segkit.conformance import assert_model_conforms
from segkit.errors import MissingExtra, UsageError
from segkit_monai import segkit_models

CARDS = {card.name: card for card in segkit_models()}

SMALL: dict[str, dict[str, Any]] = {
    "monai-unet": {"width": 4, "levels": 3},
    "monai-basic-unet": {"width": 4},
    "monai-unet-plus-plus": {"width": 2},
    "monai-attention-unet": {"width": 4, "levels": 3},
    "monai-dynunet": {"width": 4, "levels": 3},
    "monai-segresnet-ds": {"width": 4},
    "monai-highresnet": {"width": 4},
    "monai-unetr": {"size": "16x32x48", "width": 4, "hidden": 24},
    "monai-swinunetr": {"width": 12, "depth": 1, "window": 4},
}
"""Options of a network of seconds; the others have none that make them smaller."""

SLOW = ("flexible", "vnet", "ahnet", "mednext", "swinunetr")

every_network = pytest.mark.parametrize("name", CARDS)


def build(name: str, classes: int = 2, **options: Any) -> torch.nn.Module:
    network: torch.nn.Module = CARDS[name].load()(1, classes, **{**SMALL.get(name, {}), **options})
    return network


@every_network
def test_keeps_the_contract(name: str) -> None:
    channels = (1,) if any(part in name for part in SLOW) else (1, 3)
    assert_model_conforms(CARDS[name], channels=channels, export=False, **SMALL.get(name, {}))


@every_network
def test_its_default_size_is_measured_without_memory(name: str) -> None:
    card = CARDS[name]
    assert measure(card.load()(1, 2), 1, card.patch).parameters > 100_000


def test_each_card_has_an_entry_point_and_a_reference() -> None:
    listed = {entry.name for entry in entry_points(group="segkit.models", value="segkit_monai")}
    assert listed == set(CARDS)
    assert all(card.reference and card.reference.doi.startswith("10.") for card in CARDS.values())
    assert {card.licence for card in CARDS.values()} == {"Apache-2.0"}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("monai-unet", {"residual_units": 0}),
        ("monai-dynunet", {"residual": True}),
        ("monai-unet", {"levels": 2}),
    ],
)
def test_keeps_the_contract_with_options(name: str, options: dict[str, Any]) -> None:
    assert_model_conforms(CARDS[name], channels=[2], export=False, **{**SMALL[name], **options})


@pytest.mark.parametrize("name", ["monai-unet", "monai-attention-unet", "monai-dynunet"])
def test_the_multiple_follows_the_levels(name: str) -> None:
    assert build(name, levels=4).multiple == 8
    assert CARDS[name].load()(1, 2).multiple == CARDS[name].multiple


def test_parameters_keep_the_names_of_monai() -> None:
    theirs = monai.networks.nets.SegResNet(init_filters=8, in_channels=1, out_channels=2)
    build("monai-segresnet").load_state_dict(theirs.state_dict())


def test_layers_that_feed_nothing_are_dropped() -> None:
    names = dict(build("monai-flexible-unet", backbone="efficientnet-b0").named_parameters())
    assert not [name for name in names if name.startswith(("encoder._fc", "encoder._conv_head", "encoder._bn1"))]
    assert "encoder._blocks.0.0._bn1.weight" in names


def test_width_of_highresnet_at_its_default_is_that_of_monai() -> None:
    theirs = monai.networks.nets.HighResNet(in_channels=1, out_channels=2).state_dict()
    ours = CARDS["monai-highresnet"].load()(1, 2).state_dict()
    assert {name: tensor.shape for name, tensor in ours.items()} == {n: t.shape for n, t in theirs.items()}


def test_unetr_takes_patches_of_its_size_only() -> None:
    network = build("monai-unetr")
    message = (
        "expected patches of 16x32x48 voxels for monai-unetr, as its option size says, got 32x32x32; choose --patch"
    )
    with pytest.raises(UsageError, match=message):
        network(torch.zeros(1, 1, 32, 32, 32))
    with pytest.raises(UsageError, match=message):
        require_trainable(network, 1, (32, 32, 32), 1)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("monai-unet", {"levels": 1}, r"expected options that MONAI's UNet takes, got width=4, levels=1.*defaults are"),
        ("monai-dynunet", {"levels": 2}, "DynUNet takes, got .*length of kernel_size"),
        ("monai-segresnet", {"width": "wide"}, "SegResNet takes, got width=wide"),
        ("monai-flexible-unet", {"backbone": "vgg"}, "FlexibleUNet takes, got backbone=vgg: invalid model_name"),
        ("monai-unetr", {"size": "96"}, "UNETR takes, got size=96"),
        ("monai-swinunetr", {"width": 10}, "SwinUNETR takes, got width=10"),
    ],
)
def test_options_that_monai_refuses_are_told(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build(name, **options)


def test_a_network_that_the_installed_monai_lacks_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(monai.networks.nets, "MedNeXtS")
    with pytest.raises(UsageError, match=r"MedNeXtS in monai.networks.nets for monai-mednext-s, got MONAI \d.*; run"):
        build("monai-mednext-s")


@pytest.mark.parametrize("missing", ["monai", "einops"])
def test_a_missing_package_is_told(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setattr("segkit.extras.is_installed", lambda module: module != missing)
    with pytest.raises(MissingExtra, match=rf"monai-unetr needs the module '{missing}'.*segkit3d\[train\]"):
        build("monai-unetr")
