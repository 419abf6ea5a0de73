"""Writing files so that a reader sees the old one or the new one, never half of one."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

from segkit.errors import UsageError


def write_bytes(path: Path, payload: bytes | memoryview) -> None:
    """Write a file in one step: a reader sees the old file or the new one, never half of one.

    Raises:
        UsageError: it cannot be written there.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            draft.write_bytes(payload)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error


def remove_drafts(folder: Path) -> None:
    """Take away what writers that were killed left in a folder that nobody else writes to."""
    for draft in folder.glob(".*.*"):
        if draft.suffix[1:].isdecimal() and draft.is_file():
            draft.unlink(missing_ok=True)


def cannot_write(path: Path, error: OSError) -> UsageError:
    """What someone should read whose output the system refuses."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return UsageError(
        f"expected to write {path}, the system says: {error.strerror or error}",
        hint="free space" if full else "choose another place",
    )


def sha256_of(path: Path) -> str:
    """Hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
