"""Pictures for people: learning curves, and planes of volumes with labels over them. Drawn off screen, never shown.

Planes are drawn as seen from the patient's own side (neurological convention: left is left), with letters that say so.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segkit.dataset import IGNORE
from segkit.errors import MissingExtra
from segkit.files import write_bytes
from segkit.patches import bounding_box

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = (
    "#56b4e9",
    "#e69f00",
    "#009e73",
    "#cc79a7",
    "#0072b2",
    "#d55e00",
    "#f0e442",
    "#999999",
    "#661100",
)
"""Colours of the classes but background, in turn: Okabe and Ito's palette, told apart by colour-blind people.

Yellow comes late: as a line on white it is hard to see."""

SAGITTAL, CORONAL, AXIAL = 0, 1, 2
"""The array axis that each plane of a canonical volume is cut across."""

_CLEAR = "#00000000"
_IGNORED = "#ffffff"
_MARKED = "#ff2020"
_OPACITY = 0.55
_LETTERS = {SAGITTAL: "PAIS", CORONAL: "LRIS", AXIAL: "LRPA"}
"""Of each plane, what lies to the left, to the right, below and above."""

_DICE, _LOSSES = "Dice on whole held-out volumes", "mean loss of an epoch"

_PANEL_INCHES = 2.4
_DPI = 110


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One plane of a volume.

    Attributes:
        image: (U, V) values; both axes grow to the right of, to the front of or above the patient.
        axis: the array axis that was cut away: `SAGITTAL`, `CORONAL` or `AXIAL`.
        title: printed above.
        labels: (U, V) class indices to draw over it, 255 = ignored.
        marked: (U, V), voxels to draw red; the title says why.
        window: values drawn black and white; None takes the 1st and 99th percentile of what is not zero.
        spacing_mm: voxel size along both axes.
        cross: position (u, v) of a mark.
    """

    image: NDArray[Any]
    axis: int
    title: str = ""
    labels: NDArray[np.uint8] | None = None
    marked: NDArray[np.bool_] | None = None
    window: tuple[float, float] | None = None
    spacing_mm: tuple[float, float] = (1.0, 1.0)
    cross: tuple[int, int] | None = None

    @property
    def size_mm(self) -> tuple[float, float]:
        """Width and height."""
        u, v = self.image.shape
        return u * self.spacing_mm[0], v * self.spacing_mm[1]


def class_colour(index: int) -> str:
    """Colour of a class by its index; background is clear."""
    return COLOURS[(index - 1) % len(COLOURS)] if index else _CLEAR


def save_learning_curve(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draw losses and held-out Dice by epoch, side by side.

    Args:
        path: a PNG file.
        rows: records of metrics.csv.
    """
    figure = new_figure(10, 3.8)
    left, right = figure.subplots(1, 2)
    _plot_losses(left, rows, _LOSSES)
    _plot_dice(right, rows, _DICE)
    save_figure(figure, path)


def save_dice_curve(path: Path, rows: Sequence[Mapping[str, Any]], title: str) -> None:
    """Draw the Dice of each class and their mean on whole held-out volumes by epoch, 0 to 100.

    Args:
        path: a PNG file.
        rows: records of metrics.csv.
        title: what was trained.
    """
    figure = new_figure(7, 4.6)
    _plot_dice(figure.subplots(), rows, f"{title}: {_DICE}")
    save_figure(figure, path)


def save_loss_curve(path: Path, rows: Sequence[Mapping[str, Any]], title: str) -> None:
    """Draw training and validation loss by epoch; arguments as for `save_dice_curve`."""
    figure = new_figure(7, 4.6)
    _plot_losses(figure.subplots(), rows, f"{title}: {_LOSSES}")
    save_figure(figure, path)


def save_overlay(
    path: Path,
    image: NDArray[Any],
    labels: NDArray[np.uint8],
    truth: NDArray[np.uint8] | None = None,
    names: Sequence[str] = (),
    title: str = "",
    *,
    spacing_mm: Sequence[float] = (1.0, 1.0, 1.0),
) -> None:
    """Draw the three middle planes of a volume: image, truth if there is one, and segmentation.

    Args:
        path: a PNG file.
        image: (X, Y, Z) intensities in canonical orientation.
        labels: (X, Y, Z) class indices.
        truth: (X, Y, Z) class indices, 255 = ignored.
        names: names of the classes, for the legend.
        title: printed above.
        spacing_mm: voxel size along X, Y and Z.
    """
    shown = [("image", None), *([("truth", truth)] if truth is not None else []), ("segmentation", labels)]
    centre = _centre(labels if labels.any() else image != 0)
    window = grey_window(image)
    rows = [
        [
            Panel(
                image=cut(image, axis, centre[axis]),
                axis=axis,
                title=name if axis == SAGITTAL else "",
                labels=None if layer is None else cut(layer, axis, centre[axis]),
                window=window,
                spacing_mm=(spacing_mm[axis == SAGITTAL], spacing_mm[1 + (axis != AXIAL)]),
            )
            for axis in (SAGITTAL, CORONAL, AXIAL)
        ]
        for name, layer in shown
    ]
    save_panels(path, rows, names=names, title=title)


def save_panels(
    path: Path,
    rows: Sequence[Sequence[Panel]],
    *,
    names: Sequence[str] = (),
    title: str = "",
    scale_bar: bool = False,
    colour_bar: str = "",
) -> None:
    """Draw planes in rows, on one scale.

    Args:
        path: a PNG file.
        rows: the planes; as many in each row.
        names: names of the classes, background first, for the legend.
        title: printed above.
        scale_bar: whether the first plane says how long some millimetres are.
        colour_bar: what the values of the planes are, where each row shall say which grey is which.
    """
    widths = [max(panel.size_mm[0] for panel in column) for column in zip(*rows, strict=True)]
    heights = [max(panel.size_mm[1] for panel in row) for row in rows]
    inches = _PANEL_INCHES / max(*widths, *heights)
    figure = new_figure(
        inches * sum(widths) + 0.15 * len(widths) + 0.5 * bool(colour_bar),
        inches * sum(heights) + 0.35 * len(rows) + 0.8,
    )
    grid = figure.subplots(len(rows), len(widths), squeeze=False, width_ratios=widths, height_ratios=heights)
    for row, row_axes in zip(rows, grid, strict=True):
        for number, (panel, axes) in enumerate(zip(row, row_axes, strict=True)):
            drawn = _draw(panel, axes)
            if number == 0 or panel.axis != row[number - 1].axis:
                _letter(axes, panel.axis)
        if colour_bar:
            figure.colorbar(drawn, ax=list(row_axes), label=colour_bar, fraction=0.03, pad=0.01, aspect=15)
    if scale_bar:
        _scale(grid[0][0], rows[0][0])
    _legend(figure, names, [panel for row in rows for panel in row])
    figure.suptitle(title)
    save_figure(figure, path)


def cut(volume: NDArray[Any], axis: int, index: int) -> NDArray[Any]:
    """The plane (U, V) of a volume (X, Y, Z) at an index of one of its axes."""
    flat: NDArray[Any] = volume[(slice(None),) * axis + (index,)]
    return flat


def grey_window(image: NDArray[Any]) -> tuple[float, float]:
    """Values to draw black and white: the 1st and 99th percentile of what is not zero."""
    if not image.any():
        return 0.0, 1.0
    low, high = np.percentile(image[image != 0], (1, 99))
    return float(low), float(high)


def new_figure(width: float, height: float) -> Figure:
    """A figure of a size in inches.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtra("matplotlib", "report", "drawing pictures") from None
    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG file."""
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=_DPI, facecolor="white")
    write_bytes(path, png.getvalue())


def _plot_losses(axes: Axes, rows: Sequence[Mapping[str, Any]], title: str) -> None:
    epochs = [row["epoch"] for row in rows]
    axes.plot(epochs, [row["loss"] for row in rows], marker=".", color="#0072b2", label="training patches")
    losses = [row["validation_loss"] for row in rows]
    axes.plot(epochs, losses, marker=".", color="#d55e00", linestyle="--", label="held-out patches")
    axes.set(title=title, xlabel="epoch", ylabel="loss")
    _finish(axes)


def _plot_dice(axes: Axes, rows: Sequence[Mapping[str, Any]], title: str) -> None:
    epochs = [row["epoch"] for row in rows]
    names = [key for key in rows[0] if key.startswith("dice_")][1:]
    for index, key in enumerate(names, start=1):
        percent = [100 * row[key] for row in rows]
        axes.plot(epochs, percent, marker=".", color=class_colour(index), label=key.removeprefix("dice_"))
    mean = [100 * row["mean_dice"] for row in rows]
    axes.plot(epochs, mean, marker=".", color="black", linestyle="--", label="mean")
    axes.set(title=title, xlabel="epoch", ylabel="Dice, %", ylim=(0, 100))
    _finish(axes)


def _finish(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)


def _draw(panel: Panel, axes: Axes) -> Any:
    from matplotlib.colors import ListedColormap

    def show(values: NDArray[Any], **how: Any) -> Any:
        return axes.imshow(
            values.T, origin="lower", aspect=panel.spacing_mm[1] / panel.spacing_mm[0], interpolation="nearest", **how
        )

    low, high = panel.window or grey_window(panel.image)
    drawn = show(panel.image, cmap="gray", vmin=low, vmax=high)
    if panel.labels is not None:
        # Ignored voxels come after the last class.
        last = int(panel.labels[panel.labels != IGNORE].max(initial=0)) + 1
        colours = ListedColormap([*map(class_colour, range(last)), _IGNORED])
        shown = np.where(panel.labels == IGNORE, last, panel.labels)
        show(np.ma.masked_equal(shown, 0), cmap=colours, vmin=-0.5, vmax=last + 0.5, alpha=_OPACITY)
    if panel.marked is not None:
        show(np.ma.masked_equal(panel.marked, 0), cmap=ListedColormap([_MARKED]))
    if panel.cross is not None:
        axes.plot(*panel.cross, marker="+", markersize=12, markeredgewidth=1.5, color=_MARKED)
    axes.set_title(panel.title, loc="left", fontsize=9)
    axes.set_axis_off()
    return drawn


def _letter(axes: Axes, axis: int) -> None:
    """Write which side of the patient each edge of a plane is."""
    across = ("left", "center", 0.01, 0.5), ("right", "center", 0.99, 0.5)
    upright = ("center", "bottom", 0.5, 0.01), ("center", "top", 0.5, 0.99)
    for letter, (horizontal, vertical, x, y) in zip(_LETTERS[axis], across + upright, strict=True):
        _write(axes, x, y, letter, ha=horizontal, va=vertical)


def _scale(axes: Axes, panel: Panel) -> None:
    """Draw how long some millimetres are: the largest round number that fits into a third of the plane."""
    width_mm = panel.size_mm[0]
    length_mm = max(n for n in (1, 2, 5, 10, 20, 50) if n <= max(1, width_mm / 3))
    axes.plot([0.04, 0.04 + length_mm / width_mm], [0.04, 0.04], transform=axes.transAxes, color="white", linewidth=2)
    _write(axes, 0.04, 0.06, f"{length_mm} mm", ha="left", va="bottom")


def _write(axes: Axes, x: float, y: float, text: str, **how: Any) -> None:
    from matplotlib.patheffects import withStroke

    outline = [withStroke(linewidth=2, foreground="black")]
    axes.text(x, y, text, transform=axes.transAxes, color="white", fontsize=8, path_effects=outline, **how)


def _legend(figure: Figure, names: Sequence[str], panels: Sequence[Panel]) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=class_colour(index), label=name) for index, name in enumerate(names) if index]
    if any(panel.labels is not None and (panel.labels == IGNORE).any() for panel in panels):
        handles.append(Patch(facecolor=_IGNORED, edgecolor="black", label="ignored"))
    if handles:
        columns = min(len(handles), max(1, math.floor(figure.get_figwidth() / 1.2)))
        figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)


def _centre(mask: NDArray[Any]) -> tuple[int, int, int]:
    """Middle of the box around everything that is not zero."""
    box = bounding_box(mask)
    x, y, z = (
        (side.start + side.stop - 1) // 2 if side.stop else size // 2
        for side, size in zip(box, mask.shape, strict=True)
    )
    return x, y, z
