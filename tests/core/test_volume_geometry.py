"""Canonical orientation and the way back: no voxel moves in patient space, none is lost."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segkit.errors import VolumeError
from segkit.nifti import read_volume, write_volume
from segkit.volume import Volume, in_file_order, require_same_grid

ORIENTATIONS = [
    np.diag(signs)[:, order]
    for order in itertools.permutations(range(3))
    for signs in itertools.product([1, -1], repeat=3)
]
"""The 48 ways in which array axes lie along patient axes: (3, 3), array axes in columns."""

angles = st.floats(-0.3, 0.3)
spacings = st.tuples(*[st.floats(0.2, 6)] * 3)
translations = st.tuples(*[st.floats(-300, 300)] * 3)


def rotation(x: float, y: float, z: float) -> np.ndarray:
    turns = []
    for axis, angle in enumerate((x, y, z)):
        turn = np.eye(3)
        first, second = (i for i in range(3) if i != axis)
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        turns.append(turn)
    return turns[0] @ turns[1] @ turns[2]


def volume_of(linear: np.ndarray, translation=(0, 0, 0), shape=(3, 4, 5)) -> Volume:
    """A volume in which every voxel has its own value."""
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = linear, translation
    return Volume(np.arange(np.prod(shape), dtype=np.int16).reshape(shape), affine)


def places_mm(volume: Volume) -> np.ndarray:
    """(values, 3), where in patient space each value lies, in order of the values."""
    indices = np.argwhere(np.ones(volume.shape, bool))
    order = np.argsort(volume.data.ravel())
    return (indices @ volume.affine[:3, :3].T + volume.affine[:3, 3])[order]


@pytest.mark.parametrize(
    "axes", ORIENTATIONS, ids=lambda axes: "".join(map(str, axes.sum(0) * (abs(axes).argmax(0) + 1)))
)
class TestCanonical:
    @settings(max_examples=6, deadline=None, derandomize=True)
    @given(turn=st.tuples(angles, angles, angles), spacing=spacings, translation=translations)
    def test_is_the_nearest_ras_and_the_way_back_is_exact(self, axes, turn, spacing, translation):
        oblique = rotation(*turn)
        original = volume_of(oblique @ axes * spacing, translation)
        canonical = original.canonical()

        assert canonical.orientation == "RAS"
        nearest = oblique * (abs(axes) @ spacing)  # what is left is the tilt alone, by less than a right angle's half
        np.testing.assert_allclose(canonical.affine[:3, :3], nearest, atol=1e-9)
        np.testing.assert_allclose(places_mm(canonical), places_mm(original), atol=1e-9)

        back = canonical.on_grid_of(original)
        np.testing.assert_array_equal(back.data, original.data)
        np.testing.assert_array_equal(back.affine, original.affine)

    def test_survives_a_file(self, axes, tmp_path):
        original = volume_of(rotation(0.1, -0.2, 0.3) @ axes * (0.5, 1.25, 3), (-90.5, 126.25, 72))
        write_volume(tmp_path / "a.nii.gz", original)
        read = read_volume(tmp_path / "a.nii.gz")
        write_volume(tmp_path / "b.nii", read.canonical().on_grid_of(read))
        again = read_volume(tmp_path / "b.nii")
        np.testing.assert_array_equal(again.data, original.data)
        np.testing.assert_array_equal(again.affine, original.affine.astype(np.float32))
        assert again.orientation == original.orientation


@settings(max_examples=50, deadline=None, derandomize=True)
@given(turn=st.tuples(*[st.floats(-np.pi, np.pi)] * 3), spacing=spacings)
def test_any_rotation_keeps_every_voxel_in_its_place_and_canonical_is_idempotent(turn, spacing):
    original = volume_of(rotation(*turn) * spacing)
    canonical = original.canonical()
    np.testing.assert_allclose(places_mm(canonical), places_mm(original), atol=1e-9)
    np.testing.assert_array_equal(canonical.canonical().data, canonical.data)
    np.testing.assert_array_equal(canonical.on_grid_of(original).data, original.data)
    assert canonical.voxel_ml == pytest.approx(original.voxel_ml)
    assert sorted(canonical.spacing_mm) == pytest.approx(sorted(original.spacing_mm))


def test_labels_made_on_the_canonical_grid_land_on_the_voxels_they_were_made_from():
    original = volume_of(ORIENTATIONS[29] * np.array([1, 2, 3]))
    canonical = original.canonical()
    labels = canonical.with_data((canonical.data > 30).astype(np.uint8))
    np.testing.assert_array_equal(labels.on_grid_of(original).data, original.data > 30)


@pytest.mark.parametrize("axes", ORIENTATIONS[::5])
def test_the_way_to_canonical_moves_no_voxel_in_memory_and_the_way_back_ends_in_file_order(axes):
    original = volume_of(axes)
    canonical = original.canonical()
    assert np.shares_memory(canonical.data, original.data)
    back = canonical.on_grid_of(original).data
    assert back.flags.f_contiguous
    np.testing.assert_array_equal(back, original.data)


@pytest.mark.parametrize("stored", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, 1), (1, -1, -1)])
def test_file_order_holds_the_same_voxels_however_they_lay(stored, flips):
    voxels = np.random.default_rng(0).integers(0, 99, (5, 6, 7)).astype(np.int16)
    view = np.ascontiguousarray(voxels.transpose(stored)).transpose(np.argsort(stored))[
        tuple(slice(None, None, f) for f in flips)
    ]
    found = in_file_order(view)
    np.testing.assert_array_equal(found, view)
    assert found.flags.f_contiguous
    assert in_file_order(found) is found


def test_data_of_another_shape_is_refused_on_a_grid():
    with pytest.raises(ValueError, match=r"expected data of shape \(3, 4, 5\), got \(5, 4, 3\)"):
        volume_of(np.eye(3)).with_data(np.zeros((5, 4, 3)))


def test_grids_of_different_shape_are_refused_with_both_shapes():
    first, second = volume_of(np.eye(3)), volume_of(np.eye(3), shape=(3, 4, 6))
    with pytest.raises(VolumeError, match=r"expected T2 on the grid of T1 3x4x5, found 3x4x6; resample"):
        require_same_grid(first, second, "T1", "T2")


def test_grids_that_lie_apart_are_refused_with_the_distance():
    first, second = volume_of(np.eye(3)), volume_of(np.eye(3), (0, -2.5, 0))
    with pytest.raises(VolumeError, match=r"expected T2 on the grid of T1, found their corners 2\.50 mm apart"):
        require_same_grid(first, second, "T1", "T2")


def test_grids_that_differ_by_the_rounding_of_a_header_are_one():
    first = volume_of(rotation(0.1, 0.2, 0.3), (-90.123456789, 126, 72))
    require_same_grid(first, Volume(first.data, first.affine.astype(np.float32).astype(float)), "T1", "T2")
