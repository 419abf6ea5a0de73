"""Losses: their values against monai, torch and figures by hand, and that ignored voxels count nothing."""

from __future__ import annotations

import math
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.losses import DiceLoss, FocalLoss, TverskyLoss
from torch import Tensor
from torch.nn import functional as F

from segkit.errors import UsageError
from segkit_losses import segkit_losses

IGNORE = 255
CARDS = {card.name: card for card in segkit_losses()}
SHARES = (0.5, 0.2, 0.3, 0.0)
VARIANTS: dict[str, dict[str, Any]] = {
    **{name: {} for name in CARDS},
    "cross-entropy inverse": {"weights": "inverse"},
    "cross-entropy given": {"weights": "1,2,3.5,0.5"},
    "dice-ce given": {"weights": "1,2,3.5,0.5"},
    "focal 0.5": {"gamma": 0.5},
}


def build(variant: str) -> Callable[..., Tensor]:
    """Build a loss as training does."""
    card = CARDS[variant.split()[0]]
    shares = {"class_shares": SHARES} if card.class_shares else {}
    loss: Callable[..., Tensor] = card.load()(**{**card.options, **VARIANTS[variant]}, **shares)
    return loss


def with_weights(variant: str, loss: Callable[..., Tensor]) -> Callable[[Tensor, Tensor, int], Tensor]:
    """A loss that takes weights gets some, which are not numbers where a voxel is ignored."""
    if CARDS[variant.split()[0]].weight_map is None:
        return loss

    def weighted(logits: Tensor, target: Tensor, ignore: int) -> Tensor:
        weights = 0.1 + torch.rand(1, *target.shape[1:], generator=torch.Generator().manual_seed(1))
        return loss(logits, target, ignore, weights.expand(target.shape).where(target != ignore, math.nan))

    return weighted


LOSSES = {variant: with_weights(variant, build(variant)) for variant in VARIANTS}

every_loss = pytest.mark.parametrize("name", LOSSES)


def batch(seed: int = 0, samples: int = 2, classes: int = 4) -> tuple[Tensor, Tensor]:
    """Random logits that want a gradient, and a random target without ignored voxels."""
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(samples, classes, 4, 5, 6, generator=rng).requires_grad_()
    return logits, torch.randint(classes, (samples, 4, 5, 6), generator=rng)


def one_voxel(probabilities: list[float], target: int) -> tuple[Tensor, Tensor]:
    """A patch of one voxel with these probabilities."""
    return torch.tensor(probabilities).log().view(1, -1, 1, 1, 1), torch.full((1, 1, 1, 1), target)


def test_dice_is_monai_s_where_nothing_is_ignored() -> None:
    logits, target = batch()
    expected = DiceLoss(softmax=True, to_onehot_y=True)(logits, target[:, None])
    torch.testing.assert_close(LOSSES["dice"](logits, target, IGNORE), expected)


def test_cross_entropy_is_torch_s_where_a_voxel_counts() -> None:
    logits, target = batch()
    target[0, :2] = IGNORE
    expected = F.cross_entropy(logits, target, ignore_index=IGNORE)
    torch.testing.assert_close(LOSSES["cross-entropy"](logits, target, IGNORE), expected)


def test_cross_entropy_of_equal_logits_is_the_log_of_the_number_of_classes() -> None:
    loss = LOSSES["cross-entropy"](torch.zeros(1, 4, 3, 3, 3), batch(samples=1)[1][:, :3, :3, :3], IGNORE)
    assert loss.item() == pytest.approx(math.log(4))


def test_given_weights_are_torch_s_class_weights() -> None:
    logits, target = batch()
    target[0, :2] = IGNORE
    expected = F.cross_entropy(logits, target, torch.tensor([1, 2, 3.5, 0.5]), ignore_index=IGNORE)
    torch.testing.assert_close(LOSSES["cross-entropy given"](logits, target, IGNORE), expected)


def test_inverse_weights_are_one_over_the_share_and_zero_for_a_class_that_never_occurs() -> None:
    logits, target = batch()
    expected = F.cross_entropy(logits, target, torch.tensor([1 / 1.5, 1 / 0.6, 1 / 0.9, 0]))
    torch.testing.assert_close(LOSSES["cross-entropy inverse"](logits, target, IGNORE), expected)
    never = torch.full_like(target, 3)
    loss = LOSSES["cross-entropy inverse"](logits, never, IGNORE)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize(
    "weights", ["inverted", "", "1,2,3", "1,2,3,4,5", "1,2,3,-4", "1,2,3,nan", "1,2,3,inf", "0,0,0,0"]
)
@pytest.mark.parametrize("name", ["cross-entropy", "dice-ce"])
def test_other_weights_are_refused(name: str, weights: str) -> None:
    expected = f"expected the weights none, inverse or 4 numbers from 0 up, one per class, got {weights!r}"
    with pytest.raises(UsageError, match=re.escape(expected)):
        CARDS[name].load()(class_shares=SHARES, weights=weights)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("focal", {"gamma": -1.0}, "expected gamma to be a number from 0 up, got -1.0"),
        ("tversky", {"alpha": -0.1}, "expected alpha to be a number from 0 up, got -0.1"),
        ("tversky", {"beta": math.inf}, "expected beta to be a number from 0 up, got inf"),
        ("border-ce", {"w0": -1.0}, "expected w0 to be a number from 0 up, got -1.0"),
        ("border-ce", {"sigma_mm": 0.0}, "expected a sigma_mm above 0, got 0"),
    ],
)
def test_options_out_of_range_are_refused(name: str, options: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        CARDS[name].load()(**options)


def test_tversky_is_monai_s_where_nothing_is_ignored() -> None:
    logits, target = batch()
    expected = TverskyLoss(softmax=True, to_onehot_y=True, alpha=0.3, beta=0.7)(logits, target[:, None])
    torch.testing.assert_close(LOSSES["tversky"](logits, target, IGNORE), expected)


def test_tversky_by_hand() -> None:
    # Class 0: p = 0.2, truth 1: 0.2 / (0.2 + 0.7 * 0.8). Class 1: p = 0.8, truth 0: nothing of it is right.
    loss = LOSSES["tversky"](*one_voxel([0.2, 0.8], 0), IGNORE)
    assert loss.item() == pytest.approx((1 - 0.2 / 0.76 + 1) / 2, abs=1e-4)


def test_focal_is_monai_s_times_the_number_of_classes() -> None:
    logits, target = batch()
    expected = 4 * FocalLoss(use_softmax=True, to_onehot_y=True, gamma=2.0)(logits, target[:, None])
    torch.testing.assert_close(LOSSES["focal"](logits, target, IGNORE), expected)


def test_focal_by_hand() -> None:
    loss = LOSSES["focal"](*one_voxel([0.1, 0.6, 0.3], 1), IGNORE)
    assert loss.item() == pytest.approx(-(0.4**2) * math.log(0.6))


def test_focal_with_gamma_0_is_cross_entropy() -> None:
    logits, target = batch()
    focal = CARDS["focal"].load()(gamma=0.0)(logits, target, IGNORE)
    torch.testing.assert_close(focal, LOSSES["cross-entropy"](logits, target, IGNORE))


def test_focal_teaches_finite_gradients_where_the_network_is_certain() -> None:
    _, target = batch()
    target[0] = IGNORE
    logits = torch.full((2, 4, 4, 5, 6), 0.0)
    logits[:, 1] = 1000
    logits.requires_grad_()
    LOSSES["focal 0.5"](logits, target, IGNORE).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_generalised_dice_is_the_paper_s_formula() -> None:
    logits, target = batch()
    truth = F.one_hot(target, 4).movedim(-1, 1).double().flatten(2)
    probabilities = logits.double().softmax(1).flatten(2)
    weights = truth.sum(2) ** -2
    overlap = (weights * (truth * probabilities).sum(2)).sum(1)
    size = (weights * (truth + probabilities).sum(2)).sum(1)
    torch.testing.assert_close(
        LOSSES["generalised-dice"](logits, target, IGNORE).double(), (1 - 2 * overlap / size).mean(), rtol=1e-5, atol=0
    )


def test_generalised_dice_does_not_depend_on_the_size_of_the_patch() -> None:
    logits, target = batch(samples=1)
    large = LOSSES["generalised-dice"](logits.repeat(1, 1, 6, 6, 6), target.repeat(1, 6, 6, 6), IGNORE)
    torch.testing.assert_close(large, LOSSES["generalised-dice"](logits, target, IGNORE), rtol=1e-4, atol=0)


def test_border_ce_weights_voxel_by_voxel() -> None:
    logits, target = batch()
    weights = torch.rand(target.shape)
    target[0, 0] = IGNORE
    losses = F.cross_entropy(logits, target, ignore_index=IGNORE, reduction="none")
    counted = weights * (target != IGNORE)
    expected = (losses * counted).sum() / counted.sum()
    torch.testing.assert_close(build("border-ce")(logits, target, IGNORE, weights), expected)


def test_dice_ce_is_the_sum() -> None:
    logits, target = batch()
    target[1, 2] = IGNORE
    both = sum(LOSSES[name](logits, target, IGNORE) for name in ("dice", "cross-entropy"))
    torch.testing.assert_close(LOSSES["dice-ce"](logits, target, IGNORE), both)


@every_loss
def test_a_perfect_prediction_costs_next_to_nothing(name: str) -> None:
    _, target = batch()
    target[0, 0] = IGNORE
    logits = 40.0 * F.one_hot(target.where(target != IGNORE, 0), 4).movedim(-1, 1)
    assert LOSSES[name](logits, target, IGNORE).item() == pytest.approx(0, abs=1e-5)


@every_loss
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.floats(0, 1), code=st.sampled_from([IGNORE, -1, 2]))
def test_ignored_voxels_change_neither_value_nor_gradient(name: str, seed: int, share: float, code: int) -> None:
    logits, target = batch(seed)
    target[torch.rand(target.shape, generator=torch.Generator().manual_seed(seed)) < share] = code
    ignored = (target == code).unsqueeze(1).expand_as(logits)

    loss = LOSSES[name](logits, target, code)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.ndim == 0
    assert loss.isfinite()
    assert not gradient[ignored].any()
    assert gradient[~ignored].isfinite().all()

    other = torch.where(ignored, torch.randn_like(logits), logits)
    assert torch.equal(LOSSES[name](other, target, code), loss)


@every_loss
def test_a_patch_that_is_ignored_whole_costs_zero_and_teaches_zero(name: str) -> None:
    logits, target = batch()
    loss = LOSSES[name](logits, torch.full_like(target, IGNORE), IGNORE)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@every_loss
def test_a_sample_that_is_ignored_whole_does_not_dilute_the_others(name: str) -> None:
    logits, target = batch()
    target[1] = IGNORE
    torch.testing.assert_close(LOSSES[name](logits, target, IGNORE), LOSSES[name](logits[:1], target[:1], IGNORE))


@every_loss
def test_descending_the_gradient_lowers_the_loss(name: str) -> None:
    logits, target = batch()
    before = LOSSES[name](logits, target, IGNORE)
    (gradient,) = torch.autograd.grad(before, logits)
    assert LOSSES[name](logits - gradient, target, IGNORE) < before


@every_loss
def test_inputs_are_left_as_they_were(name: str) -> None:
    logits, target = batch()
    target[0, 0] = IGNORE
    copies = logits.detach().clone(), target.clone()
    LOSSES[name](logits, target, IGNORE)
    assert torch.equal(copies[0], logits)
    assert torch.equal(copies[1], target)


@every_loss
def test_goes_to_another_process(name: str) -> None:
    logits, target = batch()
    there = with_weights(name, pickle.loads(pickle.dumps(build(name))))  # noqa: S301 - made right here
    assert torch.equal(there(logits, target, IGNORE), LOSSES[name](logits, target, IGNORE))


@every_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_logits_of_low_precision_are_taken_to_float32_first(name: str, dtype: torch.dtype) -> None:
    logits, target = batch()
    low = logits.detach().to(dtype)
    expected = LOSSES[name](low.float(), target, IGNORE)
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = LOSSES[name](low, target, IGNORE)
        assert loss.dtype == torch.float32
        assert torch.equal(loss, expected)


def test_cross_entropy_does_not_wait_for_monai(pytestconfig: pytest.Config) -> None:
    paths = [str(pytestconfig.rootpath / folder) for folder in ("core", "plugins")]
    code = f"import sys; sys.path[:0] = {paths!r}; from segkit_losses.losses import CrossEntropy; CrossEntropy([1])"
    subprocess.run([sys.executable, "-c", code + "; assert 'monai' not in sys.modules"], check=True)
