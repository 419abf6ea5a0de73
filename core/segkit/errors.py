"""Everything that segkit refuses, as one tree.

    SegkitError
    ├── UsageError            a request that cannot be met as it was typed          exit 2
    │   ├── UnknownName         no such model, data set, plugin, label ...
    │   ├── AmbiguousName       several distributions claim the name
    │   ├── OutputExists        the output is there already
    │   └── MissingExtra        an optional package is not installed
    ├── DataError             a file or a data set that is not what it should be    exit 2
    │   ├── VolumeError         an image or label file
    │   └── BundleError         a bundle: altered, incomplete, of another version
    ├── PluginError           a plugin that was asked for does not work             exit 1
    └── VerificationFailed    an export that does not segment as its network does   exit 3

Every message is one line in three parts: what was expected, what was found, what to do. The last part is the `hint`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SegkitError(Exception):
    """Base of all errors that segkit raises on purpose.

    Args:
        message: what was expected and what was found.
        hint: what to do about it.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class UsageError(SegkitError):
    """A request that cannot be met as it was typed."""

    exit_code = 2


class UnknownName(UsageError):
    """No such model, data set, plugin or label; carries the nearest known name as its hint.

    Args:
        what: the kind of thing, for example "model".
        name: the name that was asked for.
        known: the names there are.
        hint: replaces the hint that is made from `known`.
    """

    def __init__(self, what: str, name: str, known: Iterable[str], *, hint: str = "") -> None:
        names = sorted(set(known))
        close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        if not hint:
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names) or 'none'}"
        super().__init__(f"no {what} {name!r}", hint=hint)
        self.name = name


class AmbiguousName(UsageError):
    """Several distributions claim the bare name."""


class OutputExists(UsageError):
    """The output is there already, and nothing was written."""


class MissingExtra(UsageError):
    """An optional package is not installed.

    Args:
        module: the module that could not be imported.
        extra: the extra of segkit3d that brings it.
        purpose: what it is needed for.
    """

    def __init__(self, module: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the module {module!r}, which is not installed",
            hint=f'run: pip install "segkit3d[{extra}]"',
        )
        self.module = module
        self.extra = extra


class DataError(SegkitError):
    """A file or a data set that is not what it should be."""

    exit_code = 2


class VolumeError(DataError):
    """An image or label file that is not what it should be."""


class BundleError(DataError):
    """A bundle that is altered, incomplete or of another version."""


class PluginError(SegkitError):
    """A plugin that was asked for does not work."""


class VerificationFailed(SegkitError):
    """An export that does not segment as its network does."""

    exit_code = 3
