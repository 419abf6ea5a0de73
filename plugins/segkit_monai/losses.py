"""MONAI's losses behind `(logits, target, ignore)`; ignored voxels change neither the value nor the gradient.

Each sample of a batch is given to MONAI alone, and the mean taken over those that have a voxel that counts. Where there
is none, the loss is 0 and so is its gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from segkit.cards import OptionValue
from segkit_monai.lookup import find_in_monai, options_told
from segkit_monai.losses_table import LOSSES, LossRow

Loss = Callable[[Tensor, Tensor], Tensor]


def __getattr__(name: str) -> Callable[..., MaskedLoss]:
    if name not in LOSSES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return partial(build, LOSSES[name])


def build(row: LossRow, **options: OptionValue) -> MaskedLoss:
    """Build a loss.

    Args:
        row: the loss.
        options: options of the card, where they differ from its defaults.

    Raises:
        MissingExtra: MONAI is not installed.
        UsageError: the installed MONAI has no such loss, or refuses the options.
    """
    kind = find_in_monai("monai.losses", row.monai, row.name)
    chosen = {**row.options, **options}
    with options_told(row.monai, chosen, row.options):
        loss = kind(**row.arguments, **chosen)
    if row.sees == "voxels":
        return VoxelLoss(loss)
    return VolumeLoss(loss, is_mean=row.sees == "volume-mean")


class MaskedLoss:
    """A loss of MONAI for which ignored voxels do not exist.

    Args:
        loss: of `(1, K, X, Y, Z)` and a target of one sample.
    """

    def __init__(self, loss: Loss) -> None:
        self.loss = loss

    def __call__(self, logits: Tensor, target: Tensor, ignore: int) -> Tensor:
        """Return a scalar, the mean over the samples."""
        counts = target != ignore
        losses = [self.one_sample(*sample) for sample in zip(logits, target, counts, strict=True) if sample[2].any()]
        # The sum over no voxel: zero, with a gradient of zeros.
        return torch.stack(losses).mean() if losses else logits[:0].sum()

    def one_sample(self, logits: Tensor, target: Tensor, counts: Tensor) -> Tensor:
        """Return the loss of a sample.

        Args:
            logits: (K, X, Y, Z).
            target: (X, Y, Z).
            counts: (X, Y, Z), false where a voxel is ignored, true somewhere.
        """
        raise NotImplementedError


class VoxelLoss(MaskedLoss):
    """A loss that sees a bag of voxels: it is given those that count, in a row."""

    def one_sample(self, logits: Tensor, target: Tensor, counts: Tensor) -> Tensor:
        """See `MaskedLoss`."""
        return self.loss(logits[:, counts][None, :, :, None, None], target[counts][None, None, :, None, None])


class VolumeLoss(MaskedLoss):
    """A loss to which places matter: an ignored voxel belongs to no class, in the prediction as in the target.

    Args:
        loss: of probabilities and one-hot targets `(1, K, X, Y, Z)`, without activation.
        is_mean: whether its value is a mean over all voxels; then it becomes one over those that count.
    """

    def __init__(self, loss: Loss, *, is_mean: bool) -> None:
        super().__init__(loss)
        self.is_mean = is_mean

    def one_sample(self, logits: Tensor, target: Tensor, counts: Tensor) -> Tensor:
        """See `MaskedLoss`."""
        # Not times a mask alone: an infinite logit would stay.
        probabilities = logits.where(counts, 0).softmax(0) * counts
        truth = F.one_hot(target.where(counts, 0), len(logits)).movedim(-1, 0) * counts
        value = self.loss(probabilities[None], truth[None].to(probabilities))
        return value * (counts.numel() / counts.sum()) if self.is_mean else value
