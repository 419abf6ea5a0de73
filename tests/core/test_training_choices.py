"""What can be chosen for a training, and what each choice does."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

from segkit.cli import cli
from segkit.dataset import Subject
from segkit.errors import DataError, OutputExists, SegkitError, UsageError
from segkit.fakes import fake_registry, make_subjects
from segkit.registry import Registry, Switches
from segkit.run import Run, lock
from segkit.training.recipes import fit_patch, settings

NETWORK = "--option width=2 --option levels=2 --option norm=instance --patch 16,16,16"
SMALL = f"--model unet3d --dataset fake {NETWORK} --epochs 2 --patches-per-epoch 4 --loss cross-entropy"

Train = Callable[..., Run]


@pytest.fixture(scope="module")
def registry() -> Registry:
    """What segkit brings, and the fakes: their data set is small."""
    return Registry([*Registry.from_environment(Switches(builtin_only=True)).entries, *fake_registry().entries])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("balls")
    make_subjects(folder, "ball", 4, 1, lambda _: None)
    return folder


@pytest.fixture(scope="module")
def segkit(registry: Registry) -> Callable[..., str]:
    def run(*words: str | Path) -> str:
        arguments = [str(word) for word in words]
        return CliRunner().invoke(cli, arguments, obj=registry, catch_exceptions=False, standalone_mode=False).output

    return run


@pytest.fixture
def train(segkit: Callable[..., str], data: Path, tmp_path: Path) -> Train:
    """Train with more options than the small ones, in a folder of that name."""

    def run(name: str, more: str = "") -> Run:
        segkit("train", "--data", data, "--out", tmp_path / name, *SMALL.split(), *more.split())
        return Run.open(tmp_path / name)

    return run


def rows(run: Run) -> list[dict[str, str]]:
    return list(csv.DictReader((run.folder / "metrics.csv").read_text().splitlines()))


def weights(run: Run) -> dict[str, np.ndarray]:
    found = load_file(run.last)
    return {name.removeprefix("network."): value for name, value in found.items() if name.startswith("network.")}


def furthest(first: Run, second: Run) -> float:
    ours, theirs = weights(first), weights(second)
    assert ours.keys() == theirs.keys()
    return max(float(np.abs(ours[name] - theirs[name]).max()) for name in ours)


class TestRecipe:
    def test_the_thesis_trains_its_large_networks_on_500_patches_at_batch_size_one(self) -> None:
        taken = settings("thesis", (128, 128, 64), {})
        assert (taken["optimizer"], taken["learning_rate"], taken["weight_decay"]) == ("sgd", 1e-3, 1e-8)
        assert (taken["patches_per_epoch"], taken["validation_patches"], taken["batch_size"]) == (500, 10, 1)
        assert (taken["hold_out"], taken["schedule"], taken["sampler"]) == (1, "constant", "nonempty")
        assert 120 <= taken["epochs"] <= 400

    def test_the_thesis_trains_its_densenets_on_2000_patches(self) -> None:
        taken = settings("thesis", (28, 28, 28), {})
        assert (taken["patches_per_epoch"], taken["validation_patches"]) == (2000, 50)

    def test_what_is_chosen_goes_before_the_recipe(self) -> None:
        taken = settings("thesis", (28, 28, 28), {"epochs": 3, "optimizer": "adamw", "loss": None})
        assert (taken["epochs"], taken["optimizer"], taken["loss"]) == (3, "adamw", "dice")

    @pytest.mark.parametrize(
        ("shape", "fitted"),
        [
            ((144, 192, 256), (128, 128, 64)),
            ((240, 240, 48), (128, 128, 32)),
            ((20, 240, 48), (16, 128, 32)),
            ((20, 20, 8), (16, 16, 16)),  # no side below the network's multiple: the patch is padded
        ],
    )
    def test_the_patch_is_halved_until_it_fits_as_for_mrbrains(
        self, shape: tuple[int, int, int], fitted: tuple[int, int, int]
    ) -> None:
        assert fit_patch((128, 128, 64), 16, shape) == fitted

    def test_it_sets_the_run(self, train: Train) -> None:
        config = train("run", "--recipe thesis").config
        assert (config.recipe, config.optimizer, config.momentum, config.fixed_patches) == ("thesis", "sgd", 0.5, True)
        assert config.held_out_subjects == ("ball-1",)
        assert (config.epochs, config.loss) == (2, "cross-entropy")  # given


class TestBackground:
    def test_a_network_gets_the_mask_as_one_more_channel(self, train: Train, segkit: Callable[..., str]) -> None:
        run = train("run")
        assert (run.config.modalities, run.config.preprocessing.background) == (("T1",), "mask")
        assert run.config.channels == 2
        assert load_file(run.best)["encoder.0.0.0.weight"].shape[1] == 2
        report = json.loads(segkit("evaluate", run.folder, "--json"))
        assert [one["subject"] for one in report["subjects"]] == ["ball-1"]
        assert 0 < report["foreground_mean"] < 1

    @pytest.mark.parametrize(
        ("more", "background", "channels"),
        [
            ("--recipe thesis", "below", 1),
            ("--recipe thesis --background mask", "mask", 2),
            ("--background zero", "zero", 1),
        ],
    )
    def test_the_recipe_says_where_it_goes_unless_it_is_chosen(
        self, more: str, background: str, channels: int, train: Train
    ) -> None:
        config = train("run", more).config
        assert (config.preprocessing.background, config.channels) == (background, channels)

    def test_a_network_of_fixed_channels_gets_no_mask(
        self, segkit: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data = tmp_path / "data"
        make_subjects(data, "ball", 2, 1, lambda _: None)
        for image in data.glob("*/T1.nii.gz"):
            shutil.copy(image, image.with_name("T2.nii.gz"))
        two = [
            Subject(
                id=folder.name,
                images={name: folder / f"{name}.nii.gz" for name in ("T1", "T2")},
                label=folder / "label.nii.gz",
            )
            for folder in sorted(data.iterdir())
        ]
        monkeypatch.setattr("segkit.fakes.find_subjects", lambda root: two)
        model = "densenet3d-2stream-early"
        words = f"train --model {model} --dataset fake --data {data} --patch 16,16,16 --epochs 1 --patches-per-epoch 1"
        segkit(*words.split(), "--out", tmp_path / "run")
        config = Run.open(tmp_path / "run").config
        assert (config.modalities, config.preprocessing.background, config.channels) == (("T1", "T2"), "zero", 2)
        said = rf"expected 2 channels for model '{model}', got 3; .* the mask of --background mask is a channel too"
        with pytest.raises(UsageError, match=said):
            segkit(*words.split(), "--out", tmp_path / "other", "--background", "mask")
        assert not (tmp_path / "other").exists()


class TestSteps:
    def test_two_passes_before_a_step_are_one_of_twice_the_batch(self, train: Train) -> None:
        whole = train("whole", "--batch-size 2 --optimizer sgd")
        parts = train("parts", "--batch-size 1 --accumulation 2 --optimizer sgd")
        assert rows(whole)[-1]["step"] == rows(parts)[-1]["step"] == "4"
        assert furthest(whole, parts) < 1e-5
        assert float(rows(whole)[-1]["loss"]) == pytest.approx(float(rows(parts)[-1]["loss"]), rel=1e-4)

    def test_drawing_ahead_in_threads_changes_no_bit(self, train: Train) -> None:
        assert furthest(train("one", "--workers 0 --augment all"), train("three", "--workers 3 --augment all")) == 0

    def test_deterministic_runs_are_the_same_bits(self, train: Train) -> None:
        assert furthest(train("one", "--deterministic"), train("two", "--deterministic")) == 0

    def test_fixed_patches_come_again_in_every_epoch(self, train: Train) -> None:
        losses = [row["loss"] for row in rows(train("run", "--recipe thesis --learning-rate 1e-12"))]
        assert float(losses[0]) == pytest.approx(float(losses[1]), rel=1e-5)
        losses = [row["loss"] for row in rows(train("new", "--optimizer sgd --learning-rate 1e-12"))]
        assert float(losses[0]) != pytest.approx(float(losses[1]), rel=1e-3)

    @pytest.mark.parametrize(
        ("schedule", "last"),
        [
            ("constant", 0.01),
            ("cosine", 0.01 * 0.5 * (1 + np.cos(np.pi * 7 / 8))),
            ("polynomial", 0.01 * (1 / 8) ** 0.9),
        ],
    )
    def test_the_learning_rate_follows_its_schedule(self, schedule: str, last: float, train: Train) -> None:
        run = train("run", f"--schedule {schedule} --learning-rate 0.01")
        assert float(rows(run)[-1]["learning_rate"]) == pytest.approx(last)

    def test_it_stops_early_when_dice_no_longer_gets_better(self, train: Train, segkit: Callable[..., str]) -> None:
        run = train("run", "--epochs 9 --patience 2 --learning-rate 1e-12 --optimizer sgd")
        assert len(rows(run)) == 3
        segkit("train", "--resume", "--out", run.folder)
        assert len(rows(run)) == 3

    def test_reduced_precision_stays_near_full_precision(self, train: Train) -> None:
        full, reduced = train("full"), train("reduced", "--precision bf16")
        assert furthest(full, reduced) > 0
        assert float(rows(reduced)[-1]["loss"]) == pytest.approx(float(rows(full)[-1]["loss"]), rel=0.02)
        assert all(value.dtype == np.float32 for value in weights(reduced).values())

    def test_half_precision_needs_a_gpu(self, train: Train, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"expected a CUDA device for --precision fp16.*bf16"):
            train("run", "--precision fp16 --device cpu")
        assert not (tmp_path / "run").exists()

    def test_an_unknown_augmentation_is_one_line(self, train: Train, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="no augmentation 'flop'; did you mean 'flip'"):
            train("run", "--augment flop")
        assert not (tmp_path / "run").exists()

    def test_augmented_patches_train_another_network(self, train: Train) -> None:
        plain, changed = train("plain"), train("changed", "--augment flip --augment noise")
        assert changed.config.augmentation == ("flip", "noise")
        assert furthest(plain, changed) > 0


class TestLosses:
    def test_inverse_frequency_weights_come_from_the_training_subjects(self, train: Train) -> None:
        plain, weighted = train("plain"), train("weighted", "--loss-option weights=inverse")
        assert weighted.config.loss_options["weights"] == "inverse"
        assert furthest(plain, weighted) > 0

    def test_border_weights_are_stored_once_and_trained_with(self, train: Train, segkit: Callable[..., str]) -> None:
        run = train("run", "--loss border-ce")
        stored = {path: path.stat().st_mtime_ns for path in (run.folder / "store").rglob("weights-*.npy")}
        assert len(stored) == 4
        segkit("train", "--resume", "--out", run.folder)
        assert {path: path.stat().st_mtime_ns for path in stored} == stored

    def test_an_unknown_option_of_a_loss_is_one_line(self, train: Train, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="no option of loss cross-entropy 'weihgts'; did you mean 'weights'"):
            train("run", "--loss-option weihgts=inverse")
        assert not (tmp_path / "run").exists()


class TestFineTuning:
    def test_weights_are_taken_over_where_name_and_shape_agree(self, train: Train) -> None:
        first = train("first")
        second = train("second", f"--init {first.folder} --learning-rate 1e-12 --optimizer sgd")
        taken = second.config.initial
        assert taken is not None
        assert taken.matched == len(load_file(first.best))
        assert taken.left == ()
        best = load_file(first.best)
        assert all(np.allclose(value, best[name], atol=1e-6) for name, value in weights(second).items())

    def test_what_does_not_fit_is_named(self, train: Train, tmp_path: Path) -> None:
        stored = load_file(train("first").best)
        stored["head.weight"] = np.zeros((7, 4, 1, 1, 1), np.float32)  # of seven classes
        save_file(stored, tmp_path / "other.safetensors")
        taken = train("second", f"--init {tmp_path / 'other.safetensors'}").config.initial
        assert taken is not None
        assert taken.left == ("head.weight",)

    def test_a_killed_start_still_begins_from_the_taken_weights(
        self, train: Train, segkit: Callable[..., str], tmp_path: Path
    ) -> None:
        first = train("first")
        second = train("second", f"--init {first.folder}")
        again = Run.create(tmp_path / "again", second.config)
        again.initial.write_bytes(second.initial.read_bytes())
        segkit("train", "--resume", "--out", again.folder)
        assert furthest(second, again) == 0

    def test_frozen_weights_stay(self, train: Train) -> None:
        first = train("first")
        second = train("second", f"--init {first.folder} --freeze encoder.* --learning-rate 0.05")
        best, now = load_file(first.best), weights(second)
        for name, value in now.items():
            assert np.array_equal(value, best[name]) == name.startswith("encoder."), name

    @pytest.mark.parametrize(
        ("more", "message"),
        [
            ("--freeze decodr.*", r"expected a parameter that matches 'decodr\.\*', found none; names are such as"),
            ("--freeze *", "expected parameters to train, all are frozen"),
        ],
    )
    def test_a_pattern_that_does_nothing_is_refused(
        self, more: str, message: str, train: Train, tmp_path: Path
    ) -> None:
        with pytest.raises(UsageError, match=message):
            train("run", more)
        assert not (tmp_path / "run").exists()

    def test_a_file_of_another_network_is_refused(self, train: Train, tmp_path: Path) -> None:
        save_file({"x": np.zeros(3, np.float32)}, tmp_path / "x.safetensors")
        with pytest.raises(
            DataError, match=r"found none of its names and shapes among 1; take weights of the same model"
        ):
            train("run", f"--init {tmp_path / 'x.safetensors'}")


class TestFolds:
    def test_each_subject_is_held_out_once(self, segkit: Callable[..., str], data: Path, tmp_path: Path) -> None:
        out = tmp_path / "folds"
        segkit("train", "--data", data, "--out", out, *SMALL.split(), "--epochs", "1", "--folds", "2")
        folds = [Run.open(out / f"fold-{number}").config for number in (1, 2)]
        assert [fold.held_out_subjects for fold in folds] == [("ball-1", "ball-2"), ("ball-3", "ball-4")]
        assert all(set(fold.train_subjects).isdisjoint(fold.held_out_subjects) for fold in folds)
        assert len(list((out / "store").iterdir())) == 4
        report = json.loads(segkit("evaluate", out, "--json"))
        assert [row["subject"] for row in report["subjects"]] == ["ball-1", "ball-2", "ball-3", "ball-4"]
        assert json.loads((out / "scores.json").read_text()) == report

    def test_resume_goes_on_with_every_fold(self, segkit: Callable[..., str], data: Path, tmp_path: Path) -> None:
        out = tmp_path / "folds"
        segkit("train", "--data", data, "--out", out, *SMALL.split(), "--epochs", "1", "--folds", "2")
        before = (out / "fold-2" / "last.safetensors").read_bytes()
        (out / "fold-2" / "last.safetensors").unlink()
        segkit("train", "--resume", "--out", out)
        ours, theirs = load_file(out / "fold-2" / "last.safetensors"), before
        (out / "before.safetensors").write_bytes(theirs)
        expected = load_file(out / "before.safetensors")
        assert all(np.array_equal(ours[name], expected[name]) for name in expected)

    def test_more_folds_than_subjects_are_refused(self, train: Train, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="expected 2 to 4 folds of 4 labelled subjects, got 5"):
            train("run", "--folds 5")
        assert not (tmp_path / "run").exists()


class TestOneAtATime:
    def test_a_second_training_in_the_same_folder_is_refused(self, train: Train, segkit: Callable[..., str]) -> None:
        run = train("run")
        with lock(run.folder), pytest.raises(UsageError, match="to itself, another process trains in it; wait for it"):
            segkit("train", "--resume", "--out", run.folder)

    def test_a_process_that_is_killed_lets_go(self, tmp_path: Path) -> None:
        code = """
import sys, time
from pathlib import Path
from segkit.run import lock
with lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
        with subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == b"held\n"
            with pytest.raises(UsageError, match="another process trains in it"), lock(tmp_path):
                pass
            os.kill(other.pid, signal.SIGKILL)
            other.wait()
        with lock(tmp_path):
            pass

    def test_a_store_that_was_there_outlives_a_refused_training(
        self, train: Train, segkit: Callable[..., str], data: Path, tmp_path: Path
    ) -> None:
        store = tmp_path / "run" / "store"
        segkit("data", "prepare", data, "--dataset", "fake", "--store", store)
        with pytest.raises(SegkitError, match="expected a step to fit into memory"):
            train("run", "--patch 65536,65536,65536")
        assert {path.name for path in (tmp_path / "run").iterdir()} == {"store", ".lock"}
        assert len(list(store.iterdir())) == 4

    def test_a_folder_with_files_is_no_new_run(self, train: Train) -> None:
        train("run")
        with pytest.raises(OutputExists, match="expected a new run folder, found files in"):
            train("run")
