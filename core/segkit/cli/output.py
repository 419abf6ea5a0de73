"""What commands print: tables and progress for people, JSON for scripts."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.progress import Progress


def print_json(value: Any) -> None:
    """Print one JSON document on standard output."""
    click.echo(json.dumps(value, indent=1, default=str))


def print_table(rows: Sequence[Mapping[str, Any]], title: str = "") -> None:
    """Print rows of the same keys as a table; long cells are wrapped on a terminal and whole in a pipe."""
    if not rows:
        click.echo("none")
        return
    keys = [*rows[0]]
    right = [all(isinstance(row[key], (int, float)) for row in rows) for key in keys]
    cells = [["" if value is None else str(value) for value in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(keys, *cells, strict=True)]
    if sys.stdout.isatty() and sum(widths) + 2 * (len(keys) - 1) > shutil.get_terminal_size().columns:
        _print_wrapped(keys, right, cells, title)
        return

    def line(texts: Sequence[str]) -> str:
        aligned = zip(texts, widths, right, strict=True)
        return "  ".join(text.rjust(width) if to_right else text.ljust(width) for text, width, to_right in aligned)

    click.echo(
        "".join(
            f"{styled}\n"
            for styled in (
                *([click.style(title, italic=True)] if title else []),
                click.style(line(keys).rstrip(), bold=True),
                *(line(texts).rstrip() for texts in cells),
            )
        ),
        nl=False,
    )


def _print_wrapped(keys: Sequence[str], right: Sequence[bool], cells: Sequence[Sequence[str]], title: str) -> None:
    """Print a table that is wider than the terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for key, to_right in zip(keys, right, strict=True):
        table.add_column(key, justify="right" if to_right else "left")
    for texts in cells:
        table.add_row(*map(Text, texts))
    Console().print(table)


@contextmanager
def progress_bar(*, hidden: bool = False) -> Iterator[Progress]:
    """A progress display on standard error that leaves nothing behind when it ends."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=hidden or not console.is_terminal) as progress:
        yield progress
