"""What a bundle may look like from outside: the names of its files and how much of it there may be."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from segkit.errors import BundleError, UsageError

MANIFEST, SUMS, SIGNATURE, CARD, MODEL = "manifest.json", "SHA256SUMS", "SHA256SUMS.sig", "card.md", "model.onnx"
UNLISTED = (SUMS, SIGNATURE)
"""Files that the list of checksums cannot name: itself and its signature."""
MAX_FILES = 64
"""The most files that the list of checksums names."""
MAX_TEXT_BYTES = 4 * 2**20
"""The largest manifest and the largest list of checksums that are read."""
MAX_BUNDLE_BYTES = 8 * 2**30

AGAIN = "copy the bundle again from its source, or export it again"
_PART = r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,98}(?<!\.)"
_PLAIN_NAME = re.compile(rf"{_PART}(/{_PART}){{0,2}}")
"""Letters, digits and `. _ + -` in at most two folders: no absolute name, no `..`, nothing hidden, and no letter that
Unicode can write in two ways."""
_DEVICE = re.compile(r"(^|/)(con|prn|aux|nul|com\d|lpt\d)(\.|/|$)")
"""Names that mean a device on Windows, whatever follows the dot."""


def require_plain_names(names: Iterable[str], error: type[UsageError | BundleError]) -> None:
    """Refuse names that could mean another place, or the same place twice, on some file system."""
    files: set[str] = set()
    folders: dict[str, str] = {}
    for count, name in enumerate(names, 1):
        if count > MAX_FILES + len(UNLISTED):
            raise error(f"expected at most {MAX_FILES} files in a bundle, got more", hint=AGAIN)
        folded = name.casefold()
        if not _PLAIN_NAME.fullmatch(name) or _DEVICE.search(folded) or folded in files:
            raise _not_plain(name, error)
        files.add(folded)
        for folder in _folders(name):
            if folders.setdefault(folder.casefold(), folder) != folder:
                raise _not_plain(name, error)
    twice = next((folder for key, folder in folders.items() if key in files), None)
    if twice is not None:
        raise _not_plain(twice, error)


def _not_plain(name: str, error: type[UsageError | BundleError]) -> UsageError | BundleError:
    return error(
        f"expected plain, different file names inside the bundle, got {name[:120]!r}",
        hint="use letters, digits and . _ + -",
    )


def _folders(name: str) -> Iterator[str]:
    parts = name.split("/")
    return ("/".join(parts[:depth]) for depth in range(1, len(parts)))


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """What the system says about a file that cannot be read, as an error of a bundle."""
    try:
        yield
    except OSError as error:
        raise BundleError(f"expected to read {path}, the system says: {error.strerror}") from None
