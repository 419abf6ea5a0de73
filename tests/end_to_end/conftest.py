"""One small main job, run once through the command line; the tests look at what it left."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from segkit.cli import main


@dataclass(frozen=True)
class Outcome:
    """What a command ended with."""

    code: int
    out: str
    err: str


Segkit = Callable[..., Outcome]


@pytest.fixture
def segkit(capsys: pytest.CaptureFixture[str]) -> Segkit:
    """Run `segkit ...` as the shell would, in this process; paths are given by name."""

    def run(arguments: str, **paths: Path) -> Outcome:
        capsys.readouterr()
        with pytest.raises(SystemExit, match=r"\d+") as stop:
            main([word.format(**paths) for word in shlex.split(arguments)])
        captured = capsys.readouterr()
        return Outcome(int(str(stop.value.code)), captured.out, captured.err)

    return run


@dataclass(frozen=True)
class Job:
    """Folders of a finished main job."""

    data: Path
    run: Path
    bundle: Path


@pytest.fixture(scope="session")
def job(tmp_path_factory: pytest.TempPathFactory, phantom_folder: Path) -> Job:
    """Train a tiny network for a few steps and export it to ONNX and TensorRT."""
    folder = tmp_path_factory.mktemp("job")
    done = Job(phantom_folder, folder / "run", folder / "net.segkit")
    commands = (
        f"train --model unet3d --data {done.data} --out {done.run} --option width=2 --option levels=2 "
        "--option norm=instance --patch 32,32,32 --epochs 1 --patches-per-epoch 8 --learning-rate 0.01",
        f"evaluate {done.run}",
        f"export {done.run} --onnx --trt --out {done.bundle}",
    )
    for command in commands:
        with pytest.raises(SystemExit, match=r"^0$"):
            main(shlex.split(command))
    return done
