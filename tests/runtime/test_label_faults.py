"""What may happen while labels are written: a full disk, a kill, Ctrl-C. The old file stays whole, or there is none."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from segkit.cli import main
from segkit.nifti import read_volume

Head = dict[str, Path]

KILLED = """
import os
import signal
import sys
import time
from dataclasses import replace
import numpy as np
from segkit.nifti import read_volume
from segkit_runtime import load

bundle, t1, t2, out = sys.argv[1:]
with load(bundle, "onnxruntime") as segmenter:
    result = segmenter.segment({"T1": t1, "T2": t2})
noise = np.random.default_rng(0).integers(0, 250, result.labels.shape).astype(np.uint8)
answers = [replace(result, labels=result.labels.with_data(noise + number)) for number in range(2)]


def kill_after(delay_s):
    writer = os.fork()
    if writer == 0:
        try:
            for number in range(100_000):
                answers[number % 2].save(out, overwrite=True)
        finally:
            os._exit(1)
    time.sleep(delay_s)
    os.kill(writer, signal.SIGKILL)
    os.waitpid(writer, 0)
    if not os.path.exists(out):
        return "none"
    found = read_volume(out).data
    return "whole" if any(np.array_equal(found, answer.labels.data) for answer in answers) else "mixed"


for step in range(25):
    print(kill_after(0.0005 + 0.003 * step), flush=True)
"""


@pytest.fixture
def arguments(bundle: Path, head: Head, tmp_path: Path) -> list[str]:
    """Of `segkit segment`, all but --overwrite."""
    pairs = [text for name, file in head.items() for text in ("--modality", f"{name}={file}")]
    return ["segment", str(bundle), *pairs, "--runtime", "onnxruntime", "--out", str(tmp_path / "out" / "seg.nii.gz")]


@pytest.fixture(params=["old", "none"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The folder of the output; an older segmentation is there, or nothing."""
    folder = tmp_path / "out"
    if request.param == "old":
        folder.mkdir()
        (folder / "seg.nii.gz").write_bytes(b"labels of yesterday")
        (folder / "seg.json").write_bytes(b"report of yesterday")
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.is_dir() else {}


def labels(found: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in found.items() if name != "seg.json"}


def test_a_kill_at_any_time_leaves_whole_labels_or_none(bundle: Path, head: Head, tmp_path: Path) -> None:
    out = tmp_path / "out" / "seg.nii.gz"
    command = [sys.executable, "-c", KILLED, bundle, head["T1"], head["T2"], out]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=100, check=False)
    assert done.stderr == ""
    said = done.stdout.split()
    assert len(said) == 25
    assert set(said) <= {"whole", "none"}
    assert "whole" in said
    json.loads(out.with_name("seg.json").read_bytes())


def test_a_disk_that_is_full_is_said_in_one_line_and_leaves_what_was_there(arguments: list[str], out: Path) -> None:
    """A limit on the size of files stands in for it: the system refuses in the middle of a write."""
    before = content(out)
    done = subprocess.run(
        [sys.executable, "-m", "segkit", *arguments, "--overwrite"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64)),
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: expected to write ")
    assert "seg.nii.gz, the system says: File too large; free space" in line
    assert content(out) == before


@pytest.mark.parametrize("step", [1, 2, 3])
def test_ctrl_c_at_any_step_of_the_write_leaves_the_old_labels_or_none(
    arguments: list[str], out: Path, step: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    before, real, calls = content(out), Path.replace, 0

    def interrupt(self: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls == step:
            raise KeyboardInterrupt
        return real(self, target)

    monkeypatch.setattr(Path, "replace", interrupt)
    with pytest.raises(SystemExit, match=r"^130$"):
        main([*arguments, "--overwrite"])
    assert calls == step
    assert "Traceback" not in capsys.readouterr().err
    assert labels(content(out)) == labels(before)


def test_undisturbed_it_writes_labels_and_report(arguments: list[str], out: Path) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        main([*arguments, "--overwrite"])
    assert set(content(out)) == {"seg.nii.gz", "seg.json"}
    assert read_volume(out / "seg.nii.gz").data.any()
