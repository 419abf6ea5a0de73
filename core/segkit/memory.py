"""Memory of this process."""

from __future__ import annotations

import re
from pathlib import Path


def peak_mib() -> float | None:
    """The largest memory this process has held so far, in MiB, or None where the system does not tell."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    return round(int(found[1]) / 1024, 1) if found else None
