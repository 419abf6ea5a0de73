"""Sizes as people write them; how far memory rises, measured in processes of their own, as the function wants it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from segkit.errors import UsageError
from segkit.memory import parse_size, peak_growth_bytes

MIB = 2**20

needs_proc = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux: /proc/self/clear_refs")

CODE = """
import numpy as np
from segkit.memory import keep_freed_memory, peak_growth_bytes

def hold(mib):
    np.ones(mib * 2**20, np.uint8)

{before}
print(peak_growth_bytes(lambda: hold({mib})))
"""


def growth_mib(before: str, mib: int) -> float:
    code = CODE.format(before=before, mib=mib)
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(answer.stdout) / MIB


@needs_proc
def test_what_was_held_and_given_back_counts() -> None:
    assert 63 < growth_mib("", 64) < 80


@needs_proc
def test_an_earlier_peak_does_not() -> None:
    assert 15 < growth_mib("hold(128)", 16) < 32


@needs_proc
@pytest.mark.skipif(sys.platform != "linux", reason="needs glibc")
def test_a_process_that_keeps_what_it_frees_has_it_at_hand_for_the_next_step() -> None:
    assert growth_mib("keep_freed_memory(); hold(64)", 64) < 8


def test_where_the_system_does_not_tell_the_work_is_done_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *arguments: object, **options: object) -> None:
        raise PermissionError(path)

    monkeypatch.setattr(Path, "write_text", refuse)
    done = []
    assert peak_growth_bytes(lambda: done.append(1)) is None
    assert done == [1]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4GiB", 4 * 2**30),
        ("512 MiB", 2**29),
        ("1.5gb", 1_500_000_000),
        ("24GB", 24 * 10**9),
        ("1TiB", 2**40),
        ("7KiB", 7168),
        ("9B", 9),
    ],
)
def test_a_size_is_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "4", "GiB", "-4GiB", "0GiB", "4 GiB more", "4XB", "nanGiB", "4G"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"expected a size with its unit, got .*write it as 4GiB"):
        parse_size(text)
