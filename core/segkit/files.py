"""Writing files so that a reader sees the old one or the new one, never half of one."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from segkit.errors import UsageError


def write_bytes(path: Path, payload: bytes) -> None:
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
        raise UsageError(
            f"expected to write {path}, found: {error.strerror or error}", hint="free space, or choose another place"
        ) from error


def sha256_of(path: Path) -> str:
    """Hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
