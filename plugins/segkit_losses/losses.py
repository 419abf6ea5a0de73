"""Losses of `(logits, target, ignore)`; voxels whose target equals `ignore` change neither the value nor the gradient.

Shapes are those of `segkit.LossCard`: logits `(B, K, X, Y, Z)`, target `(B, X, Y, Z)` int64. Whatever the precision of
the logits, the loss is computed in float32. Where every voxel is ignored it is 0 and so is its gradient.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from segkit.errors import UsageError
from segkit.extras import require

TINY = torch.finfo(torch.float32).tiny


class CrossEntropy:
    """Cross-entropy in nats, the mean over the voxels that count, each weighted by its class: sum(w l) / sum(w).

    Args:
        class_shares: of each class, its share (0 to 1) of the training voxels.
        weights: "none"; "inverse", which gives a class of share s the weight 1 / (n s), n the number of classes that
            occur, and 0 to one that does not, so that the training voxels' mean weight is 1; or one number per class
            with commas between, such as "0.5,2,1,1".

    Raises:
        UsageError: the weights are none of these.
    """

    def __init__(self, class_shares: Sequence[float], weights: str = "none") -> None:
        self._class_weights = _class_weights(class_shares, weights)

    def __call__(self, logits: Tensor, target: Tensor, ignore: int) -> Tensor:
        """Return a scalar, 0 or more."""
        weights = self._class_weights.to(logits.device)[target.where(target != ignore, 0)]
        return _weighted_mean(_cross_entropy(logits, target, ignore), weights, target != ignore)


class Focal:
    """Focal loss (Lin et al. 2017, equation 4, doi 10.1109/ICCV.2017.324): (1 - p)^gamma times cross-entropy.

    The mean over the voxels that count; p is the probability of a voxel's own class. Not monai's, whose gradients are
    not numbers as soon as a p is 1 where gamma is below 1.

    Args:
        gamma: 0 for cross-entropy; the paper's best is 2.

    Raises:
        UsageError: gamma is below 0.
    """

    def __init__(self, gamma: float = 2.0) -> None:
        _require_from_zero(gamma=gamma)
        self._gamma = gamma

    def __call__(self, logits: Tensor, target: Tensor, ignore: int) -> Tensor:
        """Return a scalar, 0 or more."""
        cross_entropy = _cross_entropy(logits, target, ignore)
        # The slope of a power below 1 is infinite at 0, where the cross-entropy is 0 too.
        missed = -torch.expm1(-cross_entropy).clamp(max=-TINY)
        return _weighted_mean(missed**self._gamma * cross_entropy, torch.ones_like(missed), target != ignore)


class BorderCrossEntropy:
    """Cross-entropy in nats, weighted voxel by voxel with the map of `segkit_losses.border`: sum(w l) / sum(w).

    Args:
        w0: of the map; checked here, before any map is computed.
        sigma_mm: of the map, likewise.

    Raises:
        UsageError: an option is out of range.
    """

    def __init__(self, w0: float = 10.0, sigma_mm: float = 5.0) -> None:
        _require_from_zero(w0=w0, sigma_mm=sigma_mm)
        if sigma_mm == 0:
            raise UsageError("expected a sigma_mm above 0, got 0", hint="the U-Net's is 5")

    def __call__(self, logits: Tensor, target: Tensor, ignore: int, weights: Tensor) -> Tensor:
        """Return a scalar, 0 or more; weights are `(B, X, Y, Z)`."""
        return _weighted_mean(_cross_entropy(logits, target, ignore), weights, target != ignore)


class _Overlap:
    """The mean of one of monai's overlap losses over classes, and over the samples that have a voxel that counts.

    Args:
        per_class: maps probabilities and one-hot truth `(B, K, X, Y, Z)` to losses `(B, ...)`, unreduced.
    """

    def __init__(self, per_class: Any) -> None:
        self._per_class = per_class

    def __call__(self, logits: Tensor, target: Tensor, ignore: int) -> Tensor:
        """Return a scalar from 0 (the target itself) to 1."""
        counts = target != ignore
        truth = F.one_hot(target.where(counts, 0), logits.shape[1]).movedim(-1, 1)
        # Zero in both, an ignored voxel adds nothing to the overlap nor to either size.
        mask = counts.unsqueeze(1)
        losses: Tensor = self._per_class(logits.float().softmax(1) * mask, truth * mask)
        samples = counts.flatten(1).any(1)
        return (losses.flatten(1).mean(1) * samples).sum() / samples.sum().clamp(min=1)


class Dice(_Overlap):
    """One minus soft Dice (Milletari et al. 2016, section 3), without squares in the denominator.

    The mean over classes, background included, and over those samples of the batch that have a voxel that counts.
    """

    def __init__(self) -> None:
        # Not at the top: monai takes seconds to import, and cross-entropy works without it.
        require("monai", "train", "the Dice loss")
        from monai.losses import DiceLoss

        super().__init__(DiceLoss(reduction="none"))


class GeneralisedDice(_Overlap):
    """Generalised Dice loss (Sudre et al. 2017, doi 10.1007/978-3-319-67558-9_28).

    Overlaps and sizes of the classes are summed before they are divided, each weighted by one over the square of the
    class's number of voxels in the sample. A class that the sample lacks gets the largest of the others' weights.
    """

    def __init__(self) -> None:
        require("monai", "train", "the generalised Dice loss")
        from monai.losses import GeneralizedDiceLoss

        # On a patch of a million voxels the weighted sums are about 1e-6: monai's usual smoothing, 1e-5, would rule.
        super().__init__(GeneralizedDiceLoss(reduction="none", smooth_nr=0, smooth_dr=1e-15))


class Tversky(_Overlap):
    """One minus the Tversky index (Salehi et al. 2017, doi 10.1007/978-3-319-67389-9_44).

    The mean over classes, background included; alpha = beta = 0.5 is `Dice`.

    Args:
        alpha: weight of false positives.
        beta: weight of false negatives; the paper's best are 0.3 and 0.7.

    Raises:
        UsageError: one of them is below 0.
    """

    def __init__(self, alpha: float = 0.3, beta: float = 0.7) -> None:
        _require_from_zero(alpha=alpha, beta=beta)
        require("monai", "train", "the Tversky loss")
        from monai.losses import TverskyLoss

        super().__init__(TverskyLoss(reduction="none", alpha=alpha, beta=beta))


class DiceCrossEntropy:
    """The sum of `Dice` and `CrossEntropy`, each with weight 1; arguments as for `CrossEntropy`."""

    def __init__(self, class_shares: Sequence[float], weights: str = "none") -> None:
        self._terms = (Dice(), CrossEntropy(class_shares, weights))

    def __call__(self, logits: Tensor, target: Tensor, ignore: int) -> Tensor:
        """Return a scalar, 0 or more."""
        return torch.stack([term(logits, target, ignore) for term in self._terms]).sum()


def _cross_entropy(logits: Tensor, target: Tensor, ignore: int) -> Tensor:
    """Cross-entropy in nats of each voxel `(B, X, Y, Z)`, 0 where it is ignored."""
    return F.cross_entropy(logits.float(), target, ignore_index=ignore, reduction="none")


def _weighted_mean(losses: Tensor, weights: Tensor, counts: Tensor) -> Tensor:
    """The mean over the voxels that count; 0 where their weights are."""
    weights = weights.where(counts, 0)
    return (losses * weights).sum() / weights.sum().clamp(min=TINY)


def _class_weights(class_shares: Sequence[float], weights: str) -> Tensor:
    if weights == "none":
        return torch.ones(len(class_shares))
    if weights == "inverse":
        occur = sum(share > 0 for share in class_shares)
        return torch.tensor([1 / (occur * share) if share > 0 else 0.0 for share in class_shares])
    try:
        given = [float(word) for word in weights.split(",")]
    except ValueError:
        given = []
    if len(given) != len(class_shares) or not any(given) or not all(0 <= weight < math.inf for weight in given):
        raise UsageError(
            f"expected the weights none, inverse or {len(class_shares)} numbers from 0 up, one per class, "
            f"got {weights!r}",
            hint=f"for example {','.join(['1'] * len(class_shares))}",
        )
    return torch.tensor(given)


def _require_from_zero(**options: float) -> None:
    for name, value in options.items():
        if not 0 <= value < math.inf:
            raise UsageError(f"expected {name} to be a number from 0 up, got {value!r}")
