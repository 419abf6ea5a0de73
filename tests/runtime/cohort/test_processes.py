"""A cohort in several processes of one machine: crashes, Ctrl-C, and what they leave."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from segkit.errors import UsageError
from segkit_runtime.packing import pack_bundle


def is_running(pid: int) -> bool:
    """Whether there is such a process, and it is not merely waiting to be buried."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_two_give_what_one_gives(run: Callable, save_folder: Callable, files_in: Callable, tmp_path: Path) -> None:
    source = save_folder("a", "b", "c")
    (source / "c" / "T1.nii.gz").write_bytes(b"")
    seen: list[tuple[str, int, int]] = []
    summary = run(source, workers=2, watch=lambda *word: seen.append(word))
    assert [row.status for row in summary.rows] == ["done", "done", "failed"]
    assert {(subject, total) for subject, _, total in seen} == {("a", 8), ("b", 8)}
    run(source, out=tmp_path / "one")
    two, one = files_in(tmp_path / "out"), files_in(tmp_path / "one")
    assert set(two) == set(one)
    assert [name for name in one if name.endswith((".gz", ".tsv")) and two[name] != one[name]] == []


def test_a_crash_costs_one_head_which_is_named_and_the_worker_is_replaced(
    run: Callable, save_folder: Callable, faults, tmp_path: Path
) -> None:
    faults.crash_at("b")
    # One worker is at a all the while, so that c and d are left to the one that comes for the other.
    faults.stop_at("a")
    summary = run(
        save_folder("a", "b", "c", "d"),
        workers=2,
        on_row=lambda row: faults.go_on("a") if row.subject == "d" else None,
    )
    assert [(row.subject, row.status) for row in summary.rows] == [
        ("a", "done"),
        ("b", "failed"),
        ("c", "done"),
        ("d", "done"),
    ]
    assert summary.rows[1].error.startswith("the worker process that was at it was ended by SIGKILL")
    workers = {pid for _, pid in faults.begun()}
    assert len(workers) == 3
    assert not any(is_running(pid) for pid in workers)
    assert not (tmp_path / "out" / "sub-b").exists()


def test_a_bundle_that_cannot_be_loaded_ends_the_run(run: Callable, save_folder: Callable, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="expected a way to run that is proven") as caught:
        run(save_folder("a", "b", "c"), workers=2, options={"precision": "bf16"})
    assert caught.value.exit_code == UsageError.exit_code
    assert not (tmp_path / "out").exists()


def test_a_zip_bundle_leaves_nothing_unpacked(
    run: Callable, save_folder: Callable, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = tmp_path / "threshold.zip"
    pack_bundle(bundle, packed)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    assert [row.status for row in run(save_folder("a"), using=packed, workers=2).rows] == ["done"]
    assert list((tmp_path / "tmp").glob("segkit-*")) == []


class TestCommand:
    @pytest.fixture
    def command(self, bundle: Path, save_folder: Callable, tmp_path: Path) -> list[str]:
        source = save_folder("a", "b", "c")
        start = [sys.executable, "-m", "segkit", "segment", str(bundle), "--cohort", str(source)]
        return [*start, "--out", str(tmp_path / "out"), "--workers", "2", "--threads", "1"]

    def test_ctrl_c_keeps_what_is_done_and_resume_does_the_rest(
        self, command: list[str], faults, wait_until: Callable, tmp_path: Path
    ) -> None:
        faults.stop_at("b")
        # A group of its own, so that it gets Ctrl-C as from a terminal: all of its processes at once.
        running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
        out = tmp_path / "out"
        try:
            wait_until(lambda: len(list(out.glob("sub-[ac]/anat/*.nii.gz"))) == 2, "two heads that are done")
            os.killpg(running.pid, signal.SIGINT)
            _, errors = running.communicate(timeout=30)
        finally:
            running.kill()
        assert running.returncode == 130
        assert errors.strip() == "error: interrupted"
        workers = {pid for _, pid in faults.begun()}
        assert not any(is_running(pid) for pid in workers)
        statuses = [row["status"] for row in json.loads((out / "cohort.json").read_text())["subjects"]]
        assert statuses[1] == "pending"
        assert not (out / "sub-b").exists()
        assert not (out / ".drafts").exists()
        faults.go_on("b")
        again = subprocess.run([*command, "--resume", "--json"], capture_output=True, text=True, check=True)
        assert [row["status"] for row in json.loads(again.stdout)["subjects"]] == ["kept", "done", "kept"]

    def test_a_worker_leaves_ctrl_c_to_its_parent_from_its_first_moment(
        self, command: list[str], faults, wait_until: Callable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COHORT_SLOW_START", "1")
        running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            wait_until(lambda: len(list(faults.folder.glob("*.starting"))) == 2, "two workers that start")
            for file in faults.folder.glob("*.starting"):
                os.kill(int(file.stem), signal.SIGINT)
            _, errors = running.communicate(timeout=60)
        finally:
            running.kill()
        assert (running.returncode, "Traceback" in errors) == (0, False)

    def test_workers_do_not_outlive_a_command_that_is_killed(
        self, command: list[str], faults, wait_until: Callable, tmp_path: Path
    ) -> None:
        faults.stop_at("a")
        running = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            wait_until(lambda: "a" in dict(faults.begun()), "a worker at a head")
        finally:
            running.kill()
            running.wait()
        workers = {pid for _, pid in faults.begun()}
        wait_until(lambda: not any(is_running(pid) for pid in workers), "the end of the workers")
        faults.go_on("a")
        again = subprocess.run([*command, "--resume", "--json"], capture_output=True, text=True, check=True)
        assert {row["status"] for row in json.loads(again.stdout)["subjects"]} <= {"done", "kept"}
        assert not (tmp_path / "out" / ".drafts").exists()
