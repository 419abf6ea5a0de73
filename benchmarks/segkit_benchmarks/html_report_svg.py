"""Plots of the HTML report as inline SVG: light, sharp in print, readable by a screen reader, coloured by the page.

Series are told apart by shape or dash as well as by colour; their colours are the page's `--s1` to `--s6`. Each mark
has a tooltip; the numbers stand in a table beside the plot.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Literal

SERIES = 6
"""Colours and shapes there are; further series begin anew."""

WIDTH, _HEIGHT = 440, 300
_LEFT, RIGHT, TOP, BOTTOM = 56, 14, 14, 46
ROW, NAME = 26, 128
LETTER = 7.2
"""Width of a letter of a label at its largest, about, in the plot's units: phones show larger ones."""

_DASHES = ("", "6 3", "2 3", "8 3 2 3", "1 4", "10 4")


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One axis: what it shows with its unit, its range, and whether it is logarithmic."""

    label: str
    low: float
    high: float
    log: bool = False

    def place(self, value: float) -> float:
        """Where a value lies, 0 to 1."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """About five round values inside the range."""
        if not self.log:
            raw = (self.high - self.low) / 5
            power = 10.0 ** math.floor(math.log10(raw))
            step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
            first = math.ceil(self.low / step - 1e-9)
            return [step * number for number in range(first, math.floor(self.high / step + 1e-9) + 1)]
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for factors in ((1, 1.5, 2, 3, 5, 7), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
            values = [factor * 10.0**decade for decade in decades for factor in factors]
            inside = [value for value in values if self.low * 0.999 <= value <= self.high * 1.001]
            if len(inside) <= 7:
                break
        return inside


def fit_axis(label: str, values: Iterable[float], *, log: bool = False, zero: bool = False) -> Axis:
    """An axis that holds all values with a little room around them; `zero` makes it begin there."""
    kept = list(values)
    low, high = min(kept), max(kept)
    if log:
        room = max(1.15, (high / low) ** 0.08)
        return Axis(label=label, low=low / room, high=high * room, log=True)
    room = 0.06 * (high - low) or abs(high) or 1.0
    return Axis(label=label, low=0.0 if zero else low - room, high=high + room)


@dataclass(frozen=True, kw_only=True)
class Series:
    """Points of one kind; `names` are their tooltips, `style` chooses colour and shape, from 0."""

    name: str
    points: Sequence[tuple[float, float]]
    style: int
    names: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line across a plot that says something of its own, such as a limit; in data coordinates."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A finished plot and its legend: (style, name) of each series, and what its marks are."""

    svg: str
    legend: Sequence[tuple[int, str]] = field(default_factory=tuple)
    marks: Literal["dots", "lines", "parts"] = "dots"


def scatter(
    name: str,
    title: str,
    description: str,
    axes: tuple[Axis, Axis],
    series: Sequence[Series],
    *,
    lines: Sequence[Line] = (),
    labels: Sequence[tuple[float, float, str]] = (),
    paths: Sequence[Sequence[tuple[float, float]]] = (),
) -> Plot:
    """Draw points.

    Args:
        name: id of the plot in its page.
        title: what it shows, for screen readers.
        description: what is to be seen in it, for screen readers.
        axes: x and y.
        series: the points.
        lines: reference lines, named on the plot.
        labels: (x, y, text) written beside points; those that would hide another are left out.
        paths: points that belong together, joined by a thin line.
    """
    spot = _Frame(axes)
    parts = [spot.draw()]
    parts += [f'<polyline class="join" points="{spot.points(path)}"/>' for path in paths]
    parts += [_reference(spot, line) for line in lines]
    for one in series:
        names = one.names or [one.name] * len(one.points)
        for (x, y), text in zip(one.points, names, strict=True):
            parts.append(f"<g><title>{escape(text)}</title>{marker(one.style, spot.x(x), spot.y(y))}</g>")
    parts += _place_labels(spot, labels, [point for one in series for point in one.points])
    return Plot(
        svg=wrap_svg(name, title, description, _HEIGHT, parts),
        legend=[(one.style, one.name) for one in series if one.name],
    )


def curves(name: str, title: str, description: str, axes: tuple[Axis, Axis], series: Sequence[Series]) -> Plot:
    """Draw lines, each with a dash of its own and its shape on the last point; arguments as for `scatter`."""
    spot = _Frame(axes)
    parts = [spot.draw()]
    for one in series:
        places = "L".join(spot.points(one.points).split())
        parts.append(_curve(f"M{places}", one.style))
        x, y = one.points[-1]
        text = f"{one.name}: {y:.4g} at the end"
        parts.append(f"<g><title>{escape(text)}</title>{marker(one.style, spot.x(x), spot.y(y))}</g>")
    legend = [(one.style, one.name) for one in series]
    return Plot(svg=wrap_svg(name, title, description, _HEIGHT, parts), legend=legend, marks="lines")


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A bar of parts: (style, name, value) each, and a mark beside it, if any."""

    name: str
    parts: Sequence[tuple[int, str, float]]
    mark: float | None = None


def bars(name: str, title: str, description: str, label: str, rows: Sequence[Bar], mark: str) -> Plot:
    """Draw stacked horizontal bars with a mark on each.

    Args:
        name: id of the plot in its page.
        title: what it shows, for screen readers.
        description: what is to be seen in it, for screen readers.
        label: what the axis shows, with its unit.
        rows: the bars, from top to bottom.
        mark: what the marks are.
    """
    totals = [sum(value for *_, value in row.parts) for row in rows]
    marks = [row.mark for row in rows if row.mark is not None]
    axis = fit_axis(label, [0.0, *totals, *marks], zero=True)
    height = TOP + ROW * len(rows) + BOTTOM
    bottom, span = height - BOTTOM, WIDTH - NAME - RIGHT
    parts = [grid_x(axis, NAME, span, TOP, bottom)]
    for number, row in enumerate(rows):
        y, x = TOP + ROW * number, float(NAME)
        parts.append(f'<text x="{NAME - 6}" y="{y + ROW / 2 + 4}" text-anchor="end">{escape(row.name)}</text>')
        for style, text, value in row.parts:
            wide = span * value / axis.high
            shown = escape(f"{row.name}: {text} {value:,.0f}")
            parts.append(
                f'<g><title>{shown}</title><rect class="part s{style % SERIES + 1}" '
                f'x="{x:.1f}" y="{y + 4}" width="{wide:.1f}" height="{ROW - 8}"/></g>'
            )
            x += wide
        if row.mark is not None:
            text = f"{row.name}: {mark} {row.mark:,.0f}"
            parts.append(mark_line(text, NAME + span * axis.place(row.mark), y, ROW))
    legend = dict.fromkeys((style, text) for row in rows for style, text, _ in row.parts)
    return Plot(svg=wrap_svg(name, title, description, height, parts), legend=list(legend), marks="parts")


def marker(style: int, x: float, y: float, size: float = 5) -> str:
    """The shape of a series: circle, square, triangle, diamond, cross, triangle on its head."""
    a, shape = size, style % SERIES
    path = {
        1: f"M{x - a:.1f} {y - a:.1f}h{2 * a}v{2 * a}h{-2 * a}z",
        2: f"M{x:.1f} {y - 1.2 * a:.1f}l{1.2 * a} {2.1 * a}h{-2.4 * a}z",
        3: f"M{x:.1f} {y - 1.4 * a:.1f}l{1.4 * a} {1.4 * a}l{-1.4 * a} {1.4 * a}l{-1.4 * a} {-1.4 * a}z",
        4: f"M{x - a / 2:.1f} {y - 1.2 * a:.1f}h{a}v{0.7 * a}h{0.7 * a}v{a}h{-0.7 * a}v{0.7 * a}h{-a}v{-0.7 * a}"
        f"h{-0.7 * a}v{-a}h{0.7 * a}z",
        5: f"M{x:.1f} {y + 1.2 * a:.1f}l{1.2 * a} {-2.1 * a}h{-2.4 * a}z",
    }.get(shape)
    kind = f'class="dot s{shape + 1}"'
    return f'<path {kind} d="{path}"/>' if path else f'<circle {kind} cx="{x:.1f}" cy="{y:.1f}" r="{a}"/>'


def mark_line(text: str, x: float, y: float, height: float) -> str:
    """A line with a triangle on its top, in a row that begins at y."""
    return (
        f'<g><title>{escape(text)}</title><path class="mark" d="M{x:.1f} {y + 1:g}V{y + height - 1:g}"/>'
        f'<path class="mark-head" d="M{x - 4:.1f} {y:g}h8l-4 6z"/></g>'
    )


def swatch(plot: Plot, style: int) -> str:
    """The mark of a series in the legend of its plot, as SVG of its own."""
    drawn = {
        "dots": marker(style, 10, 7),
        "lines": f"{_curve('M1 7H29', style)}{marker(style, 22, 7, 4)}",
        "parts": f'<rect class="part s{style % SERIES + 1}" x="2" y="1" width="16" height="12"/>',
    }[plot.marks]
    return f'<svg viewBox="0 0 {30 if plot.marks == "lines" else 20} 14" aria-hidden="true">{drawn}</svg>'


def _curve(path: str, style: int) -> str:
    dash = _DASHES[style % SERIES]
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<path class="line s{style % SERIES + 1}" d="{path}"{dashes}/>'


def wrap_svg(name: str, title: str, description: str, height: float, parts: Sequence[str]) -> str:
    """A plot with its title and description; one that is tall may take more of a printed page."""
    look = "plot tall" if height > 1.2 * _HEIGHT else "plot"
    return (
        f'<svg class="{look}" viewBox="0 0 {WIDTH} {height:g}" role="img" aria-labelledby="{name}-t {name}-d">'
        f'<title id="{name}-t">{escape(title)}</title><desc id="{name}-d">{escape(description)}</desc>'
        f"{''.join(parts)}</svg>"
    )


class _Frame:
    """The area inside two axes, and where a value lies in it."""

    def __init__(self, axes: tuple[Axis, Axis]) -> None:
        self.axes = axes
        self.right, self.bottom = WIDTH - RIGHT, _HEIGHT - BOTTOM

    def x(self, value: float) -> float:
        return _LEFT + self.axes[0].place(value) * (self.right - _LEFT)

    def y(self, value: float) -> float:
        return self.bottom - self.axes[1].place(value) * (self.bottom - TOP)

    def points(self, values: Iterable[tuple[float, float]]) -> str:
        return " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in values)

    def draw(self) -> str:
        up = self.axes[1]
        ticks = "".join(
            f'<path class="grid" d="M{_LEFT} {self.y(tick):.1f}H{self.right}"/>'
            f'<text x="{_LEFT - 6}" y="{self.y(tick) + 4:.1f}" text-anchor="end">{_short(tick)}</text>'
            for tick in up.ticks()
        )
        name = (
            f'<text class="axis" transform="translate(12 {(TOP + self.bottom) / 2}) rotate(-90)" '
            f'text-anchor="middle">{escape(up.label)}</text>'
        )
        return grid_x(self.axes[0], _LEFT, self.right - _LEFT, TOP, self.bottom) + ticks + name


def grid_x(axis: Axis, left: float, span: float, top: float, bottom: float) -> str:
    """Upright lines at the ticks of an axis, with their values and its label below."""
    ticks = [(left + span * axis.place(tick), _short(tick)) for tick in axis.ticks()]
    drawn = "".join(
        f'<path class="grid" d="M{x:.1f} {top}V{bottom}"/>'
        f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{text}</text>'
        for x, text in ticks
    )
    middle = left + span / 2
    return f'{drawn}<text class="axis" x="{middle}" y="{bottom + 36}" text-anchor="middle">{escape(axis.label)}</text>'


def _reference(spot: _Frame, line: Line) -> str:
    x, y = line.points[-1]
    return (
        f'<polyline class="reference" points="{spot.points(line.points)}"/>'
        f'<text class="reference-name" x="{spot.x(x) - 4:.1f}" y="{spot.y(y) - 6:.1f}" text-anchor="end">'
        f"{escape(line.name)}</text>"
    )


def _place_labels(
    spot: _Frame, labels: Sequence[tuple[float, float, str]], points: Sequence[tuple[float, float]]
) -> list[str]:
    """Write each label where it hides no mark and no other label: right, left, above or below its point."""
    taken = [(spot.x(x) - 6, spot.y(y) - 6, spot.x(x) + 6, spot.y(y) + 6) for x, y in points]
    written = []
    for x, y, text in labels:
        wide, at, up = LETTER * len(text), spot.x(x), spot.y(y)
        for left, base in (
            (at + 9, up + 4),
            (at - 9 - wide, up + 4),
            (at - wide / 2, up - 10),
            (at - wide / 2, up + 19),
            (at + 9, up - 8),
            (at + 9, up + 16),
        ):
            box = (left, base - 10, left + wide, base + 3)
            inside = box[0] >= _LEFT and box[2] <= spot.right and box[1] >= TOP and box[3] <= spot.bottom
            if inside and not any(_meet(box, other) for other in taken):
                taken.append(box)
                written.append(f'<text class="name" x="{left:.1f}" y="{base:.1f}">{escape(text)}</text>')
                break
    return written


def _meet(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _short(value: float) -> str:
    """A tick in few letters: 1500 as 1.5k."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1000:g}k" if abs(value) >= 1000 else f"{value:.3g}"
