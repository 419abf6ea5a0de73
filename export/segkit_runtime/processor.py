"""What this CPU has: processors, and of its instructions those that decide in which precision a network is fastest."""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path

_INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")

FAST_BF16 = "amx_bf16"
"""Without it bf16 takes longer than fp32 on the CPUs that were tried."""


@functools.cache
def cpu_instructions() -> tuple[str, ...]:
    """By Linux' names; empty where the system does not tell."""
    try:
        found = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(encoding="ascii"), re.MULTILINE)
    except (OSError, ValueError):
        return ()
    return tuple(name for name in _INSTRUCTIONS if found and name in found[1].split())


def usable_processors() -> int:
    """How many processors this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
