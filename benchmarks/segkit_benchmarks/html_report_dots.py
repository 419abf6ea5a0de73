"""A plot of the HTML report: dots with intervals in rows, on a logarithmic axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from segkit_benchmarks.html_report_svg import (
    BOTTOM,
    LETTER,
    NAME,
    RIGHT,
    ROW,
    SERIES,
    TOP,
    WIDTH,
    Plot,
    fit_axis,
    grid_x,
    mark_line,
    marker,
    wrap_svg,
)


@dataclass(frozen=True, kw_only=True)
class Dot:
    """A ratio: its style, whose it is, its tooltip, its value, and the interval it lies in, if it has one."""

    style: int
    series: str
    name: str
    value: float
    interval: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class DotRow:
    """A row of dots and a mark, if any; without dots it is the heading of the rows below it."""

    name: str
    dots: Sequence[Dot] = ()
    mark: float | None = None


def dot_rows(name: str, title: str, description: str, label: str, rows: Sequence[DotRow], mark: str) -> Plot:
    """Draw ratios as dots with their intervals, on a logarithmic axis with a dashed line at 1.

    Args:
        name: id of the plot in its page.
        title: what it shows, for screen readers.
        description: what is to be seen in it, for screen readers.
        label: what the axis shows.
        rows: from top to bottom.
        mark: what the marks are.
    """
    dots = [dot for row in rows for dot in row.dots]
    ends = [end for dot in dots for end in dot.interval or (dot.value,)]
    axis = fit_axis(label, [1.0, *ends, *(row.mark for row in rows if row.mark is not None)], log=True)
    names = [_break(row.name) if row.dots else [row.name] for row in rows]
    heights = [
        max(ROW if len(lines) == 1 else 34, 11 * len(row.dots) + 8) for row, lines in zip(rows, names, strict=True)
    ]
    longest = max(len(line) for row, lines in zip(rows, names, strict=True) for line in lines if row.dots)
    left = max(NAME, round(LETTER * longest) + 12)
    bottom, span = TOP + sum(heights), WIDTH - left - RIGHT
    one = left + span * axis.place(1)
    parts = [
        grid_x(axis, left, span, TOP, bottom),
        f'<path class="reference" d="M{one:.1f} {TOP}V{bottom}"/>',
    ]
    y = float(TOP)
    for row, lines, height in zip(rows, names, heights, strict=True):
        middle = y + height / 2
        if row.dots:
            first = middle + 4 - 7 * (len(lines) - 1)
            for number, line in enumerate(lines):
                parts.append(
                    f'<text x="{left - 6}" y="{first + 14 * number:.1f}" text-anchor="end">{escape(line)}</text>'
                )
        else:
            parts.append(f'<text class="heading" x="4" y="{middle + 5:.1f}">{escape(row.name)}</text>')
        if row.mark is not None:
            parts.append(mark_line(f"{row.name}: {mark} {row.mark:g}", left + span * axis.place(row.mark), y, height))
        for number, dot in enumerate(row.dots):
            level = middle + 11 * (number - (len(row.dots) - 1) / 2)
            shape = marker(dot.style, left + span * axis.place(dot.value), level, 4)
            if dot.interval:
                low, high = (left + span * axis.place(end) for end in dot.interval)
                path = f"M{low:.1f} {level - 3:.1f}v6m0 -3H{high:.1f}m0 -3v6"
                shape = f'<path class="line s{dot.style % SERIES + 1}" d="{path}"/>{shape}'
            parts.append(f"<g><title>{escape(dot.name)}</title>{shape}</g>")
        y += height
    legend = sorted({(dot.style, dot.series) for dot in dots})
    return Plot(svg=wrap_svg(name, title, description, bottom + BOTTOM, parts), legend=legend)


def _break(name: str) -> list[str]:
    """A long name in two lines, the second after its first comma."""
    first, comma, rest = name.partition(", ")
    return [f"{first},", rest] if comma and len(name) > 16 else [name]
