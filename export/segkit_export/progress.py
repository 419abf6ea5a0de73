"""How the export says how far it is."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called at the start of each step and as it goes on; an exception that it raises ends the export."""

    def __call__(self, step: str, done: int, total: int) -> None:
        """Take note.

        Args:
            step: what is being done, for example "trace".
            done: how many parts of the step are done.
            total: how many it has, or 0 where nobody knows.
        """
        ...


def silent(step: str, done: int, total: int) -> None:
    """Say nothing."""
