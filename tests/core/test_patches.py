from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segkit.patches import extract_patch, gaussian_weight, plan_tiles, tile_starts

sizes = st.integers(1, 60)
overlaps = st.sampled_from([0.0, 0.25, 0.5, 0.75])


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
