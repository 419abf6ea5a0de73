"""Contrast: what the timing of a pulse sequence makes of one slice. Data sets that know the physics compute it.

A data set's card names a function `contrast(seed) -> Sequence[ContrastSeries]`; the same seed gives the same arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.pictures import AXIAL, Panel, class_colour, new_figure, save_figure, save_panels


@dataclass(frozen=True, kw_only=True)
class ContrastSlice:
    """One axial slice under one setting of a sequence.

    Attributes:
        title: the setting with its units.
        image: (X, Y) float32, magnitude of the signal relative to that of fully relaxed water; 0 is drawn black.
        signals: tissue -> its noiseless signal, signed: below 0 where inverted magnetisation has not recovered.
    """

    title: str
    image: NDArray[np.float32]
    signals: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class ContrastCurve:
    """Signals against one parameter of a sequence.

    Attributes:
        parameter: its name and unit.
        values: (N,) in that unit.
        signals: tissue -> (N,) noiseless signals, signed, relative to that of fully relaxed water.
        pictured: the values that the slices were taken at.
        marks: what happens -> the value it happens at, such as the inversion time that nulls a tissue.
    """

    parameter: str
    values: NDArray[np.float64]
    signals: Mapping[str, NDArray[np.float64]]
    pictured: tuple[float, ...]
    marks: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ContrastSeries:
    """How contrast changes with the parameters of one sequence.

    Attributes:
        name: unique; names the files.
        title: the sequence, what is varied, and what stays.
        rows: the slices, as many in each row.
        spacing_mm: their voxel size (x, y).
        curve: the same as curves, where one parameter alone is varied.
    """

    name: str
    title: str
    rows: Sequence[Sequence[ContrastSlice]]
    spacing_mm: tuple[float, float]
    curve: ContrastCurve | None = None


def draw_contrast(series: ContrastSeries, folder: Path) -> dict[str, Any]:
    """Draw the slices of a series, each from black at 0 to white at its own brightest, and its curves.

    Args:
        series: what to draw.
        folder: where NAME.png and NAME-curves.png go.

    Returns:
        What the pictures show, for JSON.
    """
    panels = [
        [
            Panel(
                image=one.image,
                axis=AXIAL,
                title=one.title,
                window=(0.0, float(np.quantile(one.image, 0.995))),
                spacing_mm=series.spacing_mm,
            )
            for one in row
        ]
        for row in series.rows
    ]
    files = [f"{series.name}.png"]
    save_panels(folder / files[0], panels, title=series.title, scale_bar=True)
    if series.curve:
        files.append(f"{series.name}-curves.png")
        _draw_curves(folder / files[1], series.curve, series.title)
    return {
        "files": files,
        "shows": series.title,
        "slices": [{"title": one.title, "signals": dict(one.signals)} for row in series.rows for one in row],
        "marks": dict(series.curve.marks) if series.curve else {},
    }


def _draw_curves(path: Path, curve: ContrastCurve, title: str) -> None:
    figure = new_figure(7.5, 4.6)
    axes = figure.subplots()
    for index, (tissue, signals) in enumerate(curve.signals.items(), start=1):
        axes.plot(curve.values, signals, color=class_colour(index), label=tissue)
    for value in curve.pictured:
        axes.axvline(value, color="#999999", linewidth=0.8, linestyle=":")
    axes.plot([], [], color="#999999", linewidth=0.8, linestyle=":", label="slices")
    axes.axhline(0, color="black", linewidth=0.8)
    for number, (name, value) in enumerate(curve.marks.items()):
        axes.plot(value, 0, "o", color="black", markersize=4)
        below = (0, -14 - 11 * (number % 2))
        white = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        axes.annotate(name, (value, 0), below, textcoords="offset points", ha="center", fontsize=8, bbox=white)
    axes.set(xlabel=curve.parameter, ylabel="signal / that of fully relaxed water")
    axes.margins(x=0)
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    figure.suptitle(title)
    save_figure(figure, path)
