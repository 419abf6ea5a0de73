"""A modality is brought onto the grid of another: as the affines say, or after a rigid search."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial.transform import Rotation

from segkit import itk, registration
from segkit.errors import DataError, UsageError
from segkit.registration import register, resample
from segkit.volume import Volume

angles = st.tuples(*[st.floats(-25, 25)] * 3)
shifts = st.tuples(*[st.floats(-4, 4)] * 3)
spacings = st.tuples(*[st.floats(0.7, 3)] * 3)


def motion(angles_deg, shift_mm, centre_mm=(0, 0, 0)) -> np.ndarray:
    """Turn about a point, then shift."""
    result = np.eye(4)
    result[:3, :3] = Rotation.from_euler("xyz", angles_deg, degrees=True).as_matrix()
    result[:3, 3] = np.add(shift_mm, centre_mm) - result[:3, :3] @ centre_mm
    return result


def centred(shape, spacing_mm=(1, 1, 1)) -> np.ndarray:
    """An affine with the origin of millimetres in the middle of the volume."""
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = -affine[:3, :3] @ (np.array(shape) - 1) / 2
    return affine


def voxels_of(target: Volume, volume: Volume) -> np.ndarray:
    """(3, X, Y, Z): where each voxel of the target lies among those of the volume, inv(B) A."""
    index = np.stack([*np.indices(target.shape), np.ones(target.shape)])
    return np.tensordot(np.linalg.inv(volume.affine) @ target.affine, index, 1)[:3]


def inside(voxels: np.ndarray, shape, margin: float) -> np.ndarray:
    """Where voxels lie within the outermost centres, or `margin` further out."""
    limits = np.array(shape).reshape(3, 1, 1, 1) - 1 + margin
    return ((voxels >= -margin) & (voxels <= limits)).all(axis=0)


class TestResample:
    @settings(max_examples=25, deadline=None)
    @given(angles, shifts, spacings, spacings)
    @example((2.3e-297, 0.0, 0.0), (0.0, 0.0, 0.0), (1.0, 1.0, 0.75), (1.0, 1.0, 1.0))  # an angle that is none
    def test_a_voxel_gets_what_lies_at_its_place_in_millimetres(self, angles_deg, shift_mm, own_mm, target_mm):
        rng = np.random.default_rng(0)
        own = Volume(
            rng.integers(1, 500, (14, 11, 13)).astype(np.int16),
            motion(angles_deg, shift_mm) @ centred((14, 11, 13), own_mm),
        )
        target = Volume(np.zeros((12, 13, 10)), centred((12, 13, 10), target_mm))
        got = resample(own, target, "T2", "T1")
        voxels = voxels_of(target, own)
        expected = map_coordinates(own.data.astype(np.float64), voxels, order=1, mode="nearest")
        np.testing.assert_array_equal(got.affine, target.affine)
        within = inside(voxels, own.shape, -1e-6)
        np.testing.assert_allclose(got.data[within], expected[within], atol=2e-2)
        assert not got.data[~inside(voxels, own.shape, 0.5 + 1e-6)].any()

    def test_volume_on_the_same_grid_is_untouched(self):
        volume = Volume(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
        assert resample(volume, Volume(np.zeros((2, 3, 4)), np.eye(4)), "T2", "T1") is volume

    def test_whole_voxels_are_shifted_without_loss(self):
        data = np.random.default_rng(0).integers(0, 2000, (6, 5, 4)).astype(np.uint16)
        affine = np.eye(4)
        affine[:3, 3] = 2, -1, 0
        got = resample(Volume(data, affine), Volume(data, np.eye(4)), "T2", "T1").data
        np.testing.assert_array_equal(got[2:, :-1], data[:-2, 1:])
        assert not got[:2].any()
        assert not got[:, -1].any()

    def test_images_that_are_apart_are_refused(self):
        volume = Volume(np.ones((4, 4, 4), np.int16), centred((4, 4, 4)))
        far = Volume(volume.data, motion((0, 0, 0), (50, 0, 0)) @ volume.affine)
        with pytest.raises(DataError, match=r"expected FLAIR to overlap T1, found them apart; check the affines"):
            resample(far, volume, "FLAIR", "T1")

    def test_without_simpleitk_it_says_what_to_install(self, monkeypatch):
        monkeypatch.setattr(itk, "is_installed", lambda module: False)
        volume = Volume(np.ones((4, 4, 4), np.int16), np.eye(4))
        with pytest.raises(UsageError, match=r"registration needs the module 'SimpleITK', .*; run: pip install Simp"):
            resample(volume, Volume(volume.data, 2 * np.eye(4)), "T2", "T1")


SHAPE = (32, 36, 30)


@pytest.fixture(scope="module")
def head() -> tuple[Volume, Volume]:
    """Two modalities of one head of 3 mm, on one grid: three tissues of different contrast, zero around them."""
    rng = np.random.default_rng(3)
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij")
    head = (x / 0.7) ** 2 + ((y - 0.2 * z) / 0.85) ** 2 + (z / 0.75) ** 2 < 1
    tissue = np.where(head, 1 + np.digitize(gaussian_filter(rng.normal(size=SHAPE), 2.5), [-0.03, 0.04]), 0)
    affine = centred(SHAPE, (3, 3, 3))
    t1, t2 = (
        np.where(head, np.array(means)[tissue] + rng.normal(0, 3, SHAPE), 0).clip(0).astype(np.float32)
        for means in ([0, 40, 80, 120], [0, 130, 90, 60])
    )
    return Volume(t1, affine), Volume(t2, affine)


def apart_mm(first: np.ndarray, second: np.ndarray) -> float:
    """The furthest that two affines put a corner apart."""
    corners = np.stack([*np.meshgrid(*[(0, n - 1) for n in SHAPE]), np.ones((2, 2, 2))]).reshape(4, -1)
    return float(np.linalg.norm(((first - second) @ corners)[:3], axis=0).max())


class TestRegister:
    @pytest.mark.parametrize(
        ("angles_deg", "shift_mm"),
        [((0, 0, 0), (0, 0, 0)), ((4, -3, 5), (6, -4, 2)), ((-8, 6, 2), (-5, 7, -6))],
        ids=["no motion", "some motion", "much motion"],
    )
    def test_undoes_a_motion_to_a_third_of_a_voxel(self, head, angles_deg, shift_mm):
        t1, t2 = head
        lying = Volume(t2.data, motion(angles_deg, shift_mm, (5, 5, 5)) @ t2.affine)
        corrected = register(lying, t1, "T2", "T1")
        assert corrected.data is t2.data
        assert apart_mm(corrected.affine, t2.affine) < 1.0

    def test_gives_the_same_bits_on_any_number_of_cores(self, head):
        t1, t2 = head
        lying = Volume(t2.data, motion((3, 2, -4), (3, 3, 3)) @ t2.affine)
        before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
        affines = []
        try:
            for threads in (1, 3):
                sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
                affines.append(register(lying, t1, "T2", "T1").affine)
        finally:
            sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)
        np.testing.assert_array_equal(*affines)

    def test_images_that_are_apart_are_refused(self, head):
        t1, t2 = head
        far = Volume(t2.data, motion((0, 0, 0), (500, 0, 0)) @ t2.affine)
        with pytest.raises(DataError, match=r"expected to register T2 to T1, SimpleITK says: .*; check whether both"):
            register(far, t1, "T2", "T1")

    def test_search_that_does_not_end_is_refused(self, head, monkeypatch):
        monkeypatch.setattr(registration, "_ITERATIONS", 2)
        t1, t2 = head
        lying = Volume(t2.data, motion((5, 5, 5), (5, 5, 5)) @ t2.affine)
        with pytest.raises(DataError, match=r"expected to register T2 to T1, .* no end of the search within 2 iter"):
            register(lying, t1, "T2", "T1")

    def test_search_that_leads_away_is_refused(self, head, monkeypatch):
        def lose_the_way(sitk, fixed, moving, transform, voxel_mm) -> None:
            transform.SetTranslation((25, 0, 0))

        monkeypatch.setattr(registration, "_search", lose_the_way)
        with pytest.raises(
            DataError, match=r"registration of T2 to T1 to raise their mutual information from 0\.\d+, found 0\.\d+; ch"
        ):
            register(head[1], head[0], "T2", "T1")


def test_threads_of_simpleitk_are_restored_when_its_last_user_is_done():
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    inner_done, outer_may_end = threading.Event(), threading.Event()
    seen = []

    def outer() -> None:
        with itk.one_threaded_simpleitk("a test") as same:
            inner_done.wait(10)
            seen.append(same.ProcessObject.GetGlobalDefaultNumberOfThreads())
            outer_may_end.set()

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(5)
    try:
        thread = threading.Thread(target=outer)
        with itk.one_threaded_simpleitk("a test"):
            thread.start()
            while len(itk._users) < 2:
                threading.Event().wait(0.001)
        inner_done.set()
        assert outer_may_end.wait(10)
        thread.join(10)
        assert seen == [1]
        assert sitk.ProcessObject.GetGlobalDefaultNumberOfThreads() == 5
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)
