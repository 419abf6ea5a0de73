"""What can be made: populations of heads, protocols, and the presets that pair them.

This module is plain values, so that a listing of presets costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from segkit_phantom.signal import InversionRecovery, Mprage, Sequence, SpinEcho
from segkit_phantom.tissue import ADULT, INFANT, Tissue

BACKGROUND, CSF, GM, WM = 0, 1, 2, 3
CEREBELLUM, BRAIN_STEM = 7, 8
"""Codes of label files: the classes, and those of MRBrainS 2018 for the two regions that are left out of its scores."""

Range = tuple[float, float]
"""From and to; a value is drawn uniformly for each head."""


@dataclass(frozen=True, kw_only=True)
class Population:
    """How heads differ from the template and from each other. All figures are engineering choices.

    Attributes:
        tissues: relaxation times before their spread. relaxation_sd: spread of T1, T2 and T2* between heads, relative.
            Above 0.01 some infants are no longer isointense. csf_t1_ms: T1 of CSF; flow and partial volume shorten what
            a scanner sees. scale: size relative to the template, an average of adult heads enlarged to Talairach space.
            scale_sd: its spread between heads. sulcus_width: how open sulci are: the share of the cortex, around where
            its two banks meet, that is CSF. pia: mean share of vessels and membranes in the subarachnoid space.
            mottle_sd: spread of the signal within grey and within white matter, relative. lesions: most white matter
            lesions a head may have.
    """

    tissues: Mapping[str, Tissue]
    relaxation_sd: float
    csf_t1_ms: Range
    scale: float
    scale_sd: float
    sulcus_width: float
    pia: float
    mottle_sd: float
    lesions: int


@dataclass(frozen=True, kw_only=True)
class Channel:
    """How one modality is acquired.

    Attributes:
        sequence: the pulse sequence.
        varied: sequence parameters that differ between heads.
        snr: signal of white or grey matter, the brighter, over the standard deviation of the noise.
        bias: standard deviation of the logarithm of the receive field over the head.
        blur_mm: standard deviation of an extra smoothing, where the image was acquired coarser than it is stored.
    """

    sequence: Sequence
    varied: Mapping[str, Range] = field(default_factory=dict)
    snr: Range
    bias: Range
    blur_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A kind of data set.

    Attributes:
        summary: one line for listings.
        population: who is scanned.
        shape: (x, y, z) voxels.
        spacing_mm: their size.
        thin_slices: how many thinner slices are averaged into each slice along z.
        skull: whether the head around the brain is in the image; without it everything outside is exactly 0.
        hindbrain: what becomes of cerebellum and brain stem: GM and WM like the rest, codes of their own, or cut away.
        channels: modality name -> how it is acquired, in channel order.
    """

    summary: str
    population: Population
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    thin_slices: int = 1
    skull: bool = False
    hindbrain: Literal["classes", "codes", "removed"] = "classes"
    channels: Mapping[str, Channel]


ADULTS = Population(
    tissues=ADULT,
    relaxation_sd=0.04,
    csf_t1_ms=(3500, 4300),
    scale=0.885,
    scale_sd=0.035,
    sulcus_width=0.74,
    pia=0.3,
    mottle_sd=0.035,
    lesions=8,
)

# The published inversion time of 2800 ms nulls a T1 of 4400 ms.
MRBRAINS_ADULTS = replace(ADULTS, csf_t1_ms=(4250, 4500))

INFANTS = Population(
    tissues=INFANT,
    relaxation_sd=0.008,
    csf_t1_ms=(4100, 4300),
    scale=0.80,
    scale_sd=0.035,
    sulcus_width=0.60,
    pia=0.1,
    mottle_sd=0.02,
    lesions=0,
)

_ADULT_CHANNELS = {
    # Common MPRAGE and fast spin echo protocols at 3 T; wide enough that a network cannot count on one contrast.
    "T1": Channel(
        sequence=Mprage(repetition_time_ms=2300, echo_time_ms=3, inversion_time_ms=900, flip_angle_deg=9),
        varied={"inversion_time_ms": (850, 1250), "flip_angle_deg": (6, 12), "echo_time_ms": (2, 5)},
        snr=(12, 30),
        bias=(0.07, 0.28),
        blur_mm=(0.5, 0.5, 0.5),
    ),
    "T2": Channel(
        sequence=SpinEcho(repetition_time_ms=3500, echo_time_ms=120),
        varied={"repetition_time_ms": (3000, 6000), "echo_time_ms": (90, 120)},
        snr=(12, 30),
        bias=(0.07, 0.28),
        blur_mm=(0.5, 0.5, 0.5),
    ),
}

PRESETS: Mapping[str, Preset] = {
    "mini": Preset(
        summary="adults, T1 and T2, brain only, 80x96x80 at 2 mm: for tests and first steps",
        population=ADULTS,
        shape=(80, 96, 80),
        spacing_mm=(2.0, 2.0, 2.0),
        channels=_ADULT_CHANNELS,
    ),
    "adult": Preset(
        summary="adults, T1 and T2, brain only, 168x208x176 at 1 mm, contrast varied widely",
        population=ADULTS,
        shape=(168, 208, 176),
        spacing_mm=(1.0, 1.0, 1.0),
        channels=_ADULT_CHANNELS,
    ),
    # Protocol of the infants in Zhang 2015, NeuroImage 108:214; its inversion time is not published, 900 ms is assumed.
    "iseg": Preset(
        summary="infants of six months like iSEG 2017: T1 and T2, isointense, cerebrum only, 144x192x256 at 1 mm",
        population=INFANTS,
        shape=(144, 192, 256),
        spacing_mm=(1.0, 1.0, 1.0),
        hindbrain="removed",
        channels={
            "T1": Channel(
                sequence=Mprage(repetition_time_ms=1900, echo_time_ms=4.38, inversion_time_ms=900, flip_angle_deg=7),
                snr=(25, 35),
                bias=(0.02, 0.05),
            ),
            "T2": Channel(
                sequence=SpinEcho(repetition_time_ms=7380, echo_time_ms=119),
                snr=(25, 35),
                bias=(0.02, 0.05),
                blur_mm=(0.35, 0.35, 0.75),
            ),
        },
    ),
    # Protocol on mrbrains18.isi.uu.nl. Its T1 is a turbo field echo whose prepulse is not published: 950 ms is assumed.
    "mrbrains": Preset(
        summary="adults like MRBrainS 2018: T1, T1-IR and FLAIR, with skull, 240x240x48 at 0.958x0.958x3 mm",
        population=MRBRAINS_ADULTS,
        shape=(240, 240, 48),
        spacing_mm=(0.958, 0.958, 3.0),
        thin_slices=3,
        skull=True,
        hindbrain="codes",
        channels={
            "T1": Channel(
                sequence=Mprage(
                    repetition_time_ms=2300,
                    echo_time_ms=4.5,
                    inversion_time_ms=950,
                    flip_angle_deg=8,
                    echo_spacing_ms=7.9,
                ),
                snr=(25, 35),
                bias=(0.05, 0.12),
            ),
            "T1-IR": Channel(
                sequence=InversionRecovery(
                    repetition_time_ms=4416, echo_time_ms=15, inversion_time_ms=400, signed=True
                ),
                snr=(20, 30),
                bias=(0.05, 0.12),
            ),
            "FLAIR": Channel(
                sequence=InversionRecovery(repetition_time_ms=11000, echo_time_ms=125, inversion_time_ms=2800),
                snr=(20, 30),
                bias=(0.05, 0.12),
            ),
        },
    ),
}
