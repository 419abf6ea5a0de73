"""What pictures promise, read back from the PNG: the right side is right, and classes have colours of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from segkit.pictures import (
    AXIAL,
    COLOURS,
    CORONAL,
    SAGITTAL,
    Panel,
    class_colour,
    cut,
    grey_window,
    save_dice_curve,
    save_learning_curve,
    save_loss_curve,
    save_overlay,
    save_panels,
)

ROWS = [
    {"epoch": n, "loss": 1 / n, "validation_loss": 2 / n, "mean_dice": 0.5, "dice_background": 1.0, "dice_CSF": 0.5}
    for n in (1, 2, 3)
]


def pixels(path: Path, colour: str) -> np.ndarray:
    """(N, 2) rows and columns of the pixels of a colour."""
    return np.argwhere(np.abs(imread(path)[..., :3] - to_rgb(colour)).max(-1) < 0.02)


@pytest.mark.parametrize("axis", [SAGITTAL, CORONAL, AXIAL])
def test_a_plane_grows_to_the_right_and_upwards(axis: int, tmp_path: Path) -> None:
    volume = np.zeros((10, 10, 10), bool)
    volume[8, 8, 8] = True
    image = np.ones((10, 10, 10), np.float32)
    panel = Panel(image=cut(image, axis, 8), axis=axis, marked=cut(volume, axis, 8))
    save_panels(tmp_path / "p.png", [[panel]])
    height, width = imread(tmp_path / "p.png").shape[:2]
    row, column = pixels(tmp_path / "p.png", "#ff2020").mean(0)
    assert row < height / 2
    assert column > width / 2


def test_thick_slices_are_drawn_thick(tmp_path: Path) -> None:
    marked = np.ones((10, 10), bool)
    panel = Panel(image=marked.astype(float), axis=CORONAL, marked=marked, spacing_mm=(1.0, 3.0))
    save_panels(tmp_path / "p.png", [[panel]], scale_bar=False)
    rows, columns = np.ptp(pixels(tmp_path / "p.png", "#ff2020"), axis=0)
    assert rows / columns == pytest.approx(3, rel=0.05)


def test_each_of_nine_classes_has_its_own_colour_and_background_none() -> None:
    assert class_colour(0).endswith("00")
    assert [class_colour(index) for index in range(1, 10)] == list(COLOURS)
    assert len(set(COLOURS)) == 9


def test_a_tenth_class_is_not_drawn_as_background() -> None:
    assert class_colour(10) == class_colour(1)


def test_the_legend_names_foreground_and_ignored_voxels_alone(tmp_path: Path) -> None:
    image, labels = np.zeros((12, 12, 12)), np.zeros((12, 12, 12), np.uint8)
    save_overlay(tmp_path / "plain.png", image, labels, names=["background", "CSF"])
    assert len(pixels(tmp_path / "plain.png", COLOURS[0])) > 20
    assert not len(pixels(tmp_path / "plain.png", COLOURS[1]))


def test_an_overlay_has_a_row_for_the_truth_only_where_there_is_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image, labels = rng.normal(size=(12, 14, 10)), rng.integers(0, 12, (12, 14, 10)).astype(np.uint8)
    truth = labels.copy()
    truth[0] = 255
    save_overlay(tmp_path / "two.png", image, labels)
    save_overlay(tmp_path / "three.png", image, labels, truth, [str(index) for index in range(12)], "title")
    assert imread(tmp_path / "three.png").shape[0] > 1.3 * imread(tmp_path / "two.png").shape[0]


def test_voxels_that_are_no_cubes_are_drawn_as_long_as_they_are(tmp_path: Path) -> None:
    """The same ball in voxels of another shape is the same ball in the picture."""
    shown = {}
    for name, spacing_mm in {"cubes": (1, 1, 1), "slabs": (1, 2, 4)}.items():
        shape = tuple(48 // side for side in spacing_mm)
        grid = np.meshgrid(
            *[(np.arange(n) + 0.5) * s - 24 for n, s in zip(shape, spacing_mm, strict=True)], indexing="ij"
        )
        ball = (sum(axis**2 for axis in grid) < 20**2).astype(np.uint8)
        save_overlay(tmp_path / f"{name}.png", ball * 9.0, ball, spacing_mm=spacing_mm)
        shown[name] = imread(tmp_path / f"{name}.png").shape[:2]
    assert shown["cubes"] == pytest.approx(shown["slabs"], rel=0.03)


@pytest.mark.parametrize("image", [np.zeros((4, 4)), np.full((4, 4), 7.0)], ids=["nothing", "one value"])
def test_an_image_without_contrast_is_drawn(image: np.ndarray, tmp_path: Path) -> None:
    save_panels(tmp_path / "p.png", [[Panel(image=image, axis=AXIAL)]], scale_bar=True, colour_bar="value")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_the_window_leaves_background_and_outliers_out() -> None:
    image = np.concatenate([np.zeros(1000), np.arange(1, 1001), [1e6]])
    assert grey_window(image) == pytest.approx((11, 991), abs=1)


def test_curves_have_a_line_for_each_class_and_each_loss(tmp_path: Path) -> None:
    save_dice_curve(tmp_path / "dice.png", ROWS, "net on data")
    save_loss_curve(tmp_path / "loss.png", ROWS, "net on data")
    save_learning_curve(tmp_path / "both.png", ROWS)
    for name in ("dice.png", "both.png"):
        assert len(pixels(tmp_path / name, class_colour(1))) > 50
        assert not len(pixels(tmp_path / name, class_colour(2)))
    for name in ("loss.png", "both.png"):
        assert len(pixels(tmp_path / name, "#0072b2")) > 50
        assert len(pixels(tmp_path / name, "#d55e00")) > 50


def test_a_curve_of_one_epoch_without_a_class_is_drawn(tmp_path: Path) -> None:
    save_dice_curve(tmp_path / "dice.png", [{**ROWS[0], "dice_CSF": float("nan"), "mean_dice": float("nan")}], "net")
    assert (tmp_path / "dice.png").read_bytes().startswith(b"\x89PNG")
