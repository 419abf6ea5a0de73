"""A network that conforms, as source to be broken, and what the checks say of one."""

from __future__ import annotations

from typing import Any

from segkit import ModelCard
from segkit.conformance import checks_for

GOOD = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, in_channels, classes):
        super().__init__()
        self.conv = nn.Conv3d(in_channels, classes, 3, padding=1)
        self.drop = nn.Dropout3d()

    def forward(self, images):
        return self.drop(self.conv(images))
"""


def failures(card: ModelCard, **settings: Any) -> dict[str, str]:
    return {c.id: str(c.run()) for c in checks_for(card, **settings) if c.run().status == "failed"}
