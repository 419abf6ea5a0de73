"""Memory: sizes as people write them, and what this process holds."""

from __future__ import annotations

import ctypes
import platform
import re
from collections.abc import Callable
from pathlib import Path

from segkit.errors import UsageError

_UNITS = {
    "b": 1,
    **{f"{prefix}ib": 2 ** (10 * power) for power, prefix in enumerate("kmgt", 1)},
    **{f"{prefix}b": 10 ** (3 * power) for power, prefix in enumerate("kmgt", 1)},
}
_RESET_PEAK = "5"
"""What Linux takes for "forget the peak": see proc_pid_clear_refs(5)."""


def parse_size(text: str) -> int:
    """Bytes of a size such as "4GiB", "512 MiB" or "1.5GB".

    Raises:
        UsageError: it is not a size, or none above zero.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]+)\s*", text)
    unit = _UNITS.get(match[2].lower()) if match else None
    size = int(float(match[1]) * unit) if match and unit else 0
    if size <= 0:
        raise UsageError(f"expected a size with its unit, got {text!r}", hint="write it as 4GiB, 512MiB or 1.5GB")
    return size


def held_bytes() -> int | None:
    """The memory this process holds now, or None where the system does not tell."""
    return _status_bytes("VmRSS")


def peak_mib() -> float | None:
    """The largest memory this process has held so far, in MiB, or None where the system does not tell."""
    found = _status_bytes("VmHWM")
    return None if found is None else round(found / 2**20, 1)


def peak_growth_bytes(work: Callable[[], object]) -> int | None:
    """Run something and return how far the memory of this process rose meanwhile above what it held before.

    Other threads of the process count too, so a measurement belongs into a process of its own.

    Returns:
        The rise in bytes, or None where the system does not tell.
    """
    try:
        Path("/proc/self/clear_refs").write_text(_RESET_PEAK, encoding="ascii")
    except OSError:
        work()
        return None
    before = _status_bytes("VmRSS")
    work()
    peak = _status_bytes("VmHWM")
    return None if before is None or peak is None else max(0, peak - before)


def _status_bytes(name: str) -> int | None:
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    found = re.search(rf"^{name}:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def keep_freed_memory() -> None:
    """Let this process keep what it frees, for its next step.

    glibc hands every large block back to the system and gets it again empty, page by page: 70,000 page faults in a
    training step of a 3D U-Net on a CPU, a tenth of its time. Elsewhere this does nothing.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    no_mapped_blocks, no_trimming, blocks_bytes = (-4, 0), (-1, 2**31 - 1), (-2, 2**28)
    for parameter, value in (no_mapped_blocks, no_trimming, blocks_bytes):
        ctypes.CDLL(None).mallopt(parameter, value)
