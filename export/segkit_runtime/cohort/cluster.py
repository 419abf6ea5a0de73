"""A cohort on the workers of a Dask cluster, each of which loads the bundle once.

A head is a task. Its files are put in their place in one step, the labels last; a task that runs again, because its
worker was lost, keeps what is in place. So nothing is lost, and nothing that is done is done again.
"""

from __future__ import annotations

import logging
import socket
import threading
import uuid
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segkit.errors import SegkitError, UsageError
from segkit.extras import require
from segkit_runtime.cohort.local import plain, threads_for
from segkit_runtime.cohort.output import DRAFTS
from segkit_runtime.cohort.records import Row, Settings, version
from segkit_runtime.cohort.subjects import CohortSubject
from segkit_runtime.cohort.worker import Worker

if TYPE_CHECKING:
    from distributed import Client

_ANSWER_S = 20.0
_INSTALL = "install the same segkit3d, and the bundle's runtime, where the workers run"

_one_at_a_time = threading.Lock()
_loaded: dict[str, Worker] = {}
"""The run that this worker process is at, and what it loaded for it."""


def run_on_dask(settings: Settings, subjects: Sequence[CohortSubject], address: str) -> Generator[Row]:
    """Segment the heads on a Dask cluster.

    Args:
        settings: of the run; if it names no number of threads, workers on one machine share out its processors.
        subjects: the heads.
        address: of the scheduler, for example tcp://10.0.0.1:8786.

    Raises:
        MissingExtra: dask.distributed is not installed.
        UsageError: no scheduler or no worker answers, or a worker has another segkit or does not see the files.
        SegkitError: a worker cannot load the bundle, or the scheduler was lost.
    """
    require("distributed", "cluster", "--dask")
    from distributed import as_completed

    with _quiet(), _connected(address) as client:
        sharing = _require_workers(client, address, settings, subjects)
        futures = {
            client.submit(segment_on_worker, settings, subject, sharing, key=f"segkit-{settings.run}-{subject.name}"): (
                subject
            )
            for subject in subjects
        }
        try:
            for future in as_completed(futures, loop=client.loop):
                yield _row(future, futures.pop(future))
            client.run(_free, settings.run, on_error="ignore")
        finally:
            client.cancel(list(futures))


def segment_on_worker(settings: Settings, subject: CohortSubject, sharing: int) -> Row:
    """The task: what a Dask worker does for a head.

    Args:
        settings: of the run.
        subject: the head.
        sharing: the most workers on one machine.

    Raises:
        SegkitError: this worker cannot load the bundle, or has another segkit.
    """
    with _one_at_a_time:
        if settings.run not in _loaded:
            if settings.version != version():
                # A worker that came after the run began.
                raise SegkitError(_other_version(socket.gethostname(), settings.version, version()), hint=_INSTALL)
            for old in _loaded.values():
                old.close()
            _loaded.clear()
            if settings.options.get("threads") is None:
                settings = replace(settings, options={**settings.options, "threads": threads_for(sharing)})
            _loaded[settings.run] = Worker(settings)
        try:
            return _loaded[settings.run].segment(subject)
        except Exception as error:
            raise plain(error) from None


def _free(run: str) -> None:
    """Let go of what this worker loaded for a run that is over."""
    worker = _loaded.pop(run, None)
    if worker is not None:
        worker.close()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what Dask logs off the screen, tracebacks among it: what matters is raised."""
    loggers = [logging.getLogger(name) for name in ("distributed", "distributed.client")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _connected(address: str) -> Client:
    from distributed import Client

    try:
        return Client(address, timeout=_ANSWER_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"expected a Dask scheduler at {address}, none answers: {error}", hint="start one: dask scheduler"
        ) from None


def _require_workers(client: Client, address: str, settings: Settings, subjects: Sequence[CohortSubject]) -> int:
    """Refuse workers that could not do what they are asked to; return the most of them on one machine."""
    try:
        client.wait_for_workers(1, timeout=_ANSWER_S)
    except TimeoutError:
        raise UsageError(
            f"expected a worker at the scheduler {address}, none came within {_ANSWER_S:g} s",
            hint=f"start some: dask worker {address} --nthreads 1",
        ) from None
    token = settings.out / DRAFTS / uuid.uuid4().hex
    token.touch()
    keys = settings.options.get("trusted_keys", ())
    files = [settings.bundle, token, *keys, *(file for subject in subjects for file in subject.images.values())]
    try:
        answers: dict[str, Any] = client.run(_look, files, on_error="return")
    finally:
        token.unlink()
    for worker, answer in answers.items():
        if isinstance(answer, BaseException):
            raise UsageError(
                f"expected segkit {settings.version} on the worker {worker}, found: {answer}", hint=_INSTALL
            )
        found, missing = answer
        if found != settings.version:
            raise UsageError(_other_version(worker, settings.version, found), hint=_INSTALL)
        if missing:
            what = settings.out if missing[0] == token else missing[0]
            raise UsageError(
                f"expected the worker {worker} to see {what}, it does not",
                hint="put the bundle, the images and --out on a file system that all workers share",
            )
    return max(Counter(worker["host"] for worker in client.scheduler_info(n_workers=-1)["workers"].values()).values())


def _look(files: Sequence[Path]) -> tuple[str, list[Path]]:
    """What a worker has: the version of segkit, and the files that it does not see."""
    return version(), [file for file in files if not file.exists()]


def _row(future: Any, subject: CohortSubject) -> Row:
    """The row that a task gave; if its worker was lost again and again, a row that says so."""
    from distributed import KilledWorker

    try:
        found = future.result() if future.status == "finished" else future.exception()
    except Exception as lost:
        found = lost
    if isinstance(found, Row):
        return found
    if isinstance(found, KilledWorker):
        text = (
            "every worker that was at it was lost; if memory is short, give them more (--memory-limit of dask worker)"
        )
        return Row(subject=subject.name, status="failed", error=text)
    if isinstance(found, SegkitError):
        raise found
    raise SegkitError(
        f"expected an answer of the Dask scheduler about {subject.name}, it was lost: {found or future.status}",
        hint="start it again, and add --resume",
    )


def _other_version(worker: str, expected: str, found: str) -> str:
    return f"expected segkit {expected} on the worker {worker}, found {found}"
