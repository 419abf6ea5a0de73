"""The main job from end to end, as `make demo` runs it: every step is a command that anyone can type.

Stopped and started again, it goes on where it was; `make clean` or another `--out` starts anew.
"""

from __future__ import annotations

import importlib.util
import json
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np

from segkit.extras import require
from segkit.files import write_bytes
from segkit.metrics import confusion_matrix, dice, mean_dice
from segkit.nifti import read_volume, write_volume
from segkit.pictures import save_overlay
from segkit.volume import Volume, require_same_grid
from segkit_benchmarks.commands import run_segkit
from segkit_benchmarks.demo_result import RESULT, make_report, render_markdown
from segkit_benchmarks.machine import load_average

LABELS = ("background", "CSF", "GM", "WM")
TRAIN_SUBJECTS, TEST_SUBJECTS = 6, 2
TRAIN_SEED, TEST_SEED = 1, 1001
TRAINING = (
    "--modality T1 --option width=4 --option norm=instance --patch 64,64,64 --epochs 3 --patches-per-epoch 270 "
    "--batch-size 2 --hold-out 1 --learning-rate 0.01 --overlap 0.25"
)
"""A small network for a few minutes on two CPU cores."""


@click.command()
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("out/demo"), show_default=True)
def demo(out: Path) -> None:
    """Make phantoms, train, evaluate, export, profile, and segment the real MNI152 T1 brain."""
    began, load = time.monotonic(), load_average()
    steps: list[dict[str, Any]] = []

    def segkit(arguments: str, **paths: Path) -> None:
        words = [word.format(**paths) for word in shlex.split(arguments)]
        start = time.monotonic()
        code = run_segkit(words)
        if code:
            sys.exit(code)
        steps.append({"command": f"segkit {shlex.join(words)}", "seconds": round(time.monotonic() - start, 1)})

    train, test, run = out / "data" / "train", out / "data" / "test", out / "run"
    bundle, brain = out / "unet3d.segkit", out / "mni152_t1.nii.gz"
    make = "data make phantom {data} --preset adult"
    segkit(f"{make} --subjects {TRAIN_SUBJECTS} --seed {TRAIN_SEED}", data=train)
    segkit(f"{make} --subjects {TEST_SUBJECTS} --seed {TEST_SEED}", data=test)
    resumed = (run / "config.json").is_file()
    if resumed:
        segkit("train --resume --out {run}", run=run)
    else:
        segkit(f"train --model unet3d --dataset phantom --data {{data}} --out {{run}} {TRAINING}", data=train, run=run)
    segkit("evaluate {run} --data {data}", run=run, data=test)
    segkit("export {run} --onnx --trt --verify {data} --out {bundle} --overwrite", run=run, data=test, bundle=bundle)
    segkit("profile {bundle}", bundle=bundle)
    truth = _write_brain(brain)
    result = out / "mni152_seg.nii.gz"
    segkit(
        "segment {bundle} --modality T1={brain} --out {result} --overwrite", bundle=bundle, brain=brain, result=result
    )
    scores = _score_brain(out, brain, result, truth)
    segkit("report {out} --html", out=out)
    minutes = (time.monotonic() - began) / 60
    report = make_report(out, steps, scores, minutes=minutes, load=load, resumed=resumed)
    write_bytes(out / RESULT, (json.dumps(report, indent=1) + "\n").encode())
    _summarise(out, report)


def _nilearn_map(name: str) -> Volume:
    """One of the MNI152 2009 maps in the nilearn wheel; found, not imported: only its data are wanted."""
    require("nilearn", "train", "the demo")
    package = importlib.util.find_spec("nilearn")
    assert package is not None  # noqa: S101 - required above
    assert package.origin is not None  # noqa: S101 - required above
    file = f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz"
    return read_volume(Path(package.origin).parent / "datasets" / "data" / file)


def _write_brain(path: Path) -> Volume:
    """Write the MNI152 T1 brain as a user's file, and return its labels: the largest of its own tissue maps."""
    brain = _nilearn_map("t1")
    write_volume(path, brain)
    grey, white = (_nilearn_map(name).data.astype(np.float32) / 255 for name in ("gm", "wm"))
    fluid = np.clip(1 - grey - white, 0, 1)
    tissue = np.stack([fluid, grey, white]).argmax(0).astype(np.uint8) + 1
    return brain.with_data(np.where(brain.data > 0, tissue, 0).astype(np.uint8))


def _score_brain(out: Path, brain: Path, result: Path, truth: Volume) -> dict[str, float]:
    image, labels = read_volume(brain), read_volume(result)
    require_same_grid(image, labels, "the brain", "its segmentation")
    scores = dice(confusion_matrix(truth.data, labels.data, len(LABELS)))
    save_overlay(
        out / "mni152_overlay.png",
        image.canonical().data,
        labels.canonical().data,
        truth.canonical().data,
        LABELS,
        "MNI152 T1 (real, an average of 152 heads) through the exported bundle",
        spacing_mm=image.canonical().spacing_mm,
    )
    named = {name: float(score) for name, score in zip(LABELS, scores, strict=True)}
    return {**named, "foreground_mean": mean_dice(scores, background=False)}


def _summarise(out: Path, report: Mapping[str, Any]) -> None:
    lines = [
        "# What the demo made",
        "",
        render_markdown(report),
        "",
        "files",
        f"  {out}/run/best.safetensors      checkpoint",
        f"  {out}/run/curve.png             learning curve",
        f"  {out}/run/scores.json           scores; pictures in run/pictures/",
        f"  {out}/unet3d.segkit/            bundle: manifest, ONNX, TensorRT engine",
        f"  {out}/unet3d.profile.json       latency and memory",
        f"  {out}/report.html               all of it as a page, with a viewer",
        f"  {out}/mni152_seg.nii.gz         segmentation of the real brain",
        f"  {out}/mni152_overlay.png        the same as a picture",
        f"  {out}/{RESULT}                 the figures above, with the machine and the versions",
        "",
        "next",
        f"  segkit segment {out}/unet3d.segkit --modality T1=YOUR_STRIPPED_T1.nii.gz --out seg.nii.gz",
        "  segkit models show vnet",
        "  segkit export vnet --trt",
    ]
    write_bytes(out / "summary.md", ("\n".join(lines) + "\n").encode())
    click.echo("\n" + "\n".join(lines))


if __name__ == "__main__":
    demo()
