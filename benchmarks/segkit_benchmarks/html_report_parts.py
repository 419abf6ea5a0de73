"""What a section of the HTML report is made of: text, sortable tables, plots and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from segkit_benchmarks.html_report_svg import Plot

NOTHING = "\N{EN DASH}"
"""Stands where there is no figure."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: what is read.
        value: what it is sorted by; None sorts last, whichever the direction.
        note: a second, smaller line.
        kind: "missing" for a reason in place of a figure, "best", "good" or "bad"; a look, never the only sign.
    """

    text: str
    value: float | str | None = None
    note: str = ""
    kind: str = ""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column: its title and unit, the group it stands in, whether it holds figures, and which side it is on.

    `side` is "then" for what the thesis prints, else "".
    """

    title: str
    unit: str = ""
    group: str = ""
    figures: bool = True
    side: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table whose rows can be sorted; the first column names the row."""

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Title and width of each run of columns of one group; empty where there are no groups."""
        groups: list[tuple[str, int]] = []
        for column in self.columns:
            if groups and groups[-1][0] == column.group:
                groups[-1] = (column.group, groups[-1][1] + 1)
            else:
                groups.append((column.group, 1))
        return groups if any(name for name, _ in groups) else []


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A plot or some, with a caption and the table of the numbers: beside one plot, folded up below several."""

    plots: Sequence[Plot]
    caption: str
    table: Table


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture: its PNG file as base64, its size in pixels, what it shows in words, and a caption."""

    png: str
    size: tuple[int, int]
    alt: str
    caption: str


Block = Table | Figure | Picture


@dataclass(frozen=True, kw_only=True)
class Section:
    """A section of the report.

    Attributes:
        name: its id in the page.
        title: its heading.
        lead: a sentence or two above it.
        blocks: what it shows; empty where its results are not there.
        missing: what is missing, for whoever reads the report.
        command: what makes it.
    """

    name: str
    title: str
    lead: str = ""
    blocks: Sequence[Block] = field(default_factory=tuple)
    missing: str = ""
    command: str = ""


def text_cell(text: str | None, *, note: str = "", kind: str = "") -> Cell:
    """A cell of words; a dash for nothing."""
    return Cell(text=text or NOTHING, value=text.lower() if text else None, note=note, kind=kind)


def figure_cell(value: float | None, digits: int = 1, *, scale: float = 1.0, note: str = "", kind: str = "") -> Cell:
    """A cell of a number, with thousands apart; a dash for None, which sorts last."""
    if value is None:
        return Cell(text=NOTHING, note=note, kind=kind)
    return Cell(text=f"{scale * value:,.{digits}f}", value=scale * value, note=note, kind=kind)


def significant_cell(value: float | None, digits: int = 3, *, note: str = "", kind: str = "") -> Cell:
    """A cell of a number of any size, in so many significant digits."""
    if value is None:
        return Cell(text=NOTHING, note=note, kind=kind)
    places = max(0, digits - 1 - _magnitude(value))
    return figure_cell(value, places, note=note, kind=kind)


def range_text(least: float, most: float) -> str:
    """A range in words, three significant digits each."""
    return f"{significant_cell(least).text} to {significant_cell(most).text}"


def reason_cell(reason: str) -> Cell:
    """A cell that says why it has no figure."""
    return Cell(text=reason, kind="missing")


def _magnitude(value: float) -> int:
    magnitude = 0
    while value and abs(value) >= 10 ** (magnitude + 1):
        magnitude += 1
    while value and abs(value) < 10**magnitude:
        magnitude -= 1
    return magnitude
