"""What is done to images on their way into a network: the order of the steps, z-score, bias-field correction."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import given, settings
from hypothesis import strategies as st

from segkit import bias, itk
from segkit.bias import correct_bias
from segkit.errors import DataError, UsageError, VolumeError
from segkit.patches import extract_patch, pad_to
from segkit.preprocess import Channels, Preprocessing, find_scaling, normalise, preprocess
from segkit.volume import Volume

SHAPE = (9, 8, 7)
RNG = np.random.default_rng(0)


def image(low: int = 1, high: int = 99, shape: tuple[int, int, int] = SHAPE) -> Volume:
    data = RNG.integers(low, high, shape).astype(np.int16)
    data[:2] = 0
    return Volume(data, np.eye(4))


def moved(volume: Volume, shift_mm: float) -> Volume:
    affine = volume.affine.copy()
    affine[0, 3] += shift_mm
    return Volume(volume.data, affine)


class TestSteps:
    def test_without_registration_images_of_another_grid_are_refused(self):
        with pytest.raises(VolumeError, match=r"expected T2 on the grid of T1, found their corners 1\.00 mm apart"):
            preprocess([image(), moved(image(), 1)], ["T1", "T2"], Preprocessing())

    def test_registration_brings_every_modality_onto_the_grid_of_the_first(self):
        first, second = image(), moved(image(), 1)
        how = Preprocessing(registration="affine", normalisation="none", background="zero")
        volumes, channels = preprocess([first, second], ["T1", "T2"], how)
        images, mask = channels.whole(), channels.mask
        assert volumes[0] is first
        np.testing.assert_array_equal(images[1, 1:], second.data[:-1])
        np.testing.assert_array_equal(images, [volume.data for volume in volumes])
        np.testing.assert_array_equal(mask, (images != 0).any(axis=0))

    def test_bias_is_corrected_after_registration_and_before_normalisation(self):
        data = np.where(field_of((24, 24, 24))[1], 100 * field_of((24, 24, 24))[0], 0).astype(np.float32)
        first, second = Volume(data, np.eye(4)), moved(Volume(data, np.eye(4)), 1)
        how = Preprocessing(registration="affine", bias_correction="n4")
        volumes, channels = preprocess([first, second], ["T1", "T2"], how)
        images = channels.whole()
        aligned = moved(first, 0).with_data(np.concatenate([data[:1] * 0, data[:-1]]))
        np.testing.assert_array_equal(volumes[1].data, correct_bias(aligned, "T2").data)
        np.testing.assert_array_equal(images[1], normalise(volumes[1].data, how))

    @pytest.mark.parametrize(
        ("value", "found"), [(1e300, r"1 to 1e\+300"), (-2e18, r"-2e\+18 to 98"), (np.inf, "1 to inf")]
    )
    def test_intensities_that_float32_cannot_square_are_refused_by_name(self, value, found):
        huge = Volume(RNG.integers(1, 99, SHAPE).astype(np.float64), np.eye(4))
        huge.data[0, 0, 0], huge.data[0, 0, 1], huge.data[0, 0, 2] = value, 1, 98
        with pytest.raises(DataError, match=rf"expected intensities of at most 1e\+18 in T2, found {found}; scale"):
            preprocess([image(), huge], ["T1", "T2"], Preprocessing())


class TestBackground:
    def test_the_mask_is_the_last_channel_by_default(self):
        assert Preprocessing().background == "mask"

    @pytest.mark.parametrize("background", ["mask", "zero", "below"])
    @pytest.mark.parametrize("normalisation", ["zscore-nonzero", "none"])
    def test_only_mask_adds_a_channel_and_each_has_as_many_as_it_says(self, background, normalisation):
        first, second = image(), image()
        second.data[:4], second.data[0, 0, 0] = 0, 7  # other zeros than the first
        how = Preprocessing(normalisation=normalisation, background=background)
        _, channels = preprocess([first, second], ["T1", "T2"], how)
        images, mask = channels.whole(), channels.mask
        assert images.dtype == np.float32
        assert len(images) == how.channels(2) == (3 if background == "mask" else 2)
        np.testing.assert_array_equal(images[:2], [normalise(volume.data, how) for volume in (first, second)])
        np.testing.assert_array_equal(mask, (first.data != 0) | (second.data != 0))
        for told in images[2:]:
            np.testing.assert_array_equal(told, mask)


class TestChannels:
    @settings(max_examples=60, deadline=None)
    @given(
        dtypes=st.tuples(*[st.sampled_from([np.int16, np.uint8, np.float32, np.float64, np.int32])] * 2),
        axes=st.permutations(range(3)),
        flips=st.tuples(*[st.booleans()] * 3),
        start=st.tuples(*[st.integers(0, 6)] * 3),
        patch=st.tuples(*[st.integers(1, 24)] * 3),
        normalisation=st.sampled_from(["zscore-nonzero", "none"]),
        background=st.sampled_from(["mask", "zero", "below"]),
    )
    def test_a_patch_has_the_bits_of_the_volume_that_was_normalised_whole(
        self, dtypes, axes, flips, start, patch, normalisation, background
    ):
        """However the file orders its axes."""
        rng = np.random.default_rng(5)
        how = Preprocessing(normalisation=normalisation, background=background)
        images = []
        for dtype in dtypes:
            stored = np.asarray(rng.integers(0, 3, (18, 8, 7)) * rng.integers(1, 90, (18, 8, 7)), dtype, order="F")
            images.append(np.transpose(stored, axes)[tuple(slice(None, None, -1 if flip else 1) for flip in flips)])
        channels = Channels(images, how)
        mask = (images[0] != 0) | (images[1] != 0)
        whole = [normalise(np.ascontiguousarray(image), how) for image in images]
        expected = np.stack([*whole, mask.astype(np.float32)] if background == "mask" else whole)
        assert channels.shape == expected.shape
        start = tuple(min(first, n - 1) for first, n in zip(start, mask.shape, strict=True))
        out = np.full((len(expected), *patch), np.nan, np.float32)
        channels.cut(start, out)
        padded = pad_to(expected, tuple(first + side for first, side in zip(start, patch, strict=True)))
        if set(dtypes) <= {np.int16, np.uint8} or normalisation == "none":
            np.testing.assert_array_equal(out, extract_patch(padded, start, patch))
        else:  # sums in another order
            np.testing.assert_allclose(out, extract_patch(padded, start, patch), rtol=1e-6)
        np.testing.assert_array_equal(channels.mask, mask)
        again = channels.whole()
        np.testing.assert_array_equal(out, extract_patch(pad_to(again, padded.shape[1:]), start, patch))

    def test_images_stay_as_they_were_read(self):
        images = [image().data for _ in range(2)]
        copies = [data.copy() for data in images]
        Channels(images, Preprocessing()).whole()
        np.testing.assert_array_equal(images, copies)


class TestNormalise:
    def test_the_moments_of_16_bits_are_exact(self):
        data = np.full((64, 64, 64), 32767, np.int16)
        data[::2] = 32766
        scaling = find_scaling(data, Preprocessing())
        assert (scaling.mean, scaling.scale) == (32766.5, 2.0)

    @settings(max_examples=60, deadline=None)
    @given(
        seed=st.integers(0, 2**32 - 1),
        dtype=st.sampled_from([np.int16, np.uint8, np.float32, np.float64, np.int32]),
        offset=st.sampled_from([0, 30, 1000, 30_000]),
        zeros=st.floats(0, 0.95),
        background=st.sampled_from(["mask", "zero", "below"]),
        order=st.sampled_from(["C", "F"]),
    )
    def test_is_a_z_score_over_the_voxels_that_are_not_zero(self, seed, dtype, offset, zeros, background, order):
        rng = np.random.default_rng(seed)
        data = (rng.normal(50, 20, (12, 11, 10)) + offset).clip(0, 255 if dtype == np.uint8 else None)
        data[rng.random(data.shape) < zeros] = 0
        data = np.asarray(data.astype(dtype), order=order)
        exact = data.astype(np.float64)
        inside = exact[exact != 0]
        expected = (exact - inside.mean()) / (inside.std() or 1)
        if background != "below":
            expected[exact == 0] = 0
        got = normalise(data, Preprocessing(background=background))
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-9)

    def test_background_stays_zero_unless_it_is_wished_for_below_every_tissue(self):
        data = image().data
        mask, zero, below = (normalise(data, Preprocessing(background=where)) for where in ("mask", "zero", "below"))
        assert below[data == 0].max() < below[data != 0].min()
        assert not zero[data == 0].any()
        np.testing.assert_array_equal(below[data != 0], zero[data != 0])
        np.testing.assert_array_equal(mask, zero)

    def test_image_of_one_value_becomes_zero_inside(self):
        data = np.where(image().data, np.float32(7.1), 0)
        assert np.abs(normalise(data, Preprocessing())[data != 0]).max() < 1e-6

    def test_image_of_zeros_stays_zero(self):
        assert not normalise(np.zeros(SHAPE, np.int16), Preprocessing()).any()

    @pytest.mark.parametrize("normalisation", ["none", "zscore-nonzero"])
    def test_input_is_left_alone(self, normalisation):
        data = image().data.astype(np.float32)
        before = data.copy()
        normalise(data, Preprocessing(normalisation=normalisation))[:] = 5
        np.testing.assert_array_equal(data, before)


def field_of(shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A smooth field, and a ball."""
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    return np.exp(0.4 * x - 0.2 * y), x**2 + y**2 + z**2 < 0.7


def variation(data: np.ndarray) -> float:
    return float(data.std() / data.mean())


@pytest.fixture(scope="module")
def head() -> tuple[Volume, np.ndarray]:
    """A ball of one tissue under a field, zero around it, and where it is."""
    field, ball = field_of((32, 32, 32))
    data = np.where(ball, 100 * field + np.random.default_rng(1).normal(0, 1, field.shape), 0)
    return Volume(data.astype(np.float32), np.diag([2.0, 2, 2, 1])), ball


class TestCorrectBias:
    def test_tissue_becomes_even_and_zero_stays_zero(self, head):
        volume, ball = head
        corrected = correct_bias(volume, "T1").data
        assert corrected.dtype == np.float32
        assert variation(volume.data[ball]) > 0.15
        assert variation(corrected[ball]) < 0.03
        np.testing.assert_array_equal(corrected == 0, volume.data == 0)

    def test_background_of_noise_is_told_from_the_head(self, head):
        volume, ball = head
        rng = np.random.default_rng(2)
        noisy = np.hypot(volume.data + rng.normal(0, 3, ball.shape), rng.normal(0, 3, ball.shape))
        corrected = correct_bias(Volume(noisy, volume.affine), "T1").data
        assert variation(corrected[ball]) < variation(noisy[ball]) / 2

    def test_gives_the_same_bits_on_any_number_of_cores(self, head):
        before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
        results = []
        try:
            for threads in (1, 2, 7):
                sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
                results.append(correct_bias(head[0], "T1").data)
                assert sitk.ProcessObject.GetGlobalDefaultNumberOfThreads() == threads
        finally:
            sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)
        np.testing.assert_array_equal(results[0], results[1])
        np.testing.assert_array_equal(results[0], results[2])

    @pytest.mark.parametrize("shape", [(2, 3, 2), (2, 40, 40), (5, 7, 9)])
    def test_few_voxels_along_an_axis_are_no_obstacle(self, shape):
        volume = Volume(RNG.integers(1, 99, shape).astype(np.int16), np.eye(4))
        assert np.isfinite(correct_bias(volume, "T1").data).all()

    def test_negative_intensities_are_refused(self):
        with pytest.raises(DataError, match=r"expected intensities of 0 and more in FLAIR for N4, found -3; use"):
            correct_bias(image(-3, -2), "FLAIR")

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=["NaN", "endless", "zero"])
    def test_field_that_is_no_field_is_refused(self, value, monkeypatch):
        monkeypatch.setattr(bias, "to_array", lambda sitk, found: np.full(SHAPE, value, np.float32))
        even = Volume(np.full(SHAPE, 7, np.int16), np.eye(4))
        with pytest.raises(DataError, match=r"expected a finite bias field of T1, found (nan|inf|0) to"):
            correct_bias(even, "T1")

    def test_without_simpleitk_it_says_what_to_install(self, monkeypatch):
        monkeypatch.setattr(itk, "is_installed", lambda module: False)
        with pytest.raises(UsageError, match=r"bias correction needs the module 'SimpleITK', .*; run: pip"):
            correct_bias(image(), "T1")
