"""A cache of compiled engines: what a runtime made of a model on this machine, kept for the next start.

An entry is found by a hash of all that went into it, never by a time or a name. It is written in one step and never
altered in place, and ends with the checksum of its content: one that was cut short or damaged is made anew. Whoever may
write into the folder may run code as its owner, as with any cache of compiled code: it belongs to one user.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from segkit.errors import UsageError
from segkit.files import write_bytes

CacheUse = Literal["hit", "made", "off"]

MOST_BYTES = 2 * 2**30
"""What all entries together may take; beyond it those go that were not used for the longest time."""

_CHECKSUM_BYTES = 4


def cache_folder() -> Path:
    """Where entries lie: segkit/engines in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "segkit", "engines")


def entry_key(model_sha256: str, facts: Mapping[str, object]) -> str:
    """The name of an entry.

    Args:
        model_sha256: of the model's file.
        facts: all else that the compiled engine depends on, the processor aside: versions and options.
    """
    known = {"model": model_sha256, "processor": _processor(), **facts}
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def _processor() -> str:
    """What the system says of the first processor: its model, and which instructions it has."""
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").split("\n\n", 1)[0]
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    lines = first.splitlines()
    return "\n".join(line for line in lines if line.startswith(("vendor", "cpu family", "model", "stepping", "flags")))


def read_entry(key: str) -> NDArray[np.uint8] | None:
    """Content of an entry as a memory map, or None where there is none that is whole."""
    try:
        path = cache_folder() / key
        entry = np.memmap(path, np.uint8, mode="c")
        os.utime(path)  # so that it counts as used
    except (OSError, RuntimeError, ValueError):  # none, an empty one, or no home
        return None
    content, checksum = entry[:-_CHECKSUM_BYTES], entry[-_CHECKSUM_BYTES:].tobytes()
    return content if _checksum(content) == checksum else None


def write_entry(key: str, content: bytes) -> bool:
    """Keep an entry, in one step; whether that was possible."""
    try:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_bytes(folder / key, content + _checksum(content))
        _make_room(folder)
    except (OSError, RuntimeError, UsageError):  # a home that cannot be written is no reason not to segment
        return False
    return True


def _checksum(content: bytes | NDArray[np.uint8]) -> bytes:
    return int(isal_zlib.crc32(content)).to_bytes(_CHECKSUM_BYTES, "little")


def _make_room(folder: Path) -> None:
    found = sorted(((path.stat(), path) for path in folder.iterdir()), key=lambda entry: -entry[0].st_mtime_ns)
    taken = 0
    for number, (facts, path) in enumerate(found):
        taken += facts.st_size
        if taken > MOST_BYTES and number:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
