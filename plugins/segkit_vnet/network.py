"""V-Net: a residual encoder and decoder of 5^3 convolutions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

WIDTH = 16
"""Channels at full resolution; each step down doubles them."""

DOWN_UNITS = (1, 2, 3, 2)
"""5^3 convolutions in each step down, from the finest."""

UP_UNITS = (1, 1, 2, 2)
"""5^3 convolutions in each step up, by the level it reaches, from the finest."""

DROPOUT_FROM = 2
"""The steps at this level and below it drop whole channels in training: most of the weights are there."""


class VNet(nn.Module):
    """V-Net (Milletari et al. 2016, doi 10.1109/3DV.2016.79), with batch norm, channel dropout and PReLU.

    It departs from the paper where later implementations did: batch norm after each convolution, dropout of whole
    channels, two 5^3 convolutions instead of three at the coarsest level, fewer on the way up, and a 5^3 convolution
    before the last 1^3 one. With one input channel and four classes it has 45,611,956 parameters at depth 4 and
    12,247,988 at depth 3.

    Args:
        in_channels: modalities, from 1 up.
        classes: classes, background included.
        depth: steps down, 1 to 4; each side of the input must be a multiple of `2 ** depth` voxels.

    Attributes:
        multiple: `2 ** depth`.
    """

    def __init__(self, in_channels: int, classes: int, *, depth: int = 4) -> None:
        super().__init__()
        self.multiple = 2**depth
        self.entry = Entry(in_channels)
        self.encoder = nn.ModuleList(Down(level) for level in range(depth))
        deepest = depth - 1
        self.decoder = nn.ModuleList(
            Up(level, inputs=(2 if level == deepest else 4) * _width(level)) for level in reversed(range(depth))
        )
        self.head = Head(2 * WIDTH, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map `(B, C, X, Y, Z)` images to `(B, K, X, Y, Z)` logits."""
        hidden = self.entry(images)
        skips = []
        for down in self.encoder:
            skips.append(hidden)
            hidden = down(hidden)
        for up in self.decoder:
            hidden = up(hidden, skips.pop())
        logits: Tensor = self.head(hidden)
        return logits


def vnet_light(in_channels: int, classes: int) -> VNet:
    """Return a V-Net without the deepest step down and up."""
    return VNet(in_channels, classes, depth=3)


class Unit(nn.Module):
    """5^3 convolution, batch norm, PReLU; keeps the shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = _normalised(nn.Conv3d(channels, channels, 5, padding=2))

    def forward(self, hidden: Tensor) -> Tensor:
        """Map `(B, F, X, Y, Z)` to the same shape."""
        out: Tensor = self.layers(hidden)
        return out


class Entry(nn.Module):
    """First block: a 5^3 convolution plus the images themselves, repeated to as many channels as it has."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.copies = -(-WIDTH // in_channels)
        self.conv = nn.Sequential(nn.Conv3d(in_channels, WIDTH, 5, padding=2), nn.BatchNorm3d(WIDTH))
        self.activation = nn.PReLU(WIDTH)

    def forward(self, images: Tensor) -> Tensor:
        """Map `(B, C, X, Y, Z)` to `(B, 16, X, Y, Z)`."""
        # Channels go round (0, 1, 2, 0, 1, ...), cut at 16, so that any number of modalities fits.
        # A concatenation and a slice are operators that every engine has.
        residual = torch.cat([images] * self.copies, dim=1)[:, :WIDTH]
        out: Tensor = self.activation(self.conv(images) + residual)
        return out


class Down(nn.Module):
    """Step down: a 2^3 convolution of stride 2 to twice the channels, then a residual of 5^3 units.

    Args:
        level: the level it starts from, 0 at full resolution.
    """

    def __init__(self, level: int) -> None:
        super().__init__()
        inputs, channels = _width(level), _width(level + 1)
        self.down = _normalised(nn.Conv3d(inputs, channels, 2, stride=2))
        self.units = nn.Sequential(*_dropout(level), *(Unit(channels) for _ in range(DOWN_UNITS[level])))
        self.activation = nn.PReLU(channels)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map `(B, F, X, Y, Z)` to `(B, 2F, X/2, Y/2, Z/2)`."""
        coarse = self.down(hidden)
        out: Tensor = self.activation(coarse + self.units(coarse))
        return out


class Up(nn.Module):
    """Step up: a 2^3 transposed convolution, joined with the encoder's output there, then a residual of 5^3 units.

    Args:
        level: the level it reaches, 0 at full resolution.
        inputs: channels that come from below.
    """

    def __init__(self, level: int, inputs: int) -> None:
        super().__init__()
        channels = 2 * _width(level)
        transposed = _normalised(nn.ConvTranspose3d(inputs, _width(level), 2, stride=2))
        self.up = nn.Sequential(*_dropout(level), transposed)
        self.skip_dropout = nn.Dropout3d()
        self.units = nn.Sequential(*(Unit(channels) for _ in range(UP_UNITS[level])))
        self.activation = nn.PReLU(channels)

    def forward(self, hidden: Tensor, skip: Tensor) -> Tensor:
        """Map `(B, inputs, X/2, Y/2, Z/2)` and the skip `(B, F, X, Y, Z)` to `(B, 2F, X, Y, Z)`."""
        joined = torch.cat([self.up(hidden), self.skip_dropout(skip)], dim=1)
        out: Tensor = self.activation(joined + self.units(joined))
        return out


class Head(nn.Module):
    """Last block: a 5^3 convolution to one channel per class, then a 1^3 convolution to logits."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _normalised(nn.Conv3d(inputs, classes, 5, padding=2)), nn.Conv3d(classes, classes, 1)
        )

    def forward(self, hidden: Tensor) -> Tensor:
        """Map `(B, F, X, Y, Z)` to `(B, K, X, Y, Z)` logits."""
        logits: Tensor = self.layers(hidden)
        return logits


def _width(level: int) -> int:
    return int(WIDTH * 2**level)


def _normalised(conv: nn.Conv3d | nn.ConvTranspose3d) -> nn.Sequential:
    return nn.Sequential(conv, nn.BatchNorm3d(conv.out_channels), nn.PReLU(conv.out_channels))


def _dropout(level: int) -> list[nn.Module]:
    return [nn.Dropout3d()] if level >= DROPOUT_FROM else []
