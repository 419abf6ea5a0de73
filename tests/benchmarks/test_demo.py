"""The parts of the demo that are its own; its steps are the commands that the end-to-end tests run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from segkit.nifti import read_volume, write_volume
from segkit_benchmarks.commands import wait_for
from segkit_benchmarks.demo import _score_brain, _write_brain

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


def test_ctrl_c_leaves_a_step_the_time_it_needs_to_save() -> None:
    with subprocess.Popen([sys.executable, "-c", SAVES_ON_CTRL_C], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        began = time.monotonic()
        os.kill(child.pid, signal.SIGINT)
        assert wait_for(child) == 130
        assert time.monotonic() - began >= 1
