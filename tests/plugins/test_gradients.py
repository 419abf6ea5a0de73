"""Every parameter of every network that segkit itself builds is trained; MONAI's are held to the contract only."""

from __future__ import annotations

import pytest
import torch

from segkit import Registry
from segkit.conformance import small_patch
from segkit.registry import Switches

NETWORKS = [
    entry.name
    for entry, _ in Registry.from_environment(Switches(builtin_only=True)).list("model")
    if entry.value != "segkit_monai"
]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_gets_a_gradient_that_is_not_zero(name: str, registry: Registry) -> None:
    card = registry.card("model", name)
    channels = card.in_channels or 2
    torch.manual_seed(0)
    # In eval mode: dropout would take the gradient from some, and the norm of a batch takes it from every offset
    # before it, though both are of use. Dead weights stay dead in either mode.
    model = registry.build_model(name, channels, 3).eval()
    model(torch.randn(1, channels, *small_patch(card.multiple))).square().mean().backward()
    untrained = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not untrained
