"""Contenders that are measured in turn, each in a process of its own.

Rounds alternate between them, so what else the machine does meets all alike, and ratios are taken round by round.
"""

from __future__ import annotations

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

from segkit.errors import SegkitError
from segkit.memory import peak_mib

Figures = Mapping[str, Any]

Turn = Callable[[Figures], None]
"""Hands over figures; comes back when it is this side's turn again, or ends the process."""

Side = Callable[[Turn], None]
"""Prepares, hands over what that took, and then measures one round after each turn, for ever. It can be pickled."""


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
    sides: Mapping[str, Side], rounds: int, threads: int, on_turn: Callable[[str], None] = lambda name: None
) -> dict[str, Result]:
    """Let each side prepare, one after the other; then measure round by round, another side first in each.

    Args:
        sides: by name.
        rounds: how many.
        threads: of OpenMP, and so of torch, in each process.
        on_turn: called with the name of the side that is at work.

    Returns:
        What each side handed over; one that fails is left out of later rounds.
    """
    running: dict[str, _Process] = {}
    try:
        for name, side in sides.items():
            on_turn(name)
            running[name] = _Process(side, threads)
            running[name].result.first = running[name].receive()
        for number in range(rounds):
            for name in _rotated(list(sides), number):
                process = running[name]
                if process.result.failed is None:
                    on_turn(name)
                    process.pipe.send(True)
                    figures = process.receive()
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

    def __init__(self, side: Side, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.result = Result()
        self.pipe, there = context.Pipe()
        self.process: SpawnProcess = context.Process(target=_child, args=(there, side, threads), daemon=True)
        self.process.start()
        there.close()

    def receive(self) -> Figures:
        """Wait for figures; none come from a side that fails."""
        try:
            kind, value = self.pipe.recv()
        except EOFError:
            self.process.join()
            kind, value = "failed", f"its process ended with code {self.process.exitcode}"
        if kind == "figures":
            figures: Figures = value
            return figures
        self.result.failed = value
        return {}

    def end(self) -> Result:
        """Tell the side that there is no further round."""
        if self.result.failed is None:
            self.pipe.send(False)
            self.result.peak_mib = self.receive().get("peak_mib")
        return self.result


class _Over(BaseException):  # no side catches it by mistake
    """There is no further round."""


def _child(pipe: Connection, side: Side, threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the parent ends this process
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
