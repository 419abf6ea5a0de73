"""Contenders in turn: what becomes of one that is killed, that never comes back, that ends by itself."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import pytest

from segkit_benchmarks.turns import Side, take_turns

SIDES = """
import os, signal, time

def works(turn):
    turn({"prepared": True})
    while True:
        turn({"number": 1})

def is_killed(turn):
    os.kill(os.getpid(), signal.SIGKILL)

def is_killed_later(turn):
    turn({})
    os.kill(os.getpid(), signal.SIGKILL)

def ends(turn):
    os._exit(7)

def sleeps(turn):
    turn({})
    time.sleep(3600)
"""


@pytest.fixture
def side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Side]:
    """Sides of a module that the processes can import too."""
    (tmp_path / "sides_that_fail.py").write_text(SIDES)
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("sides_that_fail")
    return lambda name: getattr(module, name)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("is_killed", "its process was ended by SIGKILL; the system may have been out of memory"),
        ("is_killed_later", "its process was ended by SIGKILL; the system may have been out of memory"),
        ("ends", "its process ended with code 7"),
        ("sleeps", "it did not come back within 6 s"),
    ],
)
def test_one_that_fails_says_why_and_the_others_go_on(side: Callable[[str], Side], name: str, reason: str) -> None:
    results = take_turns({"bad": side(name), "good": side("works")}, 2, 1, timeout_seconds=6)
    assert results["bad"].failed == reason
    assert results["bad"].rounds == []
    assert results["good"].failed is None
    assert results["good"].first == {"prepared": True}
    assert results["good"].rounds == [{"number": 1}] * 2


def test_nothing_but_preparing_is_asked_of_a_side_without_rounds(side: Callable[[str], Side]) -> None:
    result = take_turns({"good": side("works")}, 0, 1)["good"]
    assert (result.first, result.rounds, result.failed) == ({"prepared": True}, [], None)
    assert result.peak_mib is None or result.peak_mib > 5
