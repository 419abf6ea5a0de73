"""`segkit bench kills`: SIGKILL training at random moments, go on, and compare the final weights bit for bit."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np

from segkit.cli.options import json_option
from segkit.cli.output import print_json, progress_bar
from segkit.errors import SegkitError
from segkit.fakes import make_subjects
from segkit.files import write_bytes

TRAINING = (
    "--model unet3d --option width=2 --option levels=2 --option norm=instance --patch 16,16,16 --epochs 3 "
    "--patches-per-epoch 6 --hold-out 1 --loss cross-entropy --deterministic --workers 0 --dataset fake"
)
"""Small enough that hundreds of runs fit into minutes; everything else is as in any training."""


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes:
        kills: trainings that SIGKILL ended.
        runs: runs that were killed and went on until they were done.
        seconds: a run that nobody touched.
        different: tensors that differ from that run's, one line each.
    """

    kills: int
    runs: int
    seconds: float
    different: list[str]


def kill_training(out: Path, kills: int, seed: int, progress: Callable[[int], None] = lambda kills: None) -> Outcome:
    """Train once undisturbed, then kill the same training again and again at random moments until it is done.

    Args:
        out: where the data, segkit's own fakes, and the runs are written.
        kills: how many at least.
        seed: of the moments.
        progress: called with the number of kills so far.

    Raises:
        SegkitError: a training that was not killed failed.
    """
    # A server that holds torch already and forks: a training starts in milliseconds, not seconds.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["segkit.training", "segkit.cli.train", "torch.utils.tensorboard"])
    whole, data = out / "whole", out / "data"
    make_subjects(data, "ball", 3, 1, lambda _: None)
    _train(context, f"--data {data} --out {whole} {TRAINING}")  # the first also starts the server
    shutil.rmtree(whole)
    began = time.monotonic()
    _train(context, f"--data {data} --out {whole} {TRAINING}")
    seconds = time.monotonic() - began
    moments = random.Random(seed)  # noqa: S311 - no secret
    done, runs, different = 0, 0, list[str]()
    while done < kills:
        run = out / f"killed-{runs + 1}"
        runs += 1
        run.mkdir()
        shutil.copy(whole / "config.json", run)
        shutil.copytree(whole / "store", run / "store")
        killed = 0
        # Later and later: on a machine that has become slower, a run would else never come to its end.
        while _train(context, f"--resume --out {run}", moments.uniform(0, seconds * (1 + killed / 10))):
            killed += 1
            progress(done + killed)
        done += killed
        different += _differences(whole, run)
        shutil.rmtree(run)
    return Outcome(done, runs, seconds, different)


def _train(context: multiprocessing.context.ForkServerContext, words: str, kill_after: float | None = None) -> bool:
    """Train in a process of its own, and kill it after some seconds, if it is not done by then; whether it was."""
    child = context.Process(target=_segkit, args=(["train", *words.split()],))
    child.start()
    child.join(kill_after)
    if child.is_alive():
        child.kill()
    child.join()
    if child.exitcode not in (0, -signal.SIGKILL):
        raise SegkitError(f"expected segkit train {words} to end well, it ended with exit code {child.exitcode}")
    return child.exitcode == -signal.SIGKILL


def _segkit(words: list[str]) -> None:
    import torch

    from segkit.cli import cli
    from segkit.fakes import fake_registry
    from segkit.registry import Registry

    registry = Registry([*Registry.from_environment().entries, *fake_registry().entries])
    torch.set_num_threads(1)
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        cli.main(words, obj=registry, standalone_mode=False)


def _differences(whole: Path, run: Path) -> list[str]:
    from safetensors.numpy import load_file

    lines = []
    for name in ("best.safetensors", "last.safetensors"):
        expected, found = load_file(whole / name), load_file(run / name)
        keys = expected.keys() | found.keys()
        lines += [
            f"{run.name}/{name}: {key}"
            for key in sorted(keys)
            if key not in expected or key not in found or not np.array_equal(expected[key], found[key])
        ]
    return lines


@click.command(epilog="Example: segkit bench kills --count 200 --out out/kills")
@click.option("--count", type=click.IntRange(1), default=200, show_default=True, help="How many kills.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the moments.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("out/kills"), show_default=True)
@json_option
@click.pass_context
def kills(ctx: click.Context, count: int, seed: int, out: Path, as_json: bool) -> None:
    """Kill a small training COUNT times at random moments; its final weights must be those of one that ran through."""
    shutil.rmtree(out / "runs", ignore_errors=True)
    with progress_bar() as bar:
        task = bar.add_task("killing", total=count)
        outcome = kill_training(out / "runs", count, seed, lambda done: bar.update(task, completed=done))
    write_bytes(out / "kills.json", json.dumps({"schema": 1, "seed": seed, **asdict(outcome)}, indent=1).encode())
    if as_json:
        print_json(asdict(outcome))
    else:
        click.echo(f"{outcome.kills} kills in {outcome.runs} runs of {outcome.seconds:.1f} s")
        click.echo("\n".join(outcome.different) or "the same bits as the run that nobody touched, every time")
    ctx.exit(1 if outcome.different else 0)
