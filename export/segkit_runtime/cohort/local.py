"""A cohort on this machine: in this process, or in several that are replaced when they crash."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from segkit.children import start_child
from segkit.errors import SegkitError
from segkit_runtime.cohort.records import Row, Settings
from segkit_runtime.cohort.subjects import CohortSubject
from segkit_runtime.cohort.worker import Worker
from segkit_runtime.processor import usable_processors

Watch = Callable[[str, int, int], None]
"""Called with the name of a head, the number of its patches that are done, and their number."""

_TELL_EVERY_S = 0.2
_END_S = 10.0


def run_here(settings: Settings, subjects: Sequence[CohortSubject], watch: Watch) -> Generator[Row]:
    """Segment the heads one after another in this process.

    Raises:
        SegkitError: the bundle cannot be loaded.
    """
    with closing(Worker(settings)) as worker:
        for subject in subjects:
            yield worker.segment(subject, partial(watch, subject.name))


def run_in_processes(settings: Settings, subjects: Sequence[CohortSubject], count: int, watch: Watch) -> Generator[Row]:
    """Segment the heads in processes of their own, each of which loads the bundle once.

    A process that crashes costs the head that it was at; another takes its place.

    Args:
        settings: of the run; if it names no number of threads, the processors are shared out.
        subjects: the heads.
        count: the most processes.
        watch: see `Watch`.

    Raises:
        SegkitError: the bundle cannot be loaded.
    """
    count = min(count, len(subjects))
    if settings.options.get("threads") is None:
        settings = replace(settings, options={**settings.options, "threads": threads_for(count)})
    waiting = deque(subjects)
    busy: list[_Process] = []
    try:
        while waiting and len(busy) < count:
            busy.append(_Process.start(settings, waiting.popleft()))
        while busy:
            ready = wait([process.connection for process in busy])
            for process in [process for process in busy if process.connection in ready]:
                row = process.receive(watch)
                if row is None:
                    continue
                yield row
                if process.ended or not waiting:
                    process.end()  # Ctrl-C meanwhile: it is ended again below, and killed if that takes too long
                    busy.remove(process)
                    if waiting:
                        busy.append(_Process.start(settings, waiting.popleft()))
                else:
                    process.give(waiting.popleft())
    finally:
        for process in busy:
            process.process.terminate()
        for process in busy:
            process.end()


def threads_for(sharing: int) -> int:
    """Threads for one of several workers on this machine."""
    return max(1, usable_processors() // sharing)


@dataclass
class _Process:
    """A worker process and the head that it is at."""

    process: SpawnProcess
    connection: Connection
    subject: CohortSubject
    ended: bool = False

    @classmethod
    def start(cls, settings: Settings, subject: CohortSubject) -> _Process:
        # Not a fork: runtimes have threads, which a fork would lose.
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, settings), name="segkit-cohort", daemon=True)
        start_child(process)
        # Without another end of it here, the pipe ends when the process does.
        theirs.close()
        started = cls(process, ours, subject)
        started.give(subject)
        return started

    def give(self, subject: CohortSubject) -> None:
        self.subject = subject
        try:
            self.connection.send(subject)
        except OSError:
            # It has crashed since; the next thing to be received is the end of the pipe.
            return

    def receive(self, watch: Watch) -> Row | None:
        """The row of the head, or None for a word about its progress."""
        try:
            message = self.connection.recv()
        except (EOFError, OSError):
            self.ended = True
            self.process.join(_END_S)
            error = f"the worker process that was at it {_how_it_ended(self.process.exitcode)}"
            return Row(subject=self.subject.name, status="failed", error=error)
        if isinstance(message, SegkitError):
            raise message
        if isinstance(message, Row):
            return message
        watch(self.subject.name, *message)
        return None

    def end(self) -> None:
        """Stop it, whatever it is at: what it has not yet put in its place is not missed."""
        self.process.terminate()
        self.process.join(_END_S)
        self.process.kill()
        self.connection.close()


def _how_it_ended(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return f"was ended by {name}" + ("; if memory is short, take fewer --workers" if name == "SIGKILL" else "")
    return f"ended with exit code {code}"


def _serve(connection: Connection, settings: Settings) -> None:
    """What a worker process does until the pipe ends."""
    signal.signal(signal.SIGTERM, _exit)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    worker = Worker(settings)
    while True:
        try:
            subject = connection.recv()
        except EOFError:
            return
        try:
            connection.send(worker.segment(subject, _teller(connection)))
        except Exception as error:
            connection.send(plain(error))


def _teller(connection: Connection) -> Callable[[int, int], None]:
    """A progress that speaks now and then."""
    last = 0.0

    def tell(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > _TELL_EVERY_S:
            last = time.monotonic()
            connection.send((done, total))

    return tell


def _exit(signum: int, frame: object) -> None:
    """End in order: a bundle that was a zip file takes its unpacked folder with it."""
    sys.exit(128 + signum)


def _end_with_parent() -> None:
    """Leave no worker behind when the process that started it is killed."""
    parent: Any = multiprocessing.parent_process()
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def plain(error: Exception) -> SegkitError:
    """The same error in the one class that can be pickled, with its exit code."""
    if not isinstance(error, SegkitError):
        return SegkitError(f"{type(error).__name__}: {error}")
    copy = SegkitError(error.message, hint=error.hint)
    copy.exit_code = error.exit_code
    return copy
