from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from scipy.ndimage import gaussian_filter

from segkit.errors import MissingExtra, UnknownName
from segkit.surfaces import hd95_mm, surface_dice, surface_distances

SPACINGS = [(1.0, 1.0, 1.0), (0.7, 1.3, 2.5), (3.0, 0.4, 0.4)]


def blobs(seed: int, shape: tuple[int, int, int] = (18, 15, 12)) -> tuple[np.ndarray, np.ndarray]:
    """Two ragged masks that overlap in part and touch the border of the volume."""
    rng = np.random.default_rng(seed)
    base, one, two = (gaussian_filter(rng.normal(size=shape), 1.5) for _ in range(3))
    return base + 0.6 * one > 0.03, base + 0.6 * two > 0.03


def monai_scores(
    truth: np.ndarray, prediction: np.ndarray, spacing_mm: tuple[float, ...], tolerance_mm: float, areas: bool = False
) -> tuple[float, float]:
    pair = [torch.from_numpy(mask)[None, None].float() for mask in (prediction, truth)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # MONAI warns of empty masks
        distance = compute_hausdorff_distance(*pair, include_background=True, percentile=95, spacing=list(spacing_mm))
        overlap = compute_surface_dice(
            *pair, [tolerance_mm], include_background=True, spacing=list(spacing_mm), use_subvoxels=areas
        )
    return float(distance), float(overlap)


def one_voxel(*place: int) -> np.ndarray:
    mask = np.zeros((9, 8, 7), bool)
    mask[place] = True
    return mask


EMPTY, FULL = np.zeros((9, 8, 7), bool), np.ones((9, 8, 7), bool)
DEGENERATE = {
    "one voxel, hit": (one_voxel(4, 4, 4), one_voxel(4, 4, 4)),
    "one voxel, beside it": (one_voxel(4, 4, 4), one_voxel(4, 5, 4)),
    "one voxel each in opposite corners": (one_voxel(0, 0, 0), one_voxel(8, 7, 6)),
    "one voxel and everything": (one_voxel(4, 4, 4), FULL),
    "everything": (FULL, FULL),
    "a plane at the border": (np.indices((9, 8, 7))[0] == 0, one_voxel(8, 0, 0)),
}


@pytest.mark.parametrize("spacing_mm", SPACINGS, ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_random_masks_score_as_in_monai(seed: int, spacing_mm: tuple[float, float, float]) -> None:
    truth, prediction = blobs(seed)
    surfaces = surface_distances(truth, prediction, spacing_mm)
    for tolerance_mm in (0.0, 0.7, 1.0, 2.5):
        expected = monai_scores(truth, prediction, spacing_mm, tolerance_mm)
        assert (hd95_mm(surfaces), surface_dice(surfaces, tolerance_mm)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("spacing_mm", SPACINGS, ids=str)
@pytest.mark.parametrize("case", DEGENERATE)
def test_degenerate_masks_score_as_in_monai(case: str, spacing_mm: tuple[float, float, float]) -> None:
    surfaces = surface_distances(*DEGENERATE[case], spacing_mm)
    expected = monai_scores(*DEGENERATE[case], spacing_mm, 1.0)
    assert (hd95_mm(surfaces), surface_dice(surfaces, 1.0)) == pytest.approx(expected, rel=1e-5)


def test_masks_far_apart_score_as_in_monai() -> None:
    truth, prediction = np.zeros((2, 40, 12, 12), bool)
    truth[1:6, 2:9, 3:8], prediction[30:38, 1:7, 2:11] = True, True
    surfaces = surface_distances(truth, prediction, (1.0, 1.0, 1.0))
    assert hd95_mm(surfaces) == pytest.approx(monai_scores(truth, prediction, (1, 1, 1), 1.0)[0], rel=1e-5)


@pytest.mark.parametrize("convention", ["monai", "surface-distance"])
@pytest.mark.parametrize("mask", [one_voxel(4, 4, 4), FULL], ids=["one voxel", "everything"])
def test_a_mask_that_only_one_side_has_is_infinitely_far_and_overlaps_nowhere(
    convention: str, mask: np.ndarray
) -> None:
    for pair in ((mask, EMPTY), (EMPTY, mask)):
        surfaces = surface_distances(*pair, (1.0, 1.0, 1.0), convention)
        assert (hd95_mm(surfaces), surface_dice(surfaces, 1.0)) == (np.inf, 0)
        assert monai_scores(*pair, (1, 1, 1), 1.0)[1] == 0


@pytest.mark.parametrize("convention", ["monai", "surface-distance"])
def test_a_mask_that_neither_side_has_scores_not_a_number_as_in_monai(convention: str) -> None:
    surfaces = surface_distances(EMPTY, EMPTY, (1.0, 1.0, 1.0), convention)
    assert np.isnan([hd95_mm(surfaces), surface_dice(surfaces, 1.0), *monai_scores(EMPTY, EMPTY, (1, 1, 1), 1.0)]).all()


@pytest.mark.filterwarnings("ignore:Please import :DeprecationWarning")  # the package is older than scipy's names
@pytest.mark.parametrize("spacing_mm", SPACINGS, ids=str)
@pytest.mark.parametrize("case", [*range(4), *DEGENERATE])
def test_the_other_convention_scores_as_the_package_surface_distance(
    case: int | str, spacing_mm: tuple[float, float, float]
) -> None:
    import surface_distance as package

    truth, prediction = blobs(case) if isinstance(case, int) else DEGENERATE[case]
    expected = package.compute_surface_distances(truth, prediction, spacing_mm)
    surfaces = surface_distances(truth, prediction, spacing_mm, "surface-distance")
    assert hd95_mm(surfaces) == pytest.approx(package.compute_robust_hausdorff(expected, 95), rel=1e-5)
    for tolerance_mm in (0.75, 1.0, 2.45):
        assert surface_dice(surfaces, tolerance_mm) == pytest.approx(
            package.compute_surface_dice_at_tolerance(expected, tolerance_mm), rel=1e-5
        )
        assert surface_dice(surfaces, tolerance_mm) == pytest.approx(
            monai_scores(truth, prediction, spacing_mm, tolerance_mm, areas=True)[1], rel=1e-5
        )


def test_the_conventions_differ() -> None:
    truth, prediction = blobs(0)
    both = [
        surface_dice(surface_distances(truth, prediction, (1.0, 1.0, 1.0), convention), 1.0)
        for convention in ("monai", "surface-distance")
    ]
    assert abs(both[0] - both[1]) > 1e-3


MASK = arrays(bool, (6, 5, 4))


@settings(deadline=None, max_examples=60)
@given(truth=MASK, prediction=MASK, axes=st.permutations(range(3)), scale=st.floats(0.3, 3))
def test_scores_do_not_depend_on_the_order_of_axes_or_sides_and_scale_with_the_voxels(
    truth: np.ndarray, prediction: np.ndarray, axes: list[int], scale: float
) -> None:
    spacing_mm = (0.5, 1.0, 2.0)
    plain = surface_distances(truth, prediction, spacing_mm)
    turned = surface_distances(
        prediction.transpose(axes), truth.transpose(axes), [scale * spacing_mm[axis] for axis in axes]
    )
    np.testing.assert_allclose(hd95_mm(turned), scale * hd95_mm(plain), rtol=1e-5)
    np.testing.assert_allclose(surface_dice(turned, 1.2 * scale), surface_dice(plain, 1.2), rtol=1e-9)


def test_an_unknown_convention_is_refused() -> None:
    with pytest.raises(UnknownName, match="no surface convention 'monia'; did you mean 'monai'"):
        surface_distances(FULL, FULL, (1.0, 1.0, 1.0), "monia")


@pytest.mark.parametrize(("convention", "module"), [("monai", "scipy"), ("surface-distance", "monai")])
def test_a_missing_package_is_named(convention: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segkit.extras.is_installed", lambda name: name != module)
    with pytest.raises(MissingExtra, match=f"needs the module '{module}', which is not installed"):
        surface_distances(FULL, FULL, (1.0, 1.0, 1.0), convention)
