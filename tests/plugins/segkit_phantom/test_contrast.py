"""The physics of the contrast pictures, on their arrays: medians over voxels of one tissue."""

from __future__ import annotations

import numpy as np
import pytest

from segkit.contrast import ContrastSeries, ContrastSlice
from segkit_phantom.contrast import contrast
from segkit_phantom.template import Template

Series = dict[str, ContrastSeries]
PICTURED = ("CSF", "GM", "WM", "lesion")
"""Tissues that fill whole voxels; fat is thin."""


@pytest.fixture(scope="module")
def series(template: Template) -> Series:
    return {one.name: one for one in contrast(3)}


def pictures(series: ContrastSeries) -> list[ContrastSlice]:
    return [one for row in series.rows for one in row]


@pytest.fixture(scope="module")
def masks(series: Series) -> dict[str, np.ndarray]:
    """Voxels of one tissue: those that have its signal under two sequences that tell it from all others."""
    t1_weighted, t2_weighted = series["t1-tr"].rows[0][1], series["t2-te"].rows[0][2]

    def like(name: str) -> np.ndarray:
        pairs = [(one.image, one.signals[name]) for one in (t1_weighted, t2_weighted)]
        return np.logical_and.reduce([np.abs(image - signal) < 0.02 for image, signal in pairs])

    found = {name: like(name) for name in PICTURED}
    assert all(mask.sum() > 30 for mask in found.values()), {name: mask.sum() for name, mask in found.items()}
    return found


def level(one: ContrastSlice, mask: np.ndarray) -> float:
    return float(np.median(one.image[mask]))


@pytest.mark.parametrize("tissue", PICTURED)
def test_every_slice_shows_the_magnitude_of_the_signal(
    series: Series, masks: dict[str, np.ndarray], tissue: str
) -> None:
    for one in (picture for each in series.values() for picture in pictures(each)):
        assert level(one, masks[tissue]) == pytest.approx(abs(one.signals[tissue]), abs=0.02), one.title


def test_a_short_repetition_time_is_t1_weighted(series: Series, masks: dict[str, np.ndarray]) -> None:
    short = series["t1-tr"].rows[0][1]
    assert short.title == "TR 340 ms"
    csf, gm, wm = (level(short, masks[name]) for name in ("CSF", "GM", "WM"))
    assert csf < gm < wm < short.signals["fat"]


def test_a_long_echo_time_is_t2_weighted(series: Series, masks: dict[str, np.ndarray]) -> None:
    short, *_, long = series["t2-te"].rows[0]
    csf, gm, wm = (level(long, masks[name]) for name in ("CSF", "GM", "WM"))
    assert csf > 5 * gm > 5 * wm
    assert level(short, masks["CSF"]) < 1.1 * level(short, masks["WM"])


def test_the_corners_of_the_grid_are_t1_pd_and_t2_weighting(series: Series) -> None:
    assert [one.title for one in pictures(series["tr-te"]) if ":" in one.title] == [
        "TR 340, TE 13 ms: T1w",
        "TR 3500, TE 13 ms: PDw",
        "TR 3500, TE 120 ms: T2w",
    ]


@pytest.mark.parametrize(("name", "nulls"), [("ir-ti", ["WM null", "GM null", "CSF null"]), ("flair-ti", ["CSF null"])])
def test_a_tissue_is_nulled_where_its_curve_crosses_0(
    series: Series, masks: dict[str, np.ndarray], name: str, nulls: list[str]
) -> None:
    curve = series[name].curve
    assert curve is not None
    assert list(curve.marks) == nulls
    for null, time_ms in curve.marks.items():
        tissue = null.removesuffix(" null")
        assert np.interp(time_ms, curve.values, curve.signals[tissue]) == pytest.approx(0, abs=1e-3)
        (at_null,) = (one for one in series[name].rows[0] if one.title.endswith(null))
        assert level(at_null, masks[tissue]) < 0.015


def test_flair_has_dark_csf_and_bright_cortex_and_lesions(series: Series, masks: dict[str, np.ndarray]) -> None:
    before, *_, after = series["flair-ti"].rows[0]
    (flair,) = (one for one in series["flair-ti"].rows[0] if one.title.endswith("CSF null"))
    assert level(flair, masks["CSF"]) < 0.2 * level(flair, masks["WM"]) < 0.2 * level(flair, masks["GM"])
    assert level(flair, masks["lesion"]) > 1.3 * level(flair, masks["GM"])
    for one in (before, after):
        assert level(one, masks["CSF"]) > 2 * level(one, masks["GM"])


def test_a_larger_flip_angle_turns_a_gradient_echo_to_t1_weighting(
    series: Series, masks: dict[str, np.ndarray]
) -> None:
    low, *_, high = series["gradient-echo-flip"].rows[0]
    assert level(low, masks["CSF"]) > level(low, masks["WM"])
    assert level(high, masks["CSF"]) < level(high, masks["GM"]) < level(high, masks["WM"])


def test_curves_pass_through_the_signals_of_the_slices(series: Series) -> None:
    drawn = [one for one in series.values() if one.curve]
    assert len(drawn) == len(series) - 1
    for one in drawn:
        assert one.curve is not None
        assert len(one.curve.pictured) == len(one.rows[0])
        for value, picture in zip(one.curve.pictured, one.rows[0], strict=True):
            for tissue, signals in one.curve.signals.items():
                at = np.interp(value, one.curve.values, signals)
                assert at == pytest.approx(picture.signals[tissue], abs=5e-3), (one.name, picture.title, tissue)


def test_the_same_seed_gives_the_same_arrays(series: Series) -> None:
    for first, second in zip(series.values(), contrast(3), strict=True):
        for one, other in zip(pictures(first), pictures(second), strict=True):
            np.testing.assert_array_equal(one.image, other.image)
