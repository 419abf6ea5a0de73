import numpy as np
import pytest

from segkit_phantom.deformation import Deformation
from segkit_phantom.fields import blur, gradient_norm, knots, sample, signed_distance_mm, smooth_field, upsample

SPACING_MM = (1.0, 1.0, 2.0)


def test_a_smooth_field_has_mean_0_and_variance_1() -> None:
    field = smooth_field((64, 64, 32), SPACING_MM, 6, np.random.default_rng(0))
    assert field.dtype == np.float32
    assert field.mean() == pytest.approx(0, abs=0.05)
    assert field.std() == pytest.approx(1, abs=0.05)


def test_a_smooth_field_is_as_wide_as_asked_in_millimetres() -> None:
    field = smooth_field((96, 96, 48), SPACING_MM, 10, np.random.default_rng(0))
    # Smoothing by a Gaussian of 10 mm correlates points d apart by exp(-d^2 / 4 sigma^2): 0.25 at d = FWHM.
    along_x, along_z = field[:-10] * field[10:], field[..., :-5] * field[..., 5:]
    assert along_x.mean() == pytest.approx(0.25, abs=0.1)
    assert along_z.mean() == pytest.approx(0.25, abs=0.1)


def test_the_spline_reproduces_a_straight_line() -> None:
    step, shape = (3.0, 2.5, 4.0), (11, 12, 13)
    knot = np.indices(knots(shape, step), np.float32) - 1
    ramp = 2 * knot[0] * 3 - knot[1] * 2.5 + 0.5 * knot[2] * 4
    x, y, z = np.indices(shape)
    np.testing.assert_allclose(upsample(ramp, step, shape), 2 * x - y + 0.5 * z, atol=1e-4)


def test_a_box_of_the_spline_is_that_part_of_the_whole() -> None:
    noise = np.random.default_rng(0).standard_normal((9, 9, 9)).astype(np.float32)
    whole = upsample(noise, (4, 4, 4), (20, 20, 20))
    np.testing.assert_allclose(upsample(noise, (4, 4, 4), (5, 6, 7), (2, 3, 4)), whole[2:7, 3:9, 4:11], atol=1e-6)


def test_sampling_interpolates_and_repeats_the_edge() -> None:
    volume = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
    points = np.array([[0.5, -3.0], [0.0, 0.0], [0.0, 0.0]], np.float32).reshape(3, 2, 1, 1)
    assert sample(volume, points).ravel().tolist() == [2.0, 0.0]


def test_distance_is_in_millimetres_and_above_0_inside() -> None:
    mask = np.zeros((9, 9, 9), bool)
    mask[2:7, 2:7, 2:7] = True
    distance = signed_distance_mm(mask, (1.0, 1.0, 3.0))
    assert distance[4, 4, 4] == 2
    assert distance[4, 4, 2] == 0
    assert distance[4, 4, 0] == -6
    assert distance[0, 4, 4] == -2


def test_the_gradient_is_per_millimetre() -> None:
    ramp = np.indices((6, 6, 6), np.float32)[2]
    np.testing.assert_allclose(gradient_norm(ramp, (1, 1, 2)), 0.5)


def test_blur_of_sigma_0_changes_nothing() -> None:
    volume = np.random.default_rng(0).standard_normal((5, 5, 5)).astype(np.float32)
    np.testing.assert_array_equal(blur(volume, (0, 0, 0)), volume)


def test_a_deformation_never_folds_space() -> None:
    shape = (40, 48, 40)
    for seed in range(5):
        deformation = Deformation(
            shape, (4.0, 4.0, 4.0), scale=0.9, scale_sd=0.03, centre_mm=(0, 0, 0), rng=np.random.default_rng(seed)
        )
        points = deformation.points_mm((slice(0, 40), slice(0, 48), slice(0, 40)))
        jacobian = np.stack([np.stack(np.gradient(axis, 4.0), -1) for axis in points], -2)
        assert np.linalg.det(jacobian).min() > 0


def test_thick_slices_lie_in_the_middle_of_their_thin_ones() -> None:
    deformation = Deformation(
        (24, 24, 30), (2.0, 2.0, 1.0), scale=1, scale_sd=0, centre_mm=(0, 0, 0), rng=np.random.default_rng(0)
    )
    thin = deformation.at_voxels(deformation.knots_mm[2], (slice(0, 24), slice(0, 24), slice(0, 30)))
    thick = deformation.at_voxels(deformation.knots_mm[2], (slice(0, 24), slice(0, 24), slice(0, 10)), thin=3)
    np.testing.assert_allclose(thick, thin[..., 1::3], atol=1e-4)
