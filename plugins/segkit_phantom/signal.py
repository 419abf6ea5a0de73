"""MR signal equations: what a pulse sequence makes of a tissue.

Each sequence is a frozen dataclass of its timing; `signal` gives its signal for one tissue, relative to that of fully
relaxed water at once. TR, TE and TI and what they do to contrast are the subject of sections 1.3, 1.4 and 1.8 of the
thesis (Adaloglou 2019, "Deep learning in medical image analysis"); the equations are the steady-state solutions of the
Bloch equations as textbooks give them (Haacke 1999, "Magnetic Resonance Imaging", chapters 8, 15 and 18; Bernstein
2004, "Handbook of MRI Pulse Sequences", chapter 14).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, exp, radians, sin
from typing import Protocol

from segkit.errors import UsageError
from segkit_phantom.tissue import Tissue


class Sequence(Protocol):
    """A pulse sequence."""

    def signal(self, tissue: Tissue) -> float:
        """The signal of a tissue; below 0 where inverted magnetisation has not recovered yet."""


@dataclass(frozen=True, kw_only=True)
class SpinEcho:
    """Spin echo, and fast spin echo at its effective echo time (thesis 1.4).

    `PD (1 - exp(-TR/T1)) exp(-TE/T2)`, for TE much shorter than TR.
    """

    repetition_time_ms: float
    echo_time_ms: float

    def signal(self, tissue: Tissue) -> float:
        """See the class."""
        recovered = 1 - exp(-self.repetition_time_ms / tissue.t1_ms)
        return tissue.proton_density * recovered * exp(-self.echo_time_ms / tissue.t2_ms)


@dataclass(frozen=True, kw_only=True)
class SpoiledGradientEcho:
    """Spoiled gradient echo (Haase 1986, J Magn Reson 67:258).

    `PD sin(a) (1 - E) / (1 - cos(a) E) exp(-TE/T2*)` with `E = exp(-TR/T1)`.
    """

    repetition_time_ms: float
    echo_time_ms: float
    flip_angle_deg: float

    def signal(self, tissue: Tissue) -> float:
        """See the class."""
        flip = radians(self.flip_angle_deg)
        longitudinal = _spoiled_steady_state(tissue, self.repetition_time_ms, flip)
        return tissue.proton_density * sin(flip) * longitudinal * exp(-self.echo_time_ms / tissue.t2_star_ms)


@dataclass(frozen=True, kw_only=True)
class InversionRecovery:
    """Inversion recovery spin echo; FLAIR is the one whose inversion time nulls CSF (thesis 1.8).

    `PD (1 - 2 exp(-TI/T1) + exp(-TR/T1)) exp(-TE/T2)`. A tissue is nulled at `TI = T1 ln(2 / (1 + exp(-TR/T1)))`.

    Attributes:
        repetition_time_ms: from one inversion to the next.
        echo_time_ms: from excitation to echo.
        inversion_time_ms: from inversion to excitation.
        signed: the image keeps the sign of the signal (phase-sensitive reconstruction) and is shifted to start at 0;
            otherwise it is the magnitude.
    """

    repetition_time_ms: float
    echo_time_ms: float
    inversion_time_ms: float
    signed: bool = False

    def signal(self, tissue: Tissue) -> float:
        """See the class."""
        inverted = 2 * exp(-self.inversion_time_ms / tissue.t1_ms)
        recovered = 1 - inverted + exp(-self.repetition_time_ms / tissue.t1_ms)
        return tissue.proton_density * recovered * exp(-self.echo_time_ms / tissue.t2_ms)


@dataclass(frozen=True, kw_only=True)
class Mprage:
    """Magnetisation-prepared rapid gradient echo (Mugler 1990, MRM 15:152), in its steady state over many trains.

    Inversion, a delay, then a train of low-angle excitations in whose middle the centre of k-space is read. Each
    excitation leaves `cos(a)` of the longitudinal magnetisation, which then relaxes for one echo spacing; the state
    before the next inversion is an affine function of the state before this one, so its fixed point is exact.

    Attributes:
        repetition_time_ms: from one inversion to the next.
        echo_time_ms: from excitation to echo.
        inversion_time_ms: from inversion to the middle of the train.
        flip_angle_deg: of each excitation.
        echo_spacing_ms: from one excitation to the next.
        excitations: in a train.
    """

    repetition_time_ms: float
    echo_time_ms: float
    inversion_time_ms: float
    flip_angle_deg: float
    echo_spacing_ms: float = 8.0
    excitations: int = 150

    def __post_init__(self) -> None:
        half_train_ms = self.echo_spacing_ms * self.excitations / 2
        if not half_train_ms <= self.inversion_time_ms <= self.repetition_time_ms - half_train_ms:
            latest_ms = self.repetition_time_ms - half_train_ms
            raise UsageError(
                f"expected an inversion time of {half_train_ms:g} to {latest_ms:g} ms, in the middle of "
                f"{self.excitations} excitations, got {self.inversion_time_ms:g}",
                hint="shorten the train or change TI or TR",
            )

    def signal(self, tissue: Tissue) -> float:
        """See the class."""
        flip = radians(self.flip_angle_deg)
        half_train_ms = self.echo_spacing_ms * self.excitations / 2
        kept = cos(flip) * exp(-self.echo_spacing_ms / tissue.t1_ms)
        kept_half: float = kept ** (self.excitations / 2)
        kept_train = kept_half**2
        driven = _spoiled_steady_state(tissue, self.echo_spacing_ms, flip)
        delay = exp(-(self.inversion_time_ms - half_train_ms) / tissue.t1_ms)
        recovery = exp(-(self.repetition_time_ms - self.inversion_time_ms - half_train_ms) / tissue.t1_ms)
        # With m before the inversion: start of train 1 - (1 + m) delay, end driven + (start - driven) kept_train.
        end_without_m = driven + (1 - delay - driven) * kept_train
        before = (1 - (1 - end_without_m) * recovery) / (1 + delay * kept_train * recovery)
        start = 1 - (1 + before) * delay
        middle = driven + (start - driven) * kept_half
        return tissue.proton_density * sin(flip) * middle * exp(-self.echo_time_ms / tissue.t2_star_ms)


def _spoiled_steady_state(tissue: Tissue, repetition_time_ms: float, flip_rad: float) -> float:
    relaxed = exp(-repetition_time_ms / tissue.t1_ms)
    return (1 - relaxed) / (1 - cos(flip_rad) * relaxed)
