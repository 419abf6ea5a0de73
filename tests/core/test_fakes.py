"""The shipped fakes keep the contracts that they are examples of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from segkit.cli import cli
from segkit.conformance import assert_model_conforms
from segkit.dataset import open_dataset
from segkit.fakes import fake_registry
from segkit.installed import KINDS
from segkit.preprocess import Preprocessing
from segkit.store import prepare


@pytest.mark.parametrize("kind", KINDS)
def test_there_is_a_fake_of_every_kind(kind: str) -> None:
    registry = fake_registry()
    assert registry.card(kind, "fake").name == "fake"
    assert callable(registry.build(kind, "fake"))


def test_the_fake_model_conforms() -> None:
    assert_model_conforms(fake_registry().card("model", "fake"), plugin="segkit.hookspecs")


def test_the_fake_data_set_is_found_read_and_prepared(tmp_path: Path) -> None:
    registry = fake_registry()
    done = CliRunner().invoke(cli, ["data", "make", "fake", str(tmp_path / "data"), "--subjects", "2"], obj=registry)
    assert done.exit_code == 0, done.output
    card = registry.card("dataset", "fake")
    dataset = open_dataset(card, tmp_path / "data")
    first, second = prepare(dataset, dataset.subjects, ["T1"], Preprocessing(), tmp_path / "store")
    assert (first.id, second.id) == ("ball-1", "ball-2")
    assert first.images.shape == (2, 24, 24, 24)
    assert set(np.unique(first.label)) == {0, 1}
    assert len(first.nonempty) == (first.label == 1).sum()
    assert not first.mask[:2].any()
    assert first.mask[2:].all()
    inside = first.images[0][first.mask]
    assert inside.mean() == pytest.approx(0, abs=1e-5)
    assert inside.std() == pytest.approx(1, abs=1e-5)
    assert not first.images[0][~first.mask].any()
    assert np.array_equal(first.images[1], first.mask)


def test_the_fake_loss_leaves_ignored_voxels_alone() -> None:
    logits = torch.zeros(1, 2, 2, 2, 2, requires_grad=True)
    target = torch.full((1, 2, 2, 2), 255)
    target[0, 0] = 1
    fake_registry().build("loss", "fake")()(logits, target, 255).backward()
    assert logits.grad is not None
    assert logits.grad[:, :, 0].all()
    assert not logits.grad[:, :, 1].any()


def test_the_fake_command_runs_as_a_sub_command() -> None:
    assert CliRunner().invoke(cli, ["fake"], obj=fake_registry()).output == "hello from 6 plugins\n"
