"""Other voxel sizes: what an image shows stays in its place, and labels come back onto its own voxels."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

from segkit.errors import VolumeError
from segkit.resampling import labels_onto, to_spacing
from segkit.volume import Volume

TILT = np.linalg.qr(np.array([[10.0, 1, 2], [-1, 10, 1], [-2, -1, 10]]))[0]
TILT *= np.sign(np.diag(TILT))
sides = st.sampled_from([0.5, 0.7, 0.9375, 1.0, 1.5, 3.0])
spacings = st.tuples(sides, sides, sides)


def affine_of(spacing: tuple[float, ...]) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = TILT * spacing, (-20, 10, 5)
    return affine


def places_mm(volume: Volume) -> np.ndarray:
    """(X, Y, Z, 3), where in the patient the voxels are."""
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in volume.shape], indexing="ij"), -1)
    return grid @ volume.affine[:3, :3].T + volume.affine[:3, 3]


def ramp(places: np.ndarray) -> np.ndarray:
    return 500 + places @ (1.0, -2.0, 3.0)


def ball(volume: Volume, radius_mm: float = 6.5) -> np.ndarray:
    """Two half balls about the centre, labels 1 and 2."""
    places = places_mm(volume)
    away = places - places.reshape(-1, 3).mean(0)
    return np.where((away**2).sum(-1) < radius_mm**2, 1 + (away[..., 0] > 0), 0).astype(np.uint8)


def grid(spacing: tuple[float, ...], shape: tuple[int, ...]) -> Volume:
    return Volume(np.zeros(shape, np.uint8), affine_of(spacing))


class TestImages:
    @settings(max_examples=25, deadline=None, derandomize=True)
    @given(spacing=spacings, wanted=spacings)
    def test_a_ramp_stays_in_its_place_whatever_the_voxels(self, spacing, wanted):
        volume = grid(spacing, (12, 11, 13))
        volume = volume.with_data(ramp(places_mm(volume)).astype(np.float32))
        found = to_spacing(volume, wanted, "T1")
        assert found.spacing_mm == pytest.approx(wanted)
        assert found.orientation == volume.orientation
        reach = [max(a, b) for a, b in zip(spacing, wanted, strict=True)]
        centre = volume.affine @ [*((n - 1) / 2 for n in volume.shape), 1]
        away = np.abs((places_mm(found) - centre[:3]) @ TILT)
        inner = [(n - 1) / 2 * s - r for n, s, r in zip(volume.shape, spacing, reach, strict=True)]
        inside = (away <= np.array(inner) + 1e-6).all(-1)
        # A wider kernel that falls on few voxels has its centre up to a twentieth of a voxel off.
        slope = np.abs(np.array((1.0, -2.0, 3.0)) @ TILT)
        coarser = [b if b > a else 0 for a, b in zip(spacing, wanted, strict=True)]
        allowed = 0.005 + 0.05 * slope @ coarser
        np.testing.assert_allclose(found.data[inside], ramp(places_mm(found))[inside], rtol=0, atol=allowed)

    @pytest.mark.parametrize("wanted", [(0.5, 0.7, 2.0), (3, 3, 3), (1, 1, 1)])
    def test_the_centre_stays_and_the_whole_extent_is_covered(self, wanted):
        volume = grid((1.0, 1.2, 0.8), (9, 14, 10))
        found = to_spacing(volume, wanted, "T1")
        middle = [v.affine @ [*((n - 1) / 2 for n in v.shape), 1] for v in (volume, found)]
        np.testing.assert_allclose(*middle, atol=1e-4)
        extents = [np.multiply(v.shape, v.spacing_mm) for v in (volume, found)]
        assert (extents[1] > extents[0] - 0.02 * np.array(wanted)).all()
        assert (extents[1] < extents[0] + wanted).all()

    def test_what_is_finer_than_the_new_voxels_is_averaged_and_not_aliased(self):
        stripes = np.where(np.arange(16) % 2, 10.0, 30.0)[:, None, None] * np.ones((16, 8, 8))
        found = to_spacing(Volume(stripes.astype(np.float32), affine_of((1, 1, 1))), (2, 1, 1), "T1")
        np.testing.assert_allclose(found.data[1:-1], 20, rtol=1e-6)

    def test_the_rim_of_a_stripped_head_is_neither_darkened_nor_blurred_over_what_is_outside(self):
        image = np.zeros((16, 16, 16), np.int16)
        image[4:12, 4:12, 4:12] = 100
        for wanted in ((0.7, 0.7, 0.7), (2, 2, 2), (1.3, 1, 0.6)):
            found = to_spacing(Volume(image, affine_of((1, 1, 1))), wanted, "T1")
            np.testing.assert_allclose(found.data[found.data != 0], 100, rtol=1e-5)
            head_mm3 = (found.data != 0).sum() * np.prod(found.spacing_mm)
            assert head_mm3 == pytest.approx(512, rel=0.35)
            assert found.data[0].max() == 0

    def test_voxels_of_the_wanted_size_come_back_as_they_were(self):
        image = np.random.default_rng(0).integers(0, 99, (7, 8, 9)).astype(np.int16)
        volume = Volume(image, affine_of((1, 1.5, 2)))
        found = to_spacing(volume, (1, 1.5, 2), "T1")
        np.testing.assert_array_equal(found.data, image)
        np.testing.assert_allclose(found.affine, volume.affine, atol=1e-9)

    def test_the_bits_do_not_depend_on_how_the_file_lay_in_memory(self):
        image = np.random.default_rng(1).integers(0, 99, (9, 10, 11)).astype(np.int16)
        affine = affine_of((1, 1, 1))
        expected = to_spacing(Volume(image, affine), (0.8, 1.3, 0.9), "T1").data
        for axes in itertools.permutations(range(3)):
            stored = np.ascontiguousarray(image.transpose(axes)[::-1, :, ::-1])
            view = stored[::-1, :, ::-1].transpose(np.argsort(axes))
            np.testing.assert_array_equal(to_spacing(Volume(view, affine), (0.8, 1.3, 0.9), "T1").data, expected)

    def test_a_result_larger_than_any_image_is_refused_before_it_is_made(self):
        volume = grid((50, 50, 50), (40, 40, 40))
        with pytest.raises(
            VolumeError, match=r"expected at most 4 GiB of T1 at 0\.5x0\.5x0\.5 mm, its 40x40x40 voxels of 50x50x50 mm"
        ):
            to_spacing(volume, (0.5, 0.5, 0.5), "T1")


class TestLabels:
    @settings(max_examples=20, deadline=None, derandomize=True)
    @given(spacing=spacings)
    def test_they_come_back_onto_the_voxels_of_the_image_where_they_were_in_the_patient(self, spacing):
        volume = grid(spacing, tuple(round(20 / side) for side in spacing))
        fine = to_spacing(volume, (1, 1, 1), "T1")
        found = labels_onto(fine.with_data(ball(fine)), volume)
        np.testing.assert_array_equal(found.affine, volume.affine)
        assert found.data.dtype == np.uint8
        assert set(np.unique(found.data)) == {0, 1, 2}
        # A voxel may differ only where a border is within the reach of the two kinds of voxels.
        away = places_mm(volume) - places_mm(volume).reshape(-1, 3).mean(0)
        reach = np.linalg.norm([max(side, 1.0) for side in spacing])
        radius = np.sqrt((away**2).sum(-1))
        sure = (np.abs(radius - 6.5) > reach) & ((np.abs(away[..., 0]) > reach) | (radius > 6.5))
        np.testing.assert_array_equal(found.data[sure], ball(volume)[sure])

    def test_they_fit_a_finer_image_better_than_the_nearest_label_does(self):
        volume = grid((0.5, 0.5, 0.5), (40, 40, 40))
        coarse = to_spacing(volume, (2, 2, 2), "T1")
        labels = coarse.with_data(ball(coarse))
        truth = ball(volume)
        nearest = np.kron(labels.data, np.ones((4, 4, 4), np.uint8))
        assert (labels_onto(labels, volume).data == truth).mean() > (nearest == truth).mean() + 0.005

    def test_on_voxels_of_their_own_size_they_stay_as_they_are(self):
        labels = Volume(np.random.default_rng(2).integers(0, 5, (9, 8, 7)).astype(np.uint8), affine_of((1, 2, 3)))
        np.testing.assert_array_equal(labels_onto(labels, labels).data, labels.data)

    def test_of_equal_classes_the_lower_wins(self):
        labels = Volume(np.array([1, 3, 3, 1], np.uint8)[:, None, None] * np.ones((4, 2, 2), np.uint8), np.eye(4))
        between = Volume(np.zeros((3, 2, 2), np.uint8), np.eye(4))  # centres half a voxel away
        np.testing.assert_array_equal(labels_onto(labels, between).data[:, 0, 0], [1, 3, 1])

    def test_the_rounding_of_a_header_decides_nothing(self):
        volume = grid((2, 2, 2), (9, 9, 9))
        fine = to_spacing(volume, (1, 1, 1), "T1")
        labels = np.random.default_rng(3).integers(0, 4, fine.shape).astype(np.uint8)
        expected = labels_onto(fine.with_data(labels), volume).data
        rounded = Volume(volume.data, volume.affine.astype(np.float32).astype(float))
        again = to_spacing(rounded, (1, 1, 1), "T1")
        np.testing.assert_array_equal(labels_onto(again.with_data(labels), rounded).data, expected)


@pytest.mark.parametrize("orientation", ["LPS", "SRA", "IPL"])
def test_a_turned_copy_is_resampled_to_the_same_bits(orientation):
    rng = np.random.default_rng(4)
    volume = Volume(rng.integers(0, 99, (9, 10, 11)).astype(np.int16), affine_of((1, 1.5, 2)))
    way = ornt_transform(io_orientation(volume.affine), axcodes2ornt(orientation))
    turned = Volume(apply_orientation(volume.data, way), volume.affine @ inv_ornt_aff(way, volume.shape))
    one, other = (to_spacing(v.canonical(), (1, 1, 1), "T1") for v in (volume, turned))
    np.testing.assert_array_equal(one.data, other.data)
    np.testing.assert_allclose(one.affine, other.affine, atol=1e-9)
