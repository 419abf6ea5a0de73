"""Pictures for people: learning curves and overlays. Drawn off screen, never shown."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segkit.dataset import IGNORE
from segkit.errors import MissingExtra
from segkit.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = (
    "#00000000",
    "#56b4e9",
    "#e69f00",
    "#f0e442",
    "#cc79a7",
    "#009e73",
    "#d55e00",
    "#0072b2",
    "#999999",
    "#661100",
)
"""Colours of the classes, background clear: Okabe and Ito's palette, told apart by colour-blind people."""

_OPACITY = 0.55


def save_learning_curve(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draw training loss and held-out Dice by epoch.

    Args:
        path: a PNG file.
        rows: records of metrics.csv.
    """
    figure = _figure(9, 3.6)
    left, right = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in rows]
    left.plot(epochs, [row["loss"] for row in rows], marker=".", color="#0072b2")
    left.set(title="training loss", xlabel="epoch")
    names = [key for key in rows[0] if key.startswith("dice_")][1:]
    for index, key in enumerate(names, start=1):
        colour = COLOURS[1 + (index - 1) % (len(COLOURS) - 1)]
        right.plot(epochs, [row[key] for row in rows], marker=".", color=colour, label=key.removeprefix("dice_"))
    right.plot(epochs, [row["mean_dice"] for row in rows], marker=".", color="black", linestyle="--", label="mean")
    right.set(title="Dice on held-out volumes", xlabel="epoch", ylim=(0, 1))
    right.legend(loc="lower right", frameon=False)
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    _save(figure, path)


def save_overlay(
    path: Path,
    image: NDArray[Any],
    labels: NDArray[np.uint8],
    truth: NDArray[np.uint8] | None = None,
    names: Sequence[str] = (),
    title: str = "",
) -> None:
    """Draw the three middle planes of a volume: image, truth if there is one, and segmentation.

    Args:
        path: a PNG file.
        image: (X, Y, Z) intensities in canonical orientation.
        labels: (X, Y, Z) class indices.
        truth: (X, Y, Z) class indices, 255 = ignored.
        names: names of the classes, for the legend.
        title: printed above.
    """
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    layers = [("image", None), *([("truth", truth)] if truth is not None else []), ("segmentation", labels)]
    figure = _figure(9, 2.9 * len(layers) + 0.5)
    rows = figure.subplots(len(layers), 3)
    low, high = np.percentile(image[image != 0], (1, 99)) if image.any() else (0.0, 1.0)
    colours = ListedColormap([COLOURS[i % len(COLOURS)] for i in range(max(len(names), int(labels.max()) + 1))])
    centre = _centre(labels if labels.any() else image != 0)
    for (name, layer), axes in zip(layers, rows, strict=True):
        for axis, plane in enumerate(axes):
            cut = (slice(None),) * axis + (centre[axis],)
            plane.imshow(image[cut].T, cmap="gray", vmin=low, vmax=high, origin="lower")
            if layer is not None:
                shown = np.where(layer[cut] == IGNORE, 0, layer[cut])
                plane.imshow(
                    shown.T,
                    cmap=colours,
                    vmin=0,
                    vmax=colours.N - 1,
                    origin="lower",
                    alpha=_OPACITY,
                    interpolation="nearest",
                )
            plane.set_axis_off()
        axes[0].set_title(name, loc="left")
    if len(names) > 1:
        handles = [Patch(color=COLOURS[i % len(COLOURS)], label=name) for i, name in enumerate(names) if i]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    figure.suptitle(title)
    _save(figure, path)


def _centre(mask: NDArray[Any]) -> tuple[int, int, int]:
    """Middle of the box around everything that is not zero."""
    middle = []
    for axis in range(3):
        inside = np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))
        middle.append(int(inside[[0, -1]].mean()) if inside.size else mask.shape[axis] // 2)
    return middle[0], middle[1], middle[2]


def _figure(width: float, height: float) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtra("matplotlib", "report", "drawing pictures") from None
    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Figure, path: Path) -> None:
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=110, facecolor="white")
    write_bytes(path, png.getvalue())
