"""The 3D U-Net."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from segkit.errors import UsageError

# Both learn a scale and a shift, so the choice does not change the number of parameters.
_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm3d,
    "instance": lambda channels: nn.InstanceNorm3d(channels, affine=True),
}


class UNet3D(nn.Module):
    """3D U-Net (Çiçek et al. 2016, doi 10.1007/978-3-319-46723-8_49), with padded convolutions.

    Each step has two 3^3 convolutions, each with norm and ReLU; between steps lie 2^3 max-pooling on the way down and
    2^3 transposed convolutions on the way up. Channels double before pooling. The paper's convolutions are not padded,
    so its output is smaller than its input; here they are, which changes no weight.

    With three input channels and three classes it has 19,072,291 parameters, the paper's 19,069,955 plus 2,336. The
    paper's number is that of 19,067,616 convolution weights and one offset per channel (2,336 in the steps, 3 in the
    last convolution); the rest is the scale that each norm learns per channel. The offsets sit in the norms: a
    convolution's own would be subtracted with the mean. The transposed convolutions have none.

    Args:
        in_channels: modalities, from 1 up.
        classes: classes, background included.
        width: channels of the first convolution.
        levels: resolutions, 2 to 6; each side of the input must be a multiple of `2 ** (levels - 1)` voxels.
        norm: "batch", or "instance" for training at batch size 1.

    Attributes:
        multiple: `2 ** (levels - 1)`.

    Raises:
        UsageError: an option is not one of these.
    """

    def __init__(
        self, in_channels: int, classes: int, *, width: int = 32, levels: int = 4, norm: str = "batch"
    ) -> None:
        super().__init__()
        _check(width, levels, norm)
        self.multiple = 2 ** (levels - 1)
        ends = [2 * width * 2**level for level in range(levels)]
        # The first convolution of a step on the way down makes half the channels of the second.
        starts = [in_channels, *ends]
        self.encoder = nn.ModuleList(
            nn.Sequential(_conv(starts[i], ends[i] // 2, norm), _conv(ends[i] // 2, ends[i], norm))
            for i in range(levels)
        )
        self.pool = nn.MaxPool3d(2)
        upward = list(reversed(range(levels - 1)))
        self.up = nn.ModuleList(nn.ConvTranspose3d(ends[i + 1], ends[i + 1], 2, stride=2, bias=False) for i in upward)
        self.decoder = nn.ModuleList(
            nn.Sequential(_conv(ends[i + 1] + ends[i], ends[i], norm), _conv(ends[i], ends[i], norm)) for i in upward
        )
        self.head = nn.Conv3d(ends[0], classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Map `(B, C, X, Y, Z)` images to `(B, K, X, Y, Z)` logits."""
        hidden = self.encoder[0](images)
        skips = []
        for step in self.encoder[1:]:
            skips.append(hidden)
            hidden = step(self.pool(hidden))
        for up, step in zip(self.up, self.decoder, strict=True):
            hidden = step(torch.cat([skips.pop(), up(hidden)], dim=1))
        logits: Tensor = self.head(hidden)
        return logits


def _conv(inputs: int, outputs: int, norm: str) -> nn.Sequential:
    conv = nn.Conv3d(inputs, outputs, 3, padding=1, bias=False)
    return nn.Sequential(conv, _NORMS[norm](outputs), nn.ReLU(inplace=True))


def require_width(width: int, usual: int) -> None:
    """Raise a UsageError unless a width is a number of channels."""
    if not isinstance(width, int) or width < 1:
        raise UsageError(f"expected a width of at least 1 channel, got {width!r}", hint=f"the usual one is {usual}")


def _check(width: int, levels: int, norm: str) -> None:
    require_width(width, usual=32)
    # Weights grow fourfold with each level: a seventh would have 4^3 times the paper's.
    if not isinstance(levels, int) or not 2 <= levels <= 6:
        raise UsageError(f"expected 2 to 6 levels, got {levels!r}", hint="the paper's number is 4")
    if norm not in _NORMS:
        raise UsageError(
            f"expected the norm {' or '.join(_NORMS)}, got {norm!r}", hint="choose instance for batch size 1"
        )
