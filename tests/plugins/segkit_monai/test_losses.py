"""MONAI's losses: their values against MONAI itself, and that ignored voxels count nothing."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

import monai.losses
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from segkit.errors import MissingExtra, UsageError
from segkit_monai import segkit_losses

IGNORE = 255
CARDS = {card.name: card for card in segkit_losses()}
LOSSES: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {name: card.load()() for name, card in CARDS.items()}

every_loss = pytest.mark.parametrize("name", LOSSES)


def batch(seed: int = 0, samples: int = 2, classes: int = 4) -> tuple[Tensor, Tensor]:
    """Random logits that want a gradient, and a random target without ignored voxels."""
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(samples, classes, 4, 5, 6, generator=rng).requires_grad_()
    return logits, torch.randint(classes, (samples, 4, 5, 6), generator=rng)


@pytest.mark.parametrize(
    ("name", "theirs", "arguments"),
    [
        ("monai-dice", "DiceLoss", {}),
        ("monai-dice-ce", "DiceCELoss", {}),
        ("monai-dice-focal", "DiceFocalLoss", {}),
        ("monai-generalized-dice", "GeneralizedDiceLoss", {}),
        ("monai-generalized-dice-focal", "GeneralizedDiceFocalLoss", {}),
        ("monai-tversky", "TverskyLoss", {"alpha": 0.3, "beta": 0.7}),
        ("monai-mcc", "MCCLoss", {}),
        ("monai-boundary", "BoundaryLoss", {}),
        ("monai-hausdorff-dt", "HausdorffDTLoss", {}),
        ("monai-cldice", "SoftclDiceLoss", {"include_background": False}),
        ("monai-dice-cldice", "SoftDiceclDiceLoss", {"include_background": False}),
    ],
)
def test_is_monai_s_where_nothing_is_ignored(name: str, theirs: str, arguments: dict[str, Any]) -> None:
    logits, target = batch()
    loss = getattr(monai.losses, theirs)(softmax=True, to_onehot_y=True, **arguments)
    # MONAI's one-hot targets are float: its soft skeleton needs them so.
    torch.testing.assert_close(LOSSES[name](logits, target, IGNORE), loss(logits, target[:, None].float()))


def test_focal_without_focus_is_cross_entropy_over_the_number_of_classes() -> None:
    logits, target = batch()
    found = CARDS["monai-focal"].load()(gamma=0.0)(logits, target, IGNORE)
    torch.testing.assert_close(found, F.cross_entropy(logits, target) / 4)


@every_loss
@settings(max_examples=8, deadline=None)
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
    assert gradient.isfinite().all()

    garbage = torch.randn_like(logits) * torch.tensor([1.0, 1e30, torch.inf, torch.nan])[torch.randint(4, logits.shape)]
    other = torch.where(ignored, garbage, logits).detach().requires_grad_()
    again = LOSSES[name](other, target, code)
    assert torch.equal(again, loss)
    assert torch.equal(torch.autograd.grad(again, other)[0], gradient)


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


def test_ignored_voxels_do_not_dilute_a_mean_over_voxels() -> None:
    target = torch.zeros(1, 8, 8, 16, dtype=torch.int64)
    target[:, 2:5, 2:5, 2:5] = 1
    logits = 40.0 * F.one_hot(target, 2).movedim(-1, 1).float()
    logits[0, :, 2, 2, 2] = logits[0, :, 2, 2, 2].flip(0)
    hidden = target.clone()
    hidden[..., 12:] = IGNORE  # far from the only error, whose share of the mean grows
    loss = LOSSES["monai-hausdorff-dt"]
    torch.testing.assert_close(loss(logits, hidden, IGNORE), loss(logits, target, IGNORE) * 16 / 12)


@pytest.mark.parametrize("name", sorted(set(LOSSES) - {"monai-boundary"}))
def test_a_perfect_prediction_costs_next_to_nothing(name: str) -> None:
    _, target = batch()
    target[0, 0] = IGNORE
    logits = 80.0 * F.one_hot(target.where(target != IGNORE, 0), 4).movedim(-1, 1) - 40
    assert LOSSES[name](logits, target, IGNORE).item() == pytest.approx(0, abs=1e-4)


@every_loss
def test_descending_the_gradient_lowers_the_loss(name: str) -> None:
    logits, target = batch()
    target[0, 0] = IGNORE
    before = LOSSES[name](logits, target, IGNORE)
    (gradient,) = torch.autograd.grad(before, logits)
    assert LOSSES[name](logits - 0.1 * gradient, target, IGNORE) < before


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


def test_each_card_has_an_entry_point() -> None:
    assert {entry.name for entry in entry_points(group="segkit.losses", value="segkit_monai")} == set(CARDS)


def test_options_reach_monai() -> None:
    logits, target = batch()
    found = CARDS["monai-tversky"].load()(alpha=0.9, beta=0.1)(logits, target, IGNORE)
    theirs = monai.losses.TverskyLoss(softmax=True, to_onehot_y=True, alpha=0.9, beta=0.1)
    torch.testing.assert_close(found, theirs(logits, target[:, None]))


def test_options_that_monai_refuses_are_told() -> None:
    with pytest.raises(
        UsageError, match=r"expected options that MONAI's SoftclDiceLoss takes, got iter_=-1: .*defaults"
    ):
        CARDS["monai-cldice"].load()(iter_=-1)


def test_a_loss_that_the_installed_monai_lacks_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(monai.losses, "MCCLoss")
    with pytest.raises(
        UsageError, match=r"expected MCCLoss in monai.losses for monai-mcc, got MONAI \d.*; run: pip install"
    ):
        CARDS["monai-mcc"].load()()


def test_a_missing_monai_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segkit.extras.is_installed", lambda module: module != "monai")
    with pytest.raises(MissingExtra, match=r"monai-dice needs the module 'monai'.*segkit3d\[train\]"):
        CARDS["monai-dice"].load()()
