"""A cohort on a real Dask scheduler, with workers that are processes of their own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

import segkit_runtime.cohort.cluster
from segkit.errors import MissingExtra, SegkitError, UsageError
from segkit_runtime.cohort.records import Row
from segkit_runtime.cohort.subjects import Cohort, CohortSubject

_DASK = str(Path(sys.executable).with_name("dask"))


@contextmanager
def started_scheduler(folder: Path, wait_until: Callable) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A scheduler that gives up a head when a second worker was lost at it: its address and its process."""
    file = folder / "scheduler.json"
    environment = {**os.environ, "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1"}
    command = [
        _DASK,
        "scheduler",
        "--host",
        "127.0.0.1",
        "--port",
        "0",
        "--no-dashboard",
        "--scheduler-file",
        str(file),
    ]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        wait_until(file.exists, "a scheduler")
        yield json.loads(file.read_text())["address"], process
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory, wait_until: Callable) -> Iterator[str]:
    with started_scheduler(tmp_path_factory.mktemp("dask"), wait_until) as (address, _):
        yield address


@pytest.fixture
def start_worker(scheduler: str, faults, tmp_path: Path) -> Iterator[Callable[..., int]]:
    """Starts a worker without a nanny, which would bring it back to life; returns its process id."""
    processes = []

    def start(address: str = scheduler) -> int:
        command = [_DASK, "worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard"]
        environment = {**os.environ, **faults.environment, "OMP_NUM_THREADS": "1"}
        processes.append(
            subprocess.Popen([*command, "--local-directory", str(tmp_path)], env=environment, stderr=subprocess.DEVNULL)
        )
        return processes[-1].pid

    yield start
    for process in processes:
        process.kill()
        process.wait(30)


def test_a_worker_that_is_killed_loses_nothing_and_nothing_is_done_twice(
    scheduler: str, start_worker, faults, wait_until, run, save_folder, files_in, tmp_path: Path
) -> None:
    names = [f"head{number}" for number in range(8)]
    source, out = save_folder(*names), tmp_path / "out"
    pids = {start_worker(), start_worker()}
    faults.stop_at("head4")
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(run, source, dask=scheduler)
        # The other worker goes on meanwhile, so some heads are done before the kill.
        wait_until(
            lambda: running.done() or ("head4" in dict(faults.begun()) and len(list(out.glob("sub-*"))) >= 3),
            "heads that are done",
        )
        assert not running.done(), running.result()
        before = {path: path.stat() for path in out.rglob("*_dseg.*")}
        killed = dict(faults.begun())["head4"]
        assert killed in pids
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: len([name for name, _ in faults.begun() if name == "head4"]) == 2, "head4 on another worker")
        faults.go_on("head4")
        summary = running.result(60)
    assert [(row.subject, row.status) for row in summary.rows] == [(name, "done") for name in names]
    begun = [name for name, _ in faults.begun()]
    assert sorted(set(begun)) == names
    assert sorted(name for name in begun if begun.count(name) > 1) == ["head4"] * 2
    for path, facts in before.items():
        assert (path.stat().st_ino, path.stat().st_mtime_ns) == (facts.st_ino, facts.st_mtime_ns)
    labels = {name for name in files_in(out) if name.endswith("dseg.nii.gz")}
    assert labels == {f"sub-{name}/anat/sub-{name}_desc-segkit_dseg.nii.gz" for name in names}
    assert not (out / ".drafts").exists()


def test_a_head_that_ends_every_worker_is_named(scheduler: str, start_worker, faults, run, save_folder) -> None:
    start_worker(), start_worker()
    faults.crash_at("bad")
    summary = run(save_folder("bad"), dask=scheduler)
    assert summary.rows[0].status == "failed"
    assert summary.rows[0].subject == "bad"
    assert "every worker that was at it was lost" in summary.rows[0].error
    assert [name for name, _ in faults.begun()] == ["bad", "bad"]


def test_it_gives_the_bytes_that_one_process_gives_and_bad_heads_do_not_stop_it(
    scheduler: str, start_worker, run, save_folder, files_in, tmp_path: Path
) -> None:
    start_worker()
    source = save_folder("a", "b", "c")
    (source / "b" / "T1.nii.gz").write_bytes(b"")
    summary = run(source, dask=scheduler)
    assert [row.status for row in summary.rows] == ["done", "failed", "done"]
    run(source, out=tmp_path / "here")
    there, here = files_in(tmp_path / "out"), files_in(tmp_path / "here")
    labels = [name for name in here if name.endswith(".nii.gz")]
    assert len(labels) == 2
    assert [there[name] for name in labels] == [here[name] for name in labels]


def test_ctrl_c_and_resume(scheduler: str, start_worker, run, save_folder, tmp_path: Path) -> None:
    start_worker()
    source = save_folder("a", "b", "c")

    def stop(row: Row) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(source, dask=scheduler, on_row=stop)
    table = json.loads((tmp_path / "out" / "cohort.json").read_text())
    assert table["counts"]["done"] == 1
    assert table["counts"]["pending"] == 2
    summary = run(source, dask=scheduler, resume=True)
    assert {row.status for row in summary.rows} <= {"done", "kept"}
    assert "kept" in {row.status for row in summary.rows}


def test_workers_that_cannot_do_it_are_refused(
    scheduler: str, start_worker, run, save_folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_worker()
    source = save_folder("a")
    gone = CohortSubject(name="x", images={"T1": tmp_path / "gone.nii.gz"}, labels="sub-x/anat/sub-x_dseg.nii.gz")
    monkeypatch.setattr("segkit_runtime.cohort.find.find_in_folder", lambda *arguments: Cohort((gone,)))
    with pytest.raises(UsageError, match=r"expected the worker tcp://.* to see .*gone\.nii\.gz, it does not"):
        run(source, out=tmp_path / "unseen", dask=scheduler)
    assert not (tmp_path / "unseen").exists()
    monkeypatch.setattr("segkit_runtime.cohort.run.version", lambda: "9.9")
    with pytest.raises(UsageError, match=r"expected segkit 9\.9 on the worker tcp://.*, found"):
        run(source, out=tmp_path / "unseen", dask=scheduler)


def test_a_scheduler_that_is_lost_ends_the_run(
    start_worker, faults, wait_until, run, save_folder, tmp_path: Path
) -> None:
    faults.stop_at("b")
    with started_scheduler(tmp_path, wait_until) as (address, process), ThreadPoolExecutor(1) as threads:
        start_worker(address)
        running = threads.submit(run, save_folder("a", "b"), dask=address)
        wait_until(lambda: running.done() or "b" in dict(faults.begun()), "a worker at b")
        wait_until(lambda: running.done() or (tmp_path / "out" / "sub-a").exists(), "a that is done")
        process.kill()
        with pytest.raises(SegkitError, match=r"expected an answer of the Dask scheduler about .*--resume"):
            running.result(60)
    table = json.loads((tmp_path / "out" / "cohort.json").read_text())
    assert table["subjects"][1]["status"] == "pending"


def test_a_bundle_that_no_worker_can_load_ends_the_run(
    scheduler: str, start_worker, run, save_folder, tmp_path: Path
) -> None:
    start_worker()
    with pytest.raises(SegkitError, match="expected a way to run that is proven") as caught:
        run(save_folder("a", "b"), dask=scheduler, options={"precision": "bf16"})
    assert caught.value.exit_code == 2
    assert not (tmp_path / "out").exists()


def test_no_scheduler_and_no_worker(
    scheduler: str, run, save_folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segkit_runtime.cohort.cluster, "_ANSWER_S", 0.5)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    for address in (f"tcp://127.0.0.1:{port}", "nonsense://x"):
        with pytest.raises(UsageError, match=f"expected a Dask scheduler at {address}, none answers"):
            run(save_folder("a"), dask=address)
    with pytest.raises(UsageError, match=r"expected a worker at the scheduler .*, none came within 0\.5 s"):
        run(save_folder("a"), dask=scheduler)
    assert not (tmp_path / "out").exists()


def test_dask_that_is_not_installed(run, save_folder, without_module: Callable[[str], None], tmp_path: Path) -> None:
    without_module("distributed")
    with pytest.raises(MissingExtra, match=r'--dask needs the module .distributed.*pip install "segkit3d\[cluster\]"'):
        run(save_folder("a"), dask="tcp://127.0.0.1:1")
    assert not (tmp_path / "out").exists()
