"""Each expected number was worked out by hand from the equation in the docstring."""

from dataclasses import replace
from math import cos, exp, log, radians, sin

import pytest

from segkit.errors import UsageError
from segkit_phantom.signal import InversionRecovery, Mprage, SpinEcho, SpoiledGradientEcho
from segkit_phantom.tissue import ADULT, INFANT, Tissue

WATER = Tissue(1000.0, 100.0, 50.0, 0.8)


def test_spin_echo_at_one_t1_and_one_t2() -> None:
    signal = SpinEcho(repetition_time_ms=1000, echo_time_ms=100).signal(WATER)
    assert signal == pytest.approx(0.8 * 0.632121 * 0.367879, rel=1e-5)


def test_spin_echo_of_long_tr_and_te_0_is_the_proton_density() -> None:
    assert SpinEcho(repetition_time_ms=1e6, echo_time_ms=0).signal(WATER) == pytest.approx(0.8)


def test_spin_echo_of_tr_0_or_very_long_te_is_nothing() -> None:
    assert SpinEcho(repetition_time_ms=0, echo_time_ms=10).signal(WATER) == 0
    assert SpinEcho(repetition_time_ms=1000, echo_time_ms=1e5).signal(WATER) == pytest.approx(0)


def test_inversion_recovery_at_one_t1() -> None:
    sequence = InversionRecovery(repetition_time_ms=5000, echo_time_ms=100, inversion_time_ms=1000)
    assert sequence.signal(WATER) == pytest.approx(0.8 * (1 - 0.735759 + 0.006738) * 0.367879, rel=1e-5)


def test_inversion_recovery_is_below_0_before_the_null_and_above_after() -> None:
    null_ms = 1000 * log(2 / (1 + exp(-5)))
    before, at, after = (
        InversionRecovery(repetition_time_ms=5000, echo_time_ms=10, inversion_time_ms=time_ms).signal(WATER)
        for time_ms in (null_ms - 50, null_ms, null_ms + 50)
    )
    assert before < 0 < after
    assert at == pytest.approx(0, abs=1e-12)


def test_flair_nulls_csf_and_keeps_brain() -> None:
    csf = ADULT["csf"]
    null_ms = csf.t1_ms * log(2 / (1 + exp(-11000 / csf.t1_ms)))
    flair = InversionRecovery(repetition_time_ms=11000, echo_time_ms=125, inversion_time_ms=null_ms)
    assert abs(flair.signal(csf)) < 1e-9
    assert flair.signal(ADULT["gm"]) > flair.signal(ADULT["wm"]) > 0.05


def test_inversion_time_0_is_the_whole_signal_upside_down() -> None:
    sequence = InversionRecovery(repetition_time_ms=1e6, echo_time_ms=0, inversion_time_ms=0)
    assert sequence.signal(WATER) == pytest.approx(-0.8)


def test_spoiled_gradient_echo_at_90_degrees_is_a_saturation_recovery() -> None:
    sequence = SpoiledGradientEcho(repetition_time_ms=1000, echo_time_ms=50, flip_angle_deg=90)
    assert sequence.signal(WATER) == pytest.approx(0.8 * 0.632121 * 0.367879, rel=1e-5)


def test_spoiled_gradient_echo_is_brightest_at_the_ernst_angle() -> None:
    # arccos(exp(-20/1000)) = 11.4 degrees.
    signals = {
        angle: SpoiledGradientEcho(repetition_time_ms=20, echo_time_ms=2, flip_angle_deg=angle).signal(WATER)
        for angle in (5.0, 9.0, 11.4, 14.0, 30.0)
    }
    assert max(signals, key=lambda angle: signals[angle]) == 11.4


def test_mprage_equals_the_bloch_equations_played_pulse_by_pulse() -> None:
    sequence = Mprage(repetition_time_ms=2000, echo_time_ms=4, inversion_time_ms=900, flip_angle_deg=9, excitations=100)

    def relax(magnetisation: float, time_ms: float) -> float:
        return 1 - (1 - magnetisation) * exp(-time_ms / WATER.t1_ms)

    magnetisation = middle = 1.0
    for _ in range(20):
        magnetisation = relax(-magnetisation, 900 - 50 * 8)
        for excitation in range(100):
            if excitation == 50:
                middle = magnetisation
            magnetisation = relax(magnetisation * cos(radians(9)), 8)
        magnetisation = relax(magnetisation, 2000 - 900 - 50 * 8)
    assert sequence.signal(WATER) == pytest.approx(0.8 * sin(radians(9)) * middle * exp(-4 / 50), rel=1e-9)


def test_mprage_refuses_an_inversion_time_that_the_train_does_not_fit_around() -> None:
    with pytest.raises(UsageError, match=r"expected an inversion time of 600 to 1400 ms, .* got 500"):
        Mprage(repetition_time_ms=2000, echo_time_ms=4, inversion_time_ms=500, flip_angle_deg=9)


def test_adult_contrast_follows_the_weighting() -> None:
    t1_weighted = SpinEcho(repetition_time_ms=340, echo_time_ms=13)
    t2_weighted = SpinEcho(repetition_time_ms=3500, echo_time_ms=120)
    csf, gm, wm = (ADULT[name] for name in ("csf", "gm", "wm"))
    assert t1_weighted.signal(csf) < t1_weighted.signal(gm) < t1_weighted.signal(wm)
    assert t2_weighted.signal(csf) > t2_weighted.signal(gm) > t2_weighted.signal(wm)


def test_infant_grey_and_unmyelinated_white_matter_are_isointense_in_t1() -> None:
    sequence = Mprage(repetition_time_ms=1900, echo_time_ms=4.38, inversion_time_ms=900, flip_angle_deg=7)
    assert sequence.signal(INFANT["gm"]) == pytest.approx(sequence.signal(INFANT["wm"]), rel=0.03)


def test_signal_is_proportional_to_proton_density() -> None:
    twice = replace(WATER, proton_density=1.6)
    for sequence in (
        SpinEcho(repetition_time_ms=500, echo_time_ms=20),
        SpoiledGradientEcho(repetition_time_ms=20, echo_time_ms=5, flip_angle_deg=20),
        InversionRecovery(repetition_time_ms=4000, echo_time_ms=20, inversion_time_ms=400),
        Mprage(repetition_time_ms=2300, echo_time_ms=3, inversion_time_ms=900, flip_angle_deg=9),
    ):
        assert sequence.signal(twice) == pytest.approx(2 * sequence.signal(WATER))
