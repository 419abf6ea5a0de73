"""Ratios of others' figures to ours in the HTML report: a plot of dots on a logarithmic axis, and the table beside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from segkit_benchmarks.html_report_dots import Dot, DotRow, dot_rows
from segkit_benchmarks.html_report_parts import (
    Cell,
    Column,
    Figure,
    Table,
    figure_cell,
    range_text,
    significant_cell,
    text_cell,
)

TIME = "times as long as segkit"


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """How many times as much a peer needs as a side of ours.

    Attributes:
        work: what both do.
        ours: our side.
        peer: the other.
        value: the ratio.
        interval: the least and the most of the rounds, if there were rounds.
        floor: the least ratio that was asked for, if any was.
        remark: what else is to be said of it.
        same_labels: share of voxels that both label alike, where that was taken.
    """

    work: str
    ours: str
    peer: str
    value: float
    interval: tuple[float, float] | None = None
    floor: float | None = None
    remark: str = ""
    same_labels: float | None = None

    @property
    def beside(self) -> str:
        """The interval and the remark."""
        span = range_text(*self.interval) if self.interval else ""
        return "; ".join(text for text in (span, self.remark) if text)

    def __str__(self) -> str:
        beside = f" ({self.beside})" if self.beside else ""
        return f"{self.work}: {self.peer} against {self.ours}, {significant_cell(self.value).text}{beside}"


def ratio_figure(name: str, title: str, label: str, ratios: Sequence[Ratio], ours: Sequence[str]) -> Figure:
    """Draw ratios, a row for each peer below a heading for each work.

    Args:
        name: id of the plot in its page.
        title: what it shows.
        label: of the axis.
        ratios: at least one.
        ours: our sides; each keeps its colour and shape in all figures that are given the same.
    """
    styles = {side: style for style, side in enumerate(ours)}
    rows: list[DotRow] = []
    for work in dict.fromkeys(ratio.work for ratio in ratios):
        rows.append(DotRow(name=work))
        of_work = [ratio for ratio in ratios if ratio.work == work]
        for peer in dict.fromkeys(ratio.peer for ratio in of_work):
            found = [ratio for ratio in of_work if ratio.peer == peer]
            rows.append(
                DotRow(
                    name=peer,
                    dots=[
                        Dot(
                            style=styles[ratio.ours],
                            series=ratio.ours,
                            name=str(ratio),
                            value=ratio.value,
                            interval=ratio.interval,
                        )
                        for ratio in found
                    ],
                    mark=next((ratio.floor for ratio in found if ratio.floor), None),
                )
            )
    least, most = (choose(ratios, key=lambda ratio: ratio.value) for choose in (min, max))
    plot = dot_rows(
        name,
        f"{title}: {label}",
        f"{len(ratios)} ratios. Least: {least}. Most: {most}. The table beside holds every ratio.",
        label,
        rows,
        "floor",
    )
    marks = " Triangles mark floors." if any(row.mark for row in rows) else ""
    caption = f"{title}: to the right of the dashed line, segkit needs less.{marks}"
    return Figure(plots=[plot], caption=caption, table=_table(f"{title}, {label}", ratios))


def _table(caption: str, ratios: Sequence[Ratio]) -> Table:
    several = len({ratio.work for ratio in ratios}) > 1
    labelled = any(ratio.same_labels is not None for ratio in ratios)
    columns = [
        Column(title="beside", figures=False),
        Column(title="ours", figures=False),
        Column(title="ratio"),
        Column(title="floor"),
    ]
    if labelled:
        columns.append(Column(title="same labels", unit="%"))
    return Table(
        caption=caption, columns=columns, rows=[_row(ratio, several=several, labelled=labelled) for ratio in ratios]
    )


def _row(ratio: Ratio, *, several: bool, labelled: bool) -> list[Cell]:
    cells = [
        text_cell(ratio.peer, note=ratio.work if several else ""),
        text_cell(ratio.ours.removeprefix("segkit, ")),
        significant_cell(ratio.value, note=ratio.beside),
        significant_cell(ratio.floor),
    ]
    return [*cells, figure_cell(ratio.same_labels, 2, scale=100)] if labelled else cells
