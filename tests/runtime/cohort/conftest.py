"""Small cohorts, and faults for the workers that segment them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from segkit_runtime.bundle import Bundle
from segkit_runtime.cohort.find import find_cohort
from segkit_runtime.cohort.run import run_cohort
from segkit_runtime.cohort.summary import Summary

SaveHead = Callable[..., dict[str, Path]]
RunCohort = Callable[..., Summary]

_FAULTS = '''
"""Imported by every Python process at its start: lets a test stop or end a worker at a certain head."""
import os, pathlib, signal, sys, time

if "--multiprocessing-fork" in sys.orig_argv and os.environ.get("COHORT_SLOW_START"):
    pathlib.Path(os.environ["COHORT_FAULTS"], f"{os.getpid()}.starting").touch()
    time.sleep(1)

from segkit_runtime.segmenter import Segmenter

folder = pathlib.Path(os.environ["COHORT_FAULTS"])
segment = Segmenter.segment

def with_faults(self, images, progress=None):
    name = pathlib.Path(next(iter(images.values()))).parent.name
    with (folder / "log").open("a") as log:
        log.write(f"{name} {os.getpid()}\\n")
    if (folder / f"{name}.crash").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    while (folder / f"{name}.stop").exists():
        time.sleep(0.02)
    return segment(self, images, progress)

Segmenter.segment = with_faults
'''


@dataclass(frozen=True)
class Faults:
    """What happens to workers that other processes start, and what they did."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """Variables for those processes."""
        return {"COHORT_FAULTS": str(self.folder), "PYTHONPATH": str(self.folder)}

    def crash_at(self, subject: str) -> None:
        """A worker that begins this head is ended by SIGKILL."""
        (self.folder / f"{subject}.crash").touch()

    def stop_at(self, subject: str) -> None:
        """A worker that begins this head waits for `go_on`."""
        (self.folder / f"{subject}.stop").touch()

    def go_on(self, subject: str) -> None:
        (self.folder / f"{subject}.stop").unlink()

    def begun(self) -> list[tuple[str, int]]:
        """Each head that was begun, and the process that did so."""
        log = self.folder / "log"
        lines = log.read_text().splitlines() if log.exists() else []
        return [(line.split()[0], int(line.split()[1])) for line in lines]


@pytest.fixture
def faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Faults:
    made = Faults(tmp_path / "faults")
    made.folder.mkdir()
    (made.folder / "sitecustomize.py").write_text(_FAULTS)
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    return made


@pytest.fixture
def save_folder(
    tmp_path: Path, save_head: SaveHead, head_arrays: dict[str, np.ndarray], affine: np.ndarray
) -> Callable[..., Path]:
    """Writes SUBJECT/MODALITY.nii.gz for each name; no two heads are the same."""

    def save(*names: str) -> Path:
        root = tmp_path / "heads"
        for number, name in enumerate(names):
            arrays = {modality: np.roll(array, number, axis=1) for modality, array in head_arrays.items()}
            save_head(root / name, arrays, affine)
        return root

    return save


@pytest.fixture
def save_bids(tmp_path: Path, head_arrays: dict[str, np.ndarray], affine: np.ndarray) -> Callable[..., Path]:
    """Writes a BIDS data set of the images that are named, for example "sub-01/anat/sub-01_T1w"."""

    def save(*stems: str) -> Path:
        root = tmp_path / "raw"
        root.mkdir()
        (root / "dataset_description.json").write_text(json.dumps({"Name": "raw", "BIDSVersion": "1.10.0"}))
        for stem in stems:
            (root / stem).parent.mkdir(parents=True, exist_ok=True)
            image = nib.Nifti1Image(head_arrays["T2" if stem.endswith("T2w") else "T1"], affine)
            image.header.set_xyzt_units("mm", "sec")
            image.to_filename(root / f"{stem}.nii.gz")
        return root

    return save


@pytest.fixture
def run(bundle: Path, tmp_path: Path) -> RunCohort:
    """Runs a cohort into `out`, on one thread."""

    def call(source: Path, *, using: Path = bundle, out: Path = tmp_path / "out", **changes: Any) -> Summary:
        opened = Bundle.open(using)
        found = find_cohort(source, opened.manifest.modalities)
        return run_cohort(opened, found, out, **{"options": {"threads": 1}, **changes})

    return call


def files_in(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, the lock aside."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


@pytest.fixture(scope="session", name="files_in")
def files_in_fixture() -> Callable[[Path], dict[str, bytes]]:
    return files_in


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., None]:
    """Waits for what another process does."""

    def wait(holds: Callable[[], bool], what: str, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, f"expected {what} within {seconds} s"
            time.sleep(0.02)

    return wait
