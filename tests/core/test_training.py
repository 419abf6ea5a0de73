"""What training promises: it learns, it can stop anywhere and go on to the same bits, and it writes what it says."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file

from segkit.cli import cli
from segkit.errors import DataError, SegkitError, UsageError
from segkit.fakes import fake_registry, make_subjects
from segkit.registry import Registry, Switches
from segkit.run import Run
from segkit.training import Stopped, Trainer
from segkit.training.plan import open_subjects
from segkit.training.processes import Processes

NETWORK = "--option width=2 --option levels=2 --option norm=instance --patch 16,16,16"
ALONE = Processes(1, 0, "cpu")
SMALL = f"--model unet3d --dataset fake {NETWORK} --epochs 2 --patches-per-epoch 3 --loss cross-entropy --hold-out 1"


@pytest.fixture(scope="module")
def registry() -> Registry:
    """What segkit brings, and the fakes: their data set is small."""
    return Registry([*Registry.from_environment(Switches(builtin_only=True)).entries, *fake_registry().entries])


@pytest.fixture(scope="module")
def segkit(registry: Registry) -> Callable[..., str]:
    def run(*arguments: str | Path) -> str:
        words = [str(argument) for argument in arguments]
        return CliRunner().invoke(cli, words, obj=registry, catch_exceptions=False, standalone_mode=False).output

    return run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("balls")
    make_subjects(folder, "ball", 3, 0, lambda _: None)
    return folder


@pytest.fixture(scope="module")
def train(segkit: Callable[..., str], data: Path) -> Callable[..., str]:
    def run(out: Path, more: str = "", data: Path = data) -> str:
        return segkit("train", "--data", data, "--out", out, *SMALL.split(), *more.split())

    return run


@pytest.fixture(scope="module")
def run_folder(train: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    train(folder)
    return folder


def test_a_run_folder_holds_config_weights_metrics_curve_and_tensorboard(run_folder: Path) -> None:
    names = {path.name for path in run_folder.iterdir()}
    assert names >= {"config.json", "best.safetensors", "last.safetensors", "metrics.csv", "curve.png", "tensorboard"}
    rows = metrics(run_folder)
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "3"), ("2", "6")]
    assert list((run_folder / "tensorboard").iterdir())
    assert (run_folder / "curve.png").read_bytes().startswith(b"\x89PNG")
    config = Run.open(run_folder).config
    assert config.model == "segkit3d:unet3d"
    assert config.held_out_subjects == ("ball-1",)
    assert config.train_subjects == ("ball-2", "ball-3")


def test_the_same_seed_gives_the_same_weights(train: Callable[..., str], run_folder: Path, tmp_path: Path) -> None:
    train(tmp_path / "again")
    assert_same_run(run_folder, tmp_path / "again")


def test_another_seed_gives_other_weights(train: Callable[..., str], run_folder: Path, tmp_path: Path) -> None:
    train(tmp_path / "other", "--seed 1 --epochs 1")
    ours, theirs = (load_file(folder / "best.safetensors") for folder in (run_folder, tmp_path / "other"))
    assert any(not np.array_equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("step", [1, 3, 4])
def test_a_run_stopped_by_ctrl_c_goes_on_to_the_same_bits(
    segkit: Callable[..., str], step: int, run_folder: Path, tmp_path: Path, registry: Registry
) -> None:
    stopped = tmp_path / "stopped"
    interrupt_at(step, run_folder, stopped, registry)
    assert (stopped / "best.safetensors").exists() == (step > 3)
    segkit("train", "--resume", "--out", stopped)
    assert_same_run(run_folder, stopped)


def test_sgd_with_momentum_goes_on_to_the_same_bits(
    train: Callable[..., str], segkit: Callable[..., str], tmp_path: Path, registry: Registry
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(whole, "--optimizer sgd --epochs 1")
    interrupt_at(2, whole, stopped, registry)
    segkit("train", "--resume", "--out", stopped)
    assert_same_run(whole, stopped)


def metrics(run: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))


def interrupt_at(step: int, whole: Path, stopped: Path, registry: Registry) -> None:
    """Start the same run in another folder and send Ctrl-C while a step is under way."""
    run = Run.create(stopped, Run.open(whole).config)
    train_subjects, held_out = open_subjects(registry, run, lambda _: None)

    def on_step(done: int, loss: float) -> None:
        if done == step:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Stopped, match=r"^$"):
        Trainer(run, registry, train_subjects, held_out, ALONE, on_step=on_step).fit()


def assert_same_run(first: Path, second: Path) -> None:
    for name in ("best.safetensors", "last.safetensors"):
        ours, theirs = load_file(first / name), load_file(second / name)
        assert ours.keys() == theirs.keys()
        for key in ours:
            np.testing.assert_array_equal(ours[key], theirs[key], err_msg=key)
    timeless = [[{k: v for k, v in row.items() if k != "seconds"} for row in metrics(run)] for run in (first, second)]
    assert timeless[0] == timeless[1]


def test_more_steps_lower_the_loss(train: Callable[..., str], tmp_path: Path) -> None:
    train(tmp_path / "run", "--epochs 2 --patches-per-epoch 20 --learning-rate 0.01")
    losses = [float(row["loss"]) for row in metrics(tmp_path / "run")]
    assert losses[-1] < 0.9 * losses[0]


def test_a_run_folder_in_use_is_refused(train: Callable[..., str], run_folder: Path) -> None:
    with pytest.raises(UsageError, match=r"expected a new run folder, found files in .*--resume"):
        train(run_folder)


def test_resume_refuses_other_settings(segkit: Callable[..., str], run_folder: Path) -> None:
    with pytest.raises(UsageError, match="expected --resume with --out alone, got --epochs too"):
        segkit("train", "--resume", "--out", run_folder, "--epochs", "9")


def test_resume_needs_a_run(segkit: Callable[..., str], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected a run in .*, found no config\.json"):
        segkit("train", "--resume", "--out", tmp_path)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--model unet4d", "no model 'unet4d'; did you mean 'unet3d'"),
        ("--loss dicce", "no loss 'dicce'; did you mean"),
        ("--patch 16,15,16", "expected patch sides that are multiples of 2 for unet3d, got 16x15x16; round each side"),
        ("--patch 24,16,16 --option levels=5", "multiples of 16 for unet3d, got 24x16x16"),
        ("--patch 2,2,2", "expected a network that takes 1 x 2x2x2 voxels, it says: .*; choose a larger --patch"),
        ("--modality T3", "expected modalities T3, subject ball-1 has T1"),
        ("--option widht=3", "no option of model unet3d 'widht'; did you mean 'width'"),
        ("--hold-out 3", "expected more than 3 labelled subjects"),
        ("--dataset iseg", "no dataset 'iseg'"),
    ],
)
def test_a_bad_request_leaves_no_run_behind(train: Callable[..., str], more: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        train(tmp_path / "run", more)
    assert not (tmp_path / "run").exists()


def test_a_damaged_config_is_one_line(run_folder: Path, tmp_path: Path) -> None:
    config = json.loads((run_folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "epochs": "many"}))
    with pytest.raises(SegkitError, match=r"expected the config of a run in .*, found epochs: "):
        Run.open(tmp_path)


def test_a_damaged_checkpoint_is_one_line(run_folder: Path, tmp_path: Path, registry: Registry) -> None:
    run = Run.create(tmp_path, Run.open(run_folder).config)
    run.last.write_bytes(b"junk")
    with pytest.raises(DataError, match="expected a checkpoint of this network in"):
        Trainer(run, registry, *open_subjects(registry, run, lambda _: None), ALONE).fit()


def test_a_patch_beyond_memory_is_one_line_and_leaves_no_run_behind(train: Callable[..., str], tmp_path: Path) -> None:
    with pytest.raises(SegkitError, match=r"expected a step to fit into memory, .*; choose a smaller --patch"):
        train(tmp_path / "run", "--patch 65536,65536,65536")
    assert not (tmp_path / "run").exists()


def test_a_run_where_nothing_can_be_written_is_one_line(train: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"expected to write .*file/run.*, the system says: .*; choose another place"):
        train(tmp_path / "file" / "run")


def test_evaluate_scores_the_subjects_that_were_not_trained_on(segkit: Callable[..., str], run_folder: Path) -> None:
    report = json.loads(segkit("evaluate", run_folder, "--json"))
    assert [row["subject"] for row in report["subjects"]] == ["ball-1"]
    foreground = [report["mean"][name] for name in ("ball",)]
    assert report["foreground_mean"] == pytest.approx(np.mean(foreground), abs=1e-6)
    assert report["thesis_convention"] == pytest.approx(np.mean([report["mean"]["background"], *foreground]), abs=1e-6)
    assert json.loads((run_folder / "scores.json").read_text()) == report
    assert (run_folder / "pictures" / "ball-1.png").read_bytes().startswith(b"\x89PNG")


def test_evaluate_knows_the_subjects_it_was_trained_on_in_a_copy_of_the_data(
    segkit: Callable[..., str], run_folder: Path, data: Path, tmp_path: Path
) -> None:
    shutil.copytree(data, tmp_path / "copy")
    (tmp_path / "copy" / "ball-2").rename(tmp_path / "copy" / "renamed")
    report = json.loads(segkit("evaluate", run_folder, "--data", tmp_path / "copy", "--json"))
    assert [row["subject"] for row in report["subjects"]] == ["ball-1"]


def test_evaluate_prints_a_table_for_people(segkit: Callable[..., str], run_folder: Path) -> None:
    output = segkit("evaluate", run_folder)
    assert "foreground mean" in output
    assert "thesis convention" in output
