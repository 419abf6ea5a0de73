"""The network of all sides that run torch: the same weights, and nothing of segkit around it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def load_network(facts: Mapping[str, Any]) -> torch.nn.Module:
    """Build a network and load its weights.

    Args:
        facts: "factory", the import path of its class; "channels", "classes" and "options", its arguments; "weights",
            the file of its state dict.

    Returns:
        The network in eval mode, on the CPU.
    """
    import torch

    from segkit.cards import load_attribute

    network: torch.nn.Module = load_attribute(facts["factory"])(facts["channels"], facts["classes"], **facts["options"])
    network.load_state_dict(torch.load(facts["weights"], weights_only=True))
    return network.eval()
