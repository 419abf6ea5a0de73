"""3D DenseNets without pooling: one stream, or a stream or a stem for each modality.

They are the baselines that Dolz et al. 2019 (doi 10.1109/TMI.2018.2878669) hold their hyper-dense network against:
dense connections within a path, and paths joined at the input, after the first layer, or before the classifier. All
convolutions are padded and none has a stride, so an input of any size keeps it.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

GROWTH = (25, 25, 25, 50, 50, 50, 75, 75, 75)
"""Channels that each 3^3 convolution of the dense block adds."""

REDUCTION = (400, 200, 150)
"""Channels of the 1^3 convolutions after the dense block."""

DROPOUT = 0.5
"""Share of values that training drops after each 1^3 convolution but the classifier."""


class DenseNet3D(nn.Module):
    """One stream, whose first layer sees all modalities.

    With four classes it has 2,685,243 parameters for one modality, 2,697,811 for two and 2,710,379 for three, and 34
    layers by the rule "leaf calls".

    Args:
        in_channels: modalities, from 1 up.
        classes: classes, background included.
    """

    def __init__(self, in_channels: int, classes: int) -> None:
        super().__init__()
        self.features = _stream(in_channels)
        self.classifier = _classifier(REDUCTION[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map `(B, C, X, Y, Z)` images to `(B, K, X, Y, Z)` logits."""
        logits: Tensor = self.classifier(self.features(images))
        return logits


class LateFusion(nn.Module):
    """A stream for each modality; one classifier sees what they all end in.

    With four classes it has 5,370,486 parameters and 67 leaf calls for two modalities, 8,055,729 and 100 for three.

    Args:
        in_channels: modalities, from 1 up.
        classes: classes, background included.
    """

    def __init__(self, in_channels: int, classes: int) -> None:
        super().__init__()
        self.streams = nn.ModuleList(_stream(1) for _ in range(in_channels))
        self.classifier = _classifier(in_channels * REDUCTION[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map `(B, C, X, Y, Z)` images to `(B, K, X, Y, Z)` logits."""
        logits: Tensor = self.classifier(_each_its_own(self.streams, images))
        return logits


class EarlyFusion(nn.Module):
    """A dense layer for each modality; one stream goes on from what they end in, the modalities themselves included.

    With four classes it has 3,327,565 parameters and 40 leaf calls for two modalities, 3,655,010 and 43 for three.

    Args:
        in_channels: modalities, from 1 up.
        classes: classes, background included.
    """

    def __init__(self, in_channels: int, classes: int) -> None:
        super().__init__()
        self.stems = nn.ModuleList(DenseLayer(1, GROWTH[0]) for _ in range(in_channels))
        self.features = _stream(in_channels * (1 + GROWTH[0]))
        self.classifier = _classifier(REDUCTION[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map `(B, C, X, Y, Z)` images to `(B, K, X, Y, Z)` logits."""
        logits: Tensor = self.classifier(self.features(_each_its_own(self.stems, images)))
        return logits


class DenseLayer(nn.Module):
    """Batch norm, ReLU and a 3^3 convolution, whose output is added to the channels that came in."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        # In place: the norm's output is needed by nothing else, and is as large as all channels before it.
        self.new = nn.Sequential(
            nn.BatchNorm3d(inputs), nn.ReLU(inplace=True), nn.Conv3d(inputs, growth, 3, padding=1, bias=False)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map `(B, F, X, Y, Z)` to `(B, F + growth, X, Y, Z)`."""
        return torch.cat([features, self.new(features)], dim=1)


def _stream(inputs: int) -> nn.Sequential:
    """Nine dense layers, then 1^3 convolutions down to 150 channels.

    Nothing but dropout lies between the latter: a count of 34 layers leaves no room for activations.
    """
    layers: list[nn.Module] = []
    channels = inputs
    for growth in GROWTH:
        layers.append(DenseLayer(channels, growth))
        channels += growth
    for before, after in pairwise([channels, *REDUCTION]):
        layers += [nn.Conv3d(before, after, 1, bias=False), nn.Dropout(DROPOUT)]
    return nn.Sequential(*layers)


def _classifier(inputs: int, classes: int) -> nn.Conv3d:
    return nn.Conv3d(inputs, classes, 1, bias=False)


def _each_its_own(parts: nn.ModuleList, images: Tensor) -> Tensor:
    """Give each part the one channel that is its own, and join what they return."""
    return torch.cat([part(image) for part, image in zip(parts, torch.split(images, 1, dim=1), strict=True)], dim=1)
