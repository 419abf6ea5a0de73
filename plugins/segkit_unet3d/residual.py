"""A 3D U-Net with residual blocks on the way down and side heads on the way up."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from segkit_unet3d.network import require_width

LEVELS = 5
"""Resolutions; each but the first halves the one before."""

DROPOUT = 0.6
"""Share of whole channels that training drops within each residual, as in the later code; the paper drops 0.3."""


class ResidualUNet3D(nn.Module):
    """Residual 3D U-Net after Isensee et al. 2018 (doi 10.1007/978-3-319-75238-9_25), as later code simplified it.

    On the way down, each resolution has a 3^3 convolution, of stride 2 from the second on, and a residual of two more.
    On the way up, nearest-neighbour up-sampling and a 3^3 convolution; there the skip is joined. Instance norm without
    weights and leaky ReLU throughout. Two side heads, at a quarter and at half resolution, are up-sampled and
    summed into the logits, so that the loss reaches the coarse levels directly.

    With two input channels and four classes it has 9,475,296 parameters and 94 layers by the rule "leaf calls". Code in
    circulation has 7,125,216: below full resolution it calls one convolution twice in each residual, where here both
    have their own weights, as in the paper. The difference is 27 * (32^2 + 64^2 + 128^2 + 256^2) = 2,350,080.

    Args:
        in_channels: modalities, from 1 up.
        classes: classes, background included.
        width: channels at full resolution. Each side of the input must be a multiple of 16 voxels, and one side at
            least 32: an instance norm of one voxel is undefined.

    Raises:
        UsageError: the width is below 1.
    """

    def __init__(self, in_channels: int, classes: int, *, width: int = 16) -> None:
        super().__init__()
        require_width(width, usual=16)
        widths = [width * 2**level for level in range(LEVELS)]
        self.down = nn.ModuleList(Down(*pair, finest=i == 0) for i, pair in enumerate(pairwise([in_channels, *widths])))
        self.norms = nn.ModuleList(nn.Sequential(*_norm(channels)) for channels in widths[:-1])
        self.finest_skip = nn.LeakyReLU()
        upward = widths[-2::-1]
        self.up = nn.ModuleList(
            [
                nn.Sequential(*_double(widths[-1], upward[0]), _conv(upward[0], upward[0], 1), *_norm(upward[0])),
                *(nn.Sequential(_conv(2 * a, a, 1), *_double(a, b)) for a, b in pairwise(upward)),
            ]
        )
        self.merge = nn.ModuleList(nn.Sequential(_conv(2 * c, 2 * c, 3), *_norm(2 * c)) for c in upward)
        self.heads = nn.ModuleList(_conv(2 * channels, classes, 1) for channels in upward[1:])
        self.double_logits = _upsample()

    def forward(self, images: Tensor) -> Tensor:
        """Map `(B, C, X, Y, Z)` images to `(B, K, X, Y, Z)` logits."""
        hidden = self.down[0](images)
        skips = [self.finest_skip(hidden)]
        hidden = self.norms[0](hidden)
        for down, norm in zip(self.down[1:-1], self.norms[1:], strict=True):
            hidden = norm(down(hidden))
            skips.append(hidden)
        hidden = self.down[-1](hidden)
        merged = []
        for up, merge in zip(self.up, self.merge, strict=True):
            hidden = merge(torch.cat([up(hidden), skips.pop()], dim=1))
            merged.append(hidden)
        quarter, half, full = (head(hidden) for head, hidden in zip(self.heads, merged[1:], strict=True))
        logits: Tensor = full + self.double_logits(half + self.double_logits(quarter))
        return logits


class Down(nn.Module):
    """A 3^3 convolution to a new number of channels, plus a residual of two more with dropout between.

    Args:
        inputs: channels that come in.
        channels: channels that go out.
        finest: keep the resolution, and leave the norms out; otherwise halve it.
    """

    def __init__(self, inputs: int, channels: int, *, finest: bool) -> None:
        super().__init__()
        self.entry = nn.Conv3d(inputs, channels, 3, stride=1 if finest else 2, padding=1, bias=False)
        # Not in place at the finest level: there the activation's input is the entry's output, which the sum needs.
        before = [nn.LeakyReLU()] if finest else _norm(channels)
        between = [nn.LeakyReLU()] if finest else _norm(channels)
        self.residual = nn.Sequential(
            *before, _conv(channels, channels, 3), nn.Dropout3d(DROPOUT), *between, _conv(channels, channels, 3)
        )

    def forward(self, hidden: Tensor) -> Tensor:
        """Map `(B, inputs, X, Y, Z)` to `(B, channels, X, Y, Z)`, each side halved unless finest."""
        entry = self.entry(hidden)
        out: Tensor = entry + self.residual(entry)
        return out


def _double(inputs: int, outputs: int) -> list[nn.Module]:
    return [*_norm(inputs), _upsample(), _conv(inputs, outputs, 3), *_norm(outputs)]


def _norm(channels: int) -> list[nn.Module]:
    return [nn.InstanceNorm3d(channels), nn.LeakyReLU(inplace=True)]


def _upsample() -> nn.Upsample:
    return nn.Upsample(scale_factor=2, mode="nearest")


def _conv(inputs: int, outputs: int, kernel: int) -> nn.Conv3d:
    return nn.Conv3d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
