from dataclasses import replace
from math import inf

import numpy as np
import pytest
from scipy import ndimage

from segkit_phantom.acquisition import acquire
from segkit_phantom.anatomy import Head
from segkit_phantom.presets import BACKGROUND, CSF, GM, PRESETS, WM
from segkit_phantom.signal import InversionRecovery, Sequence, SpinEcho

T1 = SpinEcho(repetition_time_ms=340, echo_time_ms=13)
T2 = SpinEcho(repetition_time_ms=3500, echo_time_ms=120)


def medians(image: np.ndarray, head: Head) -> dict[int, float]:
    """Median over the inner voxels of each class."""
    label = head.embed(head.label)
    inner = {code: ndimage.binary_erosion(label == code) for code in (CSF, GM, WM)}
    return {code: float(np.median(image[mask])) for code, mask in inner.items()}


def clean(head: Head, sequence: Sequence) -> np.ndarray:
    """The image without noise, receive field and mottle."""
    rng = np.random.default_rng(0)
    return acquire(replace(head, mottle_sd=0.0), sequence, rng, snr=inf, bias=0)


def test_t1_weighting_is_dark_csf_and_bright_white_matter(head: Head) -> None:
    level = medians(acquire(head, T1, np.random.default_rng(0)), head)
    assert level[CSF] < level[GM] < level[WM]


def test_t2_weighting_is_the_other_way_round(head: Head) -> None:
    level = medians(acquire(head, T2, np.random.default_rng(0)), head)
    assert level[CSF] > level[GM] > level[WM]


def test_flair_has_dark_csf_and_bright_cortex(mrbrains_head: Head) -> None:
    flair = PRESETS["mrbrains"].channels["FLAIR"].sequence
    level = medians(acquire(mrbrains_head, flair, np.random.default_rng(0)), mrbrains_head)
    assert level[CSF] < 0.7 * level[WM] < level[WM] < level[GM]


def test_signed_inversion_recovery_keeps_the_order_and_has_grey_air(mrbrains_head: Head) -> None:
    sequence = InversionRecovery(repetition_time_ms=4416, echo_time_ms=15, inversion_time_ms=400, signed=True)
    image = acquire(mrbrains_head, sequence, np.random.default_rng(0))
    level = medians(image, mrbrains_head)
    assert image.min() == 0
    assert level[CSF] < level[GM] < level[WM] < image[0].mean()


def test_a_voxel_of_one_tissue_has_its_signal_and_a_border_voxel_one_in_between(head: Head) -> None:
    image = clean(head, T1)[head.box]
    gm, wm = (T1.signal(head.tissues[name]) for name in ("gm", "wm"))
    pure = head.fractions["wm"] > 0.9999
    mixed = (head.fractions["wm"] + head.fractions["gm"] > 0.9999) & (np.abs(head.fractions["wm"] - 0.5) < 0.1)
    assert pure.sum() > 100
    assert mixed.sum() > 100
    np.testing.assert_allclose(image[pure], 400, rtol=1e-3)
    assert 400 * gm / wm < image[mixed].min() <= image[mixed].max() < 400
    np.testing.assert_allclose(image[mixed], 200 * (1 + gm / wm), rtol=0.06)


def test_a_brain_without_skull_is_exactly_0_outside(head: Head) -> None:
    image = acquire(head, T1, np.random.default_rng(0), snr=5)
    outside = head.embed(head.label) == BACKGROUND
    assert not image[outside].any()
    assert (image[~outside] > 0).all()


def test_noise_in_air_is_rician(mrbrains_head: Head) -> None:
    image = acquire(mrbrains_head, T1, np.random.default_rng(0), snr=20)
    # Without signal it is Rayleigh: mean sqrt(pi / 2) and standard deviation sqrt(2 - pi / 2), in units of 400 / SNR.
    air = image[:6]
    assert air.mean() == pytest.approx(20 * 1.2533, rel=0.05)
    assert air.std() == pytest.approx(20 * 0.6551, rel=0.05)


def test_noise_in_white_matter_has_the_asked_snr(head: Head) -> None:
    noisy = acquire(replace(head, mottle_sd=0.0), T1, np.random.default_rng(0), snr=10, bias=0)
    pure = head.fractions["wm"] > 0.9999
    assert noisy[head.box][pure].std() == pytest.approx(40, rel=0.1)


def test_the_receive_field_is_smooth_and_as_strong_as_asked(head: Head) -> None:
    flat = replace(head, mottle_sd=0.0)
    image = acquire(flat, T1, np.random.default_rng(0), snr=inf, bias=0.3)[head.box]
    inside = head.label > 0
    gain = np.log(image[inside] / clean(head, T1)[head.box][inside])
    assert gain.std() == pytest.approx(0.3, rel=1e-3)
    field = np.zeros(head.label.shape)
    field[inside] = gain
    steps = np.abs(np.diff(field, axis=0))[inside[1:] & inside[:-1]]
    assert steps.max() < 0.06


def test_a_blur_softens_borders(head: Head) -> None:
    flat = replace(head, mottle_sd=0.0)
    soft = acquire(flat, T1, np.random.default_rng(0), snr=inf, bias=0, blur_mm=(2, 2, 2))[head.box]
    inside = ndimage.binary_erosion(head.label > 0)
    steps = [np.abs(np.diff(image, axis=0, append=0))[inside].mean() for image in (soft, clean(head, T1)[head.box])]
    assert steps[0] < 0.7 * steps[1]


def test_the_same_generator_gives_the_same_image(head: Head) -> None:
    first, second = (acquire(head, T1, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
