"""Several processes that `accelerate launch` starts train one network: one checkpoint, one log, the same losses."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from segkit.run import Run

TRAINING = (
    "--model unet3d --option width=2 --option levels=2 --option norm=instance --patch 16,16,16 --epochs 2 "
    "--patches-per-epoch 8 --optimizer sgd --learning-rate 0.01 --loss dice-ce --device cpu"
)
# --multi_gpu is accelerate's word for "start several processes here"; with --cpu it would start one.
LAUNCH = [
    *("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"),
    *("--mixed_precision", "no", "--dynamo_backend", "no"),
]


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False, timeout=300)


def _train(out: Path, data: Path, *more: str) -> list[str]:
    return ["-m", "segkit", "train", "--data", str(data), "--out", str(out), *TRAINING.split(), *more]


def _rows(run: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))


@pytest.fixture(scope="module")
def together(phantom_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("together") / "run"
    done = _run(*LAUNCH, *_train(out, phantom_folder, "--batch-size", "1"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("best held-out Dice") == 1
    return out


def test_two_processes_are_one_with_twice_the_batch(together: Path, phantom_folder: Path, tmp_path: Path) -> None:
    done = _run(*_train(tmp_path / "alone", phantom_folder, "--batch-size", "2"))
    assert done.returncode == 0, done.stderr
    for ours, theirs in zip(_rows(together), _rows(tmp_path / "alone"), strict=True):
        assert ours["step"] == theirs["step"]
        assert float(ours["loss"]) == pytest.approx(float(theirs["loss"]), rel=1e-4)
        assert float(ours["validation_loss"]) == pytest.approx(float(theirs["validation_loss"]), rel=1e-4)
        assert float(ours["mean_dice"]) == pytest.approx(float(theirs["mean_dice"]), abs=1e-3)
    weights = [load_file(run / "best.safetensors") for run in (together, tmp_path / "alone")]
    for name, value in weights[0].items():
        np.testing.assert_allclose(value, weights[1][name], atol=1e-5, err_msg=name)


def test_they_write_one_checkpoint_and_one_log(together: Path) -> None:
    assert Run.open(together).config.processes == 2
    assert len(list((together / "tensorboard").iterdir())) == 1
    assert sorted(path.name for path in together.glob("*.safetensors")) == ["best.safetensors", "last.safetensors"]


def test_another_number_of_processes_does_not_go_on_with_their_run(together: Path) -> None:
    done = _run("-m", "segkit", "train", "--resume", "--out", str(together))
    assert done.returncode == 2
    assert "expected the 2 processes that" in done.stderr
