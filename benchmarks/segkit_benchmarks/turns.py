"""Contenders that are measured in turn, each in a process of its own.

Rounds alternate between them, so what else the machine does meets all alike, and ratios are taken round by round.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from segkit.children import start_child
from segkit.errors import SegkitError
from segkit.memory import peak_mib

Figures = Mapping[str, Any]

Turn = Callable[[Figures], None]
"""Hands over figures; comes back when it is this side's turn again, or ends the process."""

Side = Callable[[Turn], None]
"""Prepares, hands over what that took, and then measures one round after each turn, for ever. It can be pickled."""

_END_SECONDS = 10.0
"""What a process gets to end by itself, once all is measured."""


@dataclass
class Result:
    """What a side handed over.

    Attributes:
        first: before the first round.
        rounds: of each round.
        peak_mib: largest resident memory of its process, libraries and memory-mapped files included.
        failed: why it stopped, if it did.
    """

    first: Figures = field(default_factory=dict)
    rounds: list[Figures] = field(default_factory=list)
    peak_mib: float | None = None
    failed: str | None = None


def take_turns(
    sides: Mapping[str, Side],
    rounds: int,
    threads: int,
    on_turn: Callable[[str], None] = lambda name: None,
    *,
    timeout_seconds: float | None = None,
) -> dict[str, Result]:
    """Let each side prepare, one after the other; then measure round by round, another side first in each.

    Args:
        sides: by name.
        rounds: how many.
        threads: of OpenMP, and so of torch, in each process.
        on_turn: called with the name of the side that is at work.
        timeout_seconds: the longest that a side may prepare, or measure a round, before it counts as failed.

    Returns:
        What each side handed over; one that fails is left out of later rounds.
    """
    running: dict[str, _Process] = {}
    try:
        for name, side in sides.items():
            on_turn(name)
            running[name] = _Process(side, threads, timeout_seconds)
            running[name].result.first = running[name].receive()
        for number in range(rounds):
            for name in _rotated(list(sides), number):
                process = running[name]
                if process.result.failed is None:
                    on_turn(name)
                    figures = process.go_on(True)
                    if process.result.failed is None:
                        process.result.rounds.append(figures)
        return {name: process.end() for name, process in running.items()}
    finally:
        for process in running.values():
            process.process.kill()
            process.process.join()


def _rotated(names: Sequence[str], by: int) -> Sequence[str]:
    at = by % len(names)
    return [*names[at:], *names[:at]]


class _Process:
    """The process of a side, seen from outside."""

    def __init__(self, side: Side, threads: int, timeout_seconds: float | None) -> None:
        context = multiprocessing.get_context("spawn")
        self.result = Result()
        self.timeout_seconds = timeout_seconds
        self.pipe, there = context.Pipe()
        # Not a daemon: it may have workers of its own.
        self.process: SpawnProcess = context.Process(target=_child, args=(there, side, threads))
        start_child(self.process)
        there.close()

    def receive(self) -> Figures:
        """Wait for figures; none come from a side that fails."""
        try:
            if self.pipe.poll(self.timeout_seconds):
                kind, value = self.pipe.recv()
            else:
                self.process.kill()
                kind, value = "failed", f"it did not come back within {self.timeout_seconds:g} s"
        except (EOFError, ConnectionResetError):
            self.process.join()
            kind, value = "failed", _how_it_ended(self.process.exitcode or 0)
        if kind == "figures":
            figures: Figures = value
            return figures
        self.result.failed = value
        return {}

    def end(self) -> Result:
        """Tell the side that there is no further round."""
        if self.result.failed is None:
            self.result.peak_mib = self.go_on(False).get("peak_mib")
            self.process.join(_END_SECONDS)  # a process that is killed leaves its semaphores behind
        return self.result

    def go_on(self, again: bool) -> Figures:
        """Tell the side whether there is a further round, and wait for what it says."""
        with contextlib.suppress(BrokenPipeError):  # it ended since: `receive` finds out how
            self.pipe.send(again)
        return self.receive()


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"its process ended with code {code}"
    name = signal.Signals(-code).name
    advice = "; the system may have been out of memory" if name == "SIGKILL" else ""
    return f"its process was ended by {name}{advice}"


class _Over(BaseException):  # no side catches it by mistake
    """There is no further round."""


def _child(pipe: Connection, side: Side, threads: int) -> None:
    os.environ["OMP_NUM_THREADS"] = str(threads)  # nothing that reads it is imported yet

    def turn(figures: Figures) -> None:
        pipe.send(("figures", dict(figures)))
        if not pipe.recv():
            raise _Over

    try:
        # What others print would run into our table.
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            side(turn)
    except _Over:
        pipe.send(("figures", {"peak_mib": peak_mib()}))
    except SegkitError as error:
        pipe.send(("failed", str(error)))
    except Exception as error:
        pipe.send(("failed", f"{type(error).__name__}: {error}"))
