from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segkit.patches import (
    ArrayImages,
    count_tiles,
    extract_patch,
    gaussian_weight,
    pad_to,
    plan,
    plan_cheapest,
    plan_tiles,
    tile_starts,
)

sizes = st.integers(1, 60)
overlaps = st.sampled_from([0.0, 0.25, 0.5, 0.75])


@settings(deadline=None)
@given(sizes, sizes, st.integers(0, 59), st.integers(1, 60), overlaps)
def test_tiles_cover_every_wanted_voxel_and_stay_in_the_volume(
    size: int, patch: int, first: int, extent: int, overlap: float
) -> None:
    size = max(size, patch)
    first = min(first, size - 1)
    last = min(first + extent, size)
    starts = tile_starts(first, last, size, patch, overlap)
    covered = {voxel for start in starts for voxel in range(start, start + patch)}
    assert set(range(first, last)) <= covered
    assert all(0 <= start <= size - patch for start in starts)


@settings(deadline=None)
@given(st.integers(2, 60), st.integers(2, 20), overlaps)
def test_neighbouring_tiles_share_at_least_the_overlap(size: int, patch: int, overlap: float) -> None:
    size = max(size, patch)
    starts = tile_starts(0, size, size, patch, overlap)
    assert all(second - first <= max(1, patch * (1 - overlap)) for first, second in itertools.pairwise(starts))


def test_an_axis_shorter_than_its_content_needs_no_second_tile() -> None:
    assert tile_starts(4, 9, 30, 16, 0.5) == [0]


def test_tiles_without_content_are_left_out() -> None:
    mask = np.zeros((32, 32, 32), bool)
    mask[:8, :8, :8] = mask[24:, 24:, 24:] = True
    assert plan_tiles(mask, (8, 8, 8), 0.0) == [(0, 0, 0), (24, 24, 24)]


def test_an_empty_volume_has_no_tiles() -> None:
    assert plan_tiles(np.zeros((9, 9, 9), bool), (4, 4, 4), 0.5) == []


@settings(deadline=None)
@given(st.tuples(*[st.integers(1, 20)] * 3), st.tuples(*[st.sampled_from([3, 4, 8])] * 3), st.integers(0, 2**32 - 1))
def test_without_overlap_each_voxel_of_the_mask_is_told_by_one_tile(shape, patch, seed) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random(shape) < rng.choice([0.01, 0.3, 1.0])
    told = np.zeros(shape, int)
    for tile in plan(mask, patch, 0.0).tiles:
        told[tile.own] += 1
        inside = zip(tile.own, tile.start, patch, strict=True)
        assert all(start <= own.start < own.stop <= start + side for own, start, side in inside)
    assert (told[mask] == 1).all()
    assert told.max() <= 1


@settings(deadline=None)
@given(st.tuples(*[st.integers(4, 40)] * 3), st.tuples(*[st.integers(4, 16)] * 3), overlaps)
def test_tiles_come_in_order_of_the_axis_that_keeps_the_fewest_voxels_in_work(shape, patch, overlap) -> None:
    found = plan(np.ones(shape, bool), patch, overlap)
    along = [tile.start[found.axis] for tile in found.tiles]
    assert along == sorted(along)
    kept = [min(patch[a], shape[a]) * np.prod(shape) // shape[a] for a in range(3)]
    assert kept[found.axis] == min(kept)
    assert len(found.tiles) == count_tiles(shape, patch, overlap)


@pytest.mark.parametrize(
    ("extent", "overlap", "tiles"), [(16, 0.5, 1), (17, 0.5, 2), (24, 0.5, 2), (25, 0.5, 3), (17, 0, 2)]
)
def test_no_more_tiles_are_taken_than_nnunet_takes(extent: int, overlap: float, tiles: int) -> None:
    """Its compute_steps_for_sliding_window: ceil((extent - patch) / step) + 1."""
    assert len(tile_starts(3, 3 + extent, 40, 16, overlap)) == tiles


def test_of_several_patches_the_one_that_runs_the_fewest_voxels_is_taken() -> None:
    mask = np.zeros((40, 40, 40), bool)
    mask[2:26, 2:26, 2:26] = True
    assert plan_cheapest(mask, [(16, 16, 16), (24, 24, 24), (32, 32, 32)], 0.0).patch == (24, 24, 24)


def test_many_small_tiles_cost_more_than_a_few_that_run_as_many_voxels() -> None:
    assert plan_cheapest(np.ones((32, 32, 32), bool), [(4, 4, 4), (32, 32, 32)], 0.0).patch == (32, 32, 32)


@settings(deadline=None)
@given(st.tuples(*[st.integers(1, 9)] * 3), st.tuples(*[st.integers(1, 9)] * 3))
def test_cutting_repeats_the_edge_as_padding_the_whole_volume_does(shape, patch) -> None:
    array = np.random.default_rng(0).standard_normal((2, *shape), dtype=np.float32)
    start = tuple(max(0, n - side // 2 - 1) for n, side in zip(shape, patch, strict=True))
    out = np.full((2, *patch), np.nan, np.float32)
    ArrayImages(array).cut(start, out)
    whole = pad_to(array, tuple(first + side for first, side in zip(start, patch, strict=True)))
    np.testing.assert_array_equal(out, extract_patch(whole, start, patch))


def test_a_patch_inside_the_volume_is_a_view() -> None:
    volume = np.arange(2 * 5**3).reshape(2, 5, 5, 5)
    patch = extract_patch(volume, (1, 2, 3), (2, 2, 2))
    assert np.shares_memory(patch, volume)
    np.testing.assert_array_equal(patch, volume[:, 1:3, 2:4, 3:5])


def test_a_patch_over_the_edge_repeats_the_last_voxel() -> None:
    patch = extract_patch(np.arange(27).reshape(3, 3, 3), (0, 0, 1), (3, 3, 5))
    np.testing.assert_array_equal(patch[0, 0], [1, 2, 2, 2, 2])


@pytest.mark.parametrize("patch", [(1, 1, 1), (8, 16, 5)])
def test_gaussian_weights_peak_in_the_middle_and_never_vanish(patch: tuple[int, int, int]) -> None:
    weight = gaussian_weight(patch)
    assert weight.shape == patch
    assert weight.min() >= 1e-4
    assert weight.max() == weight[tuple(n // 2 for n in patch)] == 1
    np.testing.assert_array_equal(weight, weight[::-1, ::-1, ::-1])
