"""Losses: their values against monai and torch, and that ignored voxels count nothing."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.losses import DiceLoss
from torch import Tensor
from torch.nn import functional as F

from segkit_losses import segkit_losses

IGNORE = 255
CARDS = {card.name: card for card in segkit_losses()}
LOSSES: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {name: card.load()() for name, card in CARDS.items()}

every_loss = pytest.mark.parametrize("name", LOSSES)


def batch(seed: int = 0, samples: int = 2, classes: int = 4) -> tuple[Tensor, Tensor]:
    """Random logits that want a gradient, and a random target without ignored voxels."""
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(samples, classes, 4, 5, 6, generator=rng).requires_grad_()
    return logits, torch.randint(classes, (samples, 4, 5, 6), generator=rng)


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
    there = pickle.loads(pickle.dumps(LOSSES[name]))  # noqa: S301 - made one line above
    assert torch.equal(there(logits, target, IGNORE), LOSSES[name](logits, target, IGNORE))


def test_cross_entropy_does_not_wait_for_monai(pytestconfig: pytest.Config) -> None:
    paths = [str(pytestconfig.rootpath / folder) for folder in ("core", "plugins")]
    code = f"import sys; sys.path[:0] = {paths!r}; from segkit_losses.losses import CrossEntropy; CrossEntropy()"
    subprocess.run([sys.executable, "-c", code + "; assert 'monai' not in sys.modules"], check=True)
