"""The parts of the demo that are its own; its steps are the commands that the end-to-end tests run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segkit import __version__
from segkit.nifti import read_volume, write_volume
from segkit_benchmarks.commands import wait_for
from segkit_benchmarks.demo import _score_brain, _write_brain
from segkit_benchmarks.demo_result import make_report, render_markdown

SAVES_ON_CTRL_C = """
import signal, sys, time
signal.signal(signal.SIGINT, lambda *_: (time.sleep(1), sys.exit(130)))
print("ready", flush=True)
time.sleep(60)
"""


def test_the_real_brain_has_three_tissues_inside_its_mask_and_scores_one_against_itself(tmp_path: Path) -> None:
    truth = _write_brain(tmp_path / "brain.nii.gz")
    brain = read_volume(tmp_path / "brain.nii.gz")
    assert brain.spacing_mm == (1, 1, 1)
    np.testing.assert_array_equal(truth.data > 0, brain.data > 0)
    shares = np.bincount(truth.data[truth.data > 0])[1:] / (truth.data > 0).sum()
    assert (shares > 0.05).all(), shares
    write_volume(tmp_path / "labels.nii.gz", truth)
    scores = _score_brain(tmp_path, tmp_path / "brain.nii.gz", tmp_path / "labels.nii.gz", truth)
    assert set(scores.values()) == {1.0}
    assert (tmp_path / "mni152_overlay.png").read_bytes().startswith(b"\x89PNG")


MADE = {
    "run/scores.json": {
        "subjects": [{"subject": "sub-1"}, {"subject": "sub-2"}],
        "mean": {"background": 0.99, "CSF": 0.8123, "lesion": None},
        "foreground_mean": 0.8123,
    },
    "unet3d.segkit/manifest.json": {
        "proofs": [
            {
                "runtime": "openvino",
                "version": "1",
                "precision": "fp32",
                "max_abs_logit_difference": 1.5e-5,
                "label_agreement": 0.999998,
                "proven": True,
                "patches": 3,
            }
        ]
    },
    "unet3d.profile.json": {
        "network": {"patch": [64, 48, 32]},
        "runtimes": [
            {"runtime": "torch", "version": "2", "precision": "fp32", "p50_ms": 402.4},
            {"runtime": "openvino", "version": "1", "precision": "fp32", "p50_ms": 133.2},
            {"runtime": "onnxruntime", "failed": "its process ended with code -9"},
            {"runtime": "tensorrt_rtx", "failed": "no GPU"},
        ],
        "engines": [
            {
                "runtime": "tensorrt_rtx",
                "version": "1",
                "precision": "fp32",
                "build_seconds": 0.42,
                "activation_mib": 43.2,
                "weights_mib": 1.13,
                "status": "built, not run",
            }
        ],
    },
}


@pytest.fixture
def report(tmp_path: Path) -> dict[str, Any]:
    """The report of a demo whose steps wrote `MADE`."""
    for name, content in MADE.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
    steps = [{"command": "segkit train", "seconds": 60.0}]
    return make_report(tmp_path, steps, {"background": 1.0, "CSF": 0.59}, minutes=8.04, load=1.26, resumed=False)


def test_the_result_says_where_it_is_from_and_what_each_step_took(report: dict[str, Any]) -> None:
    assert report["schema"] == 1
    assert report["segkit_version"] == __version__
    assert report["machine"].keys() >= {"cpu", "cores", "capabilities", "memory_mib"}
    assert report["versions"]["numpy"] == np.__version__
    assert report["steps"] == [{"command": "segkit train", "seconds": 60.0}]
    assert json.loads(json.dumps(report)) == report


def test_the_lines_of_the_readme_say_what_the_steps_wrote(report: dict[str, Any]) -> None:
    machine = {"cpu": "Made-up", "cores": 2, "capabilities": ["avx2"]}
    assert render_markdown({**report, "machine": machine}).splitlines() == [
        "On 2 cores (Made-up; avx2; load average 1.3 before it) that took 8.0 minutes, and gave:",
        "",
        "| | |",
        "|---|---|",
        "| Dice on 2 held-out phantom heads, % | CSF 81.2, foreground mean 81.2 |",
        "| Dice on the real MNI152 T1 against its own tissue maps, % | CSF 59.0 "
        "(an average of 152 heads: a picture of sense, no validation) |",
        "| OpenVINO against torch, whole head | logits within 1.5e-05, 99.9998 % of the labels the same |",
        "| a patch of 64x48x32, median | OpenVINO 133 ms (fp32), torch 402 ms (fp32), "
        "ONNX Runtime not run: its process ended with code -9 |",
        "| TensorRT for RTX engine | built in 0.4 s, 43 MiB of activations, 1.1 MiB of weights; "
        "not run, no GPU there |",
    ]


def test_a_demo_that_went_on_and_a_proof_that_failed_are_told(report: dict[str, Any]) -> None:
    report["proofs"][0]["proven"] = False
    lines = render_markdown({**report, "resumed": True})
    assert "that took 8.0 minutes, on what an earlier start had left, and gave:" in lines
    assert "of the labels the same; NOT proven |" in lines


def test_ctrl_c_leaves_a_step_the_time_it_needs_to_save() -> None:
    with subprocess.Popen([sys.executable, "-c", SAVES_ON_CTRL_C], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        began = time.monotonic()
        os.kill(child.pid, signal.SIGINT)
        assert wait_for(child) == 130
        assert time.monotonic() - began >= 1
