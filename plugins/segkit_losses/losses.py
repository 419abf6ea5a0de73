"""Losses of `(logits, target, ignore)`; voxels whose target equals `ignore` change neither the value nor the gradient.

Shapes are those of `segkit.LossCard`: logits `(B, K, X, Y, Z)` float32, target `(B, X, Y, Z)` int64. Where every voxel
is ignored the loss is 0 and so is its gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from segkit.extras import require


class CrossEntropy:
    """Cross-entropy in nats, the mean over the voxels that count."""

    def __call__(self, logits: Tensor, target: Tensor, ignore: int) -> Tensor:
        """Return a scalar, 0 or more."""
        # torch's own mean divides by zero where every voxel is ignored.
        total = F.cross_entropy(logits, target, ignore_index=ignore, reduction="sum")
        return total / (target != ignore).sum().clamp(min=1)


class Dice:
    """One minus soft Dice (Milletari et al. 2016, section 3), without squares in the denominator.

    The mean over classes, background included, and over those samples of the batch that have a voxel that counts.
    """

    def __init__(self) -> None:
        # Not at the top: monai takes seconds to import, and cross-entropy works without it.
        require("monai", "train", "the Dice loss")
        from monai.losses import DiceLoss

        self._per_class = DiceLoss(reduction="none")

    def __call__(self, logits: Tensor, target: Tensor, ignore: int) -> Tensor:
        """Return a scalar from 0 (the target itself) to 1."""
        counts = target != ignore
        truth = F.one_hot(target.where(counts, 0), logits.shape[1]).movedim(-1, 1)
        # Zero in both, an ignored voxel adds nothing to the overlap nor to either size.
        mask = counts.unsqueeze(1)
        losses: Tensor = self._per_class(logits.softmax(1) * mask, truth * mask)
        samples = counts.flatten(1).any(1)
        return (losses.flatten(1).mean(1) * samples).sum() / samples.sum().clamp(min=1)


class DiceCrossEntropy:
    """The sum of `Dice` and `CrossEntropy`, each with weight 1."""

    def __init__(self) -> None:
        self._terms = (Dice(), CrossEntropy())

    def __call__(self, logits: Tensor, target: Tensor, ignore: int) -> Tensor:
        """Return a scalar, 0 or more."""
        return torch.stack([term(logits, target, ignore) for term in self._terms]).sum()
