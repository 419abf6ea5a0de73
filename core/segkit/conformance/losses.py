"""Rules of losses: a finite scalar with a gradient, blind to ignored voxels, lower for a better prediction."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from segkit.cards import load_attribute
from segkit.conformance.check import Candidate, Rule
from segkit.conformance.network import seeded
from segkit.dataset import IGNORE
from segkit.errors import PluginError

if TYPE_CHECKING:
    from torch import Tensor

_SIDE, _CLASSES = 16, 3
_SPACING_MM = (1.0, 1.0, 1.0)
_SURE = 10.0
"""The logit of a class that a network is sure of."""
_RELATIVE_TOLERANCE = 1e-5


def _target() -> Tensor:
    """Two samples (2, X, Y, Z) of balls inside balls, of different sizes, with some ignored voxels."""
    import torch

    grid = np.stack(np.meshgrid(*[np.arange(_SIDE) - _SIDE / 2] * 3, indexing="ij"))
    samples = []
    for outer, shift in ((7.0, 0), (5.0, 1)):
        radius = np.sqrt(((grid - shift) ** 2).sum(0))
        label = (radius < outer).astype(np.int64) + (radius < outer / 2)
        label[:2] = IGNORE
        samples.append(label)
    return torch.from_numpy(np.stack(samples))


def _loss(candidate: Candidate) -> Callable[..., Tensor]:
    """The loss as training calls it, `(logits, labels) -> scalar`.

    What training takes from whole heads, the shares of the classes and the weight map, is that of `_target`.
    """
    import torch

    target = _target()
    options = dict(candidate.options)
    if candidate.card.class_shares:
        counts = [(target == index).sum().item() for index in range(_CLASSES)]
        options["class_shares"] = [count / sum(counts) for count in counts]
    loss = candidate.card.load()(**options)
    if candidate.card.weight_map is None:
        return lambda logits, labels, flipped=False: loss(logits, labels, IGNORE)
    make = load_attribute(candidate.card.weight_map)
    maps = [np.asarray(make(sample.astype(np.uint8), _SPACING_MM, **candidate.options)) for sample in target.numpy()]
    for weights in maps:
        if weights.dtype != np.float32 or weights.shape != (_SIDE,) * 3 or not np.isfinite(weights).all():
            raise PluginError(
                f"expected a weight map of finite float32 numbers {(_SIDE,) * 3}, got {weights.dtype} {weights.shape}",
                hint="return one weight for each voxel of the label",
            )
    stacked = torch.from_numpy(np.stack(maps))
    return lambda logits, labels, flipped=False: loss(logits, labels, IGNORE, stacked.flip(0) if flipped else stacked)


def _logits(target: Tensor) -> Tensor:
    import torch

    return torch.randn(len(target), _CLASSES, *target.shape[1:], requires_grad=True)


def _answers(target: Tensor) -> Tensor:
    """Logits of a network that is right everywhere."""
    import torch

    labels = target.where(target != IGNORE, 0)
    return _SURE * torch.nn.functional.one_hot(labels, _CLASSES).movedim(-1, 1).float()


def _is_scalar(candidate: Candidate) -> str:
    import torch

    target = _target()
    value = _loss(candidate)(_logits(target), target)
    if not isinstance(value, torch.Tensor) or value.ndim or not value.is_floating_point():
        got = f"a tensor {tuple(value.shape)}" if isinstance(value, torch.Tensor) else f"a {type(value).__name__}"
        raise PluginError(f"expected a scalar tensor, got {got}", hint="return the mean over the voxels that count")
    if not torch.isfinite(value):
        raise PluginError(f"expected a finite loss, got {value.item()}", hint="keep logarithms and divisions off zero")
    return f"{value.item():.4g} for random logits"


def _has_gradient(candidate: Candidate) -> None:
    import torch

    target = _target()
    logits = _logits(target)
    value = _loss(candidate)(logits, target)
    if not value.requires_grad:
        raise PluginError(
            "expected a loss with a gradient, got one that torch cannot differentiate",
            hint="keep to torch operations: argmax, numpy and .item() have no gradient",
        )
    value.backward()  # type: ignore[no-untyped-call]
    if logits.grad is None or not torch.isfinite(logits.grad).all():
        raise PluginError(
            "expected finite gradients, got NaN or infinity", hint="keep logarithms, roots and divisions off zero"
        )
    if not logits.grad.any():
        raise PluginError(
            "expected a gradient for random logits, it is zero at every voxel",
            hint="compute the loss of probabilities: a hard choice between classes has no slope",
        )


def _is_finite_at_extremes(candidate: Candidate) -> None:
    import torch

    target = _target()
    everything = target.new_full(target.shape, IGNORE)
    for what, labels, logits in (
        ("the right classes with large logits", target, 10 * _answers(target)),
        ("wrong classes with large logits", target, -10 * _answers(target)),
        ("ignored voxels alone", everything, _logits(target).detach()),
        ("background alone", torch.zeros_like(target), _logits(target).detach()),
    ):
        logits.requires_grad_()
        value = _loss(candidate)(logits, labels)
        if value.requires_grad:
            value.backward()  # type: ignore[no-untyped-call]
        if not torch.isfinite(value) or (logits.grad is not None and not torch.isfinite(logits.grad).all()):
            raise PluginError(
                f"expected a finite loss and gradient for {what}, got a loss of {value.item()} and "
                + (
                    "finite gradients"
                    if logits.grad is None or torch.isfinite(logits.grad).all()
                    else "NaN or infinity"
                ),
                hint="divide by what is never zero, for example .clamp(min=tiny): training meets such patches",
            )


def _ignores(candidate: Candidate) -> None:
    import torch

    target = _target()
    loss = _loss(candidate)
    ignored = (target == IGNORE).unsqueeze(1)
    logits = _logits(target)
    value = loss(logits, target)
    value.backward()  # type: ignore[no-untyped-call]
    changed = loss(logits.detach() + 5 * torch.randn_like(logits) * ignored, target)
    difference = abs(changed.item() - value.item())
    hint = "leave voxels whose target equals the argument ignore out of sums and of the numbers they are divided by"
    if difference > _RELATIVE_TOLERANCE * max(abs(value.item()), 1e-6):
        raise PluginError(
            f"expected logits of ignored voxels to change nothing, they move the loss by {difference:.3g}", hint=hint
        )
    if logits.grad is not None and (logits.grad * ignored).any():
        raise PluginError("expected no gradient at ignored voxels, there is one", hint=hint)


def _prefers_the_truth(candidate: Candidate) -> str:
    target = _target()
    loss = _loss(candidate)
    right = loss(_answers(target), target).item()
    # Sure of the next class, where it should be sure of this one.
    wrong = loss(_answers(target).roll(1, dims=1), target).item()
    if not right < wrong:
        raise PluginError(
            f"expected a lower loss for right classes than for wrong ones, got {right:.4g} and {wrong:.4g}",
            hint="check the sign, and that classes are along the second axis of the logits",
        )
    return f"{right:.3g} right, {wrong:.3g} wrong"


def _treats_samples_alike(candidate: Candidate) -> None:
    target = _target()
    loss = _loss(candidate)
    logits = _logits(target).detach()
    value, swapped = loss(logits, target).item(), loss(logits.flip(0), target.flip(0), flipped=True).item()
    if abs(value - swapped) > _RELATIVE_TOLERANCE * max(abs(value), 1e-6):
        raise PluginError(
            f"expected the same loss whatever the order of the samples, got {value:.6g} and {swapped:.6g}",
            hint="treat all samples of a batch alike",
        )


def _changes_nothing(candidate: Candidate) -> None:
    import torch

    target = _target()
    logits = _logits(target).detach()
    before = logits.clone(), target.clone()
    loss = _loss(candidate)
    value, again = loss(logits, target), loss(logits, target)
    for name, tensor, copy in (("logits", logits, before[0]), ("target", target, before[1])):
        if not torch.equal(tensor, copy):
            raise PluginError(
                f"expected logits and target to stay as they are, the loss changes the {name} in place",
                hint="use operations without a trailing underscore, and no assignment to slices of its arguments",
            )
    if not torch.equal(value, again):
        raise PluginError(
            f"expected the same loss twice, got {value.item():.6g} and {again.item():.6g}",
            hint="keep nothing between calls, and draw no random numbers",
        )


_NEEDS = "scalar"

RULES = (
    Rule(_NEEDS, "a finite scalar", seeded(_is_scalar), needs="factory"),
    Rule("gradient", "a finite gradient that is not zero", seeded(_has_gradient), _NEEDS),
    Rule(
        "extremes",
        "finite values where classes are missing and logits are large",
        seeded(_is_finite_at_extremes),
        _NEEDS,
    ),
    Rule("ignored", "ignored voxels that count nothing", seeded(_ignores), _NEEDS),
    Rule("better", "a lower loss for a better prediction", seeded(_prefers_the_truth), _NEEDS),
    Rule("order", "the same loss whatever the order of the samples", seeded(_treats_samples_alike), _NEEDS),
    Rule("unchanged", "arguments that stay as they are, and the same loss twice", seeded(_changes_nothing), _NEEDS),
)
