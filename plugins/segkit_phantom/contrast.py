"""What TR, TE and TI do to one slice of a head: the pictures of sections 1.4 and 1.8 of the thesis.

The head has a skull, since fat is the brightest tissue under T1 weighting. Every image has noise of one strength, as
the images of one scanner have, so those that wait long for their echo are also seen to be noisier.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import exp, log

import numpy as np

from segkit.contrast import ContrastCurve, ContrastSeries, ContrastSlice
from segkit_phantom.anatomy import Head, make_head
from segkit_phantom.presets import PRESETS
from segkit_phantom.signal import InversionRecovery, SpinEcho, SpoiledGradientEcho
from segkit_phantom.signal import Sequence as PulseSequence
from segkit_phantom.template import load_template

TISSUES = {"CSF": "csf", "GM": "gm", "WM": "wm", "lesion": "lesion", "fat": "fat"}
"""Tissues that have a curve: their name for people -> their name in a head."""

# A slab around the ventricles: one slice is shown, and the other slices are what its own anatomy needs.
_SLAB = replace(PRESETS["adult"], shape=(184, 224, 24), skull=True)
_NOISE_SD = 0.006
_CURVE_POINTS = 241

# A typical spin echo, and a typical fast spin echo, as the thesis gives them.
_T1_TR_MS, _T1_TE_MS = 340.0, 13.0
_T2_TR_MS, _T2_TE_MS = 3500.0, 120.0

# The protocols of T1-IR and FLAIR of MRBrainS 2018.
_IR_TR_MS, _IR_TE_MS = 4416.0, 15.0
_FLAIR_TR_MS, _FLAIR_TE_MS = 11000.0, 125.0


def contrast(seed: int) -> list[ContrastSeries]:
    """One slice of one head under series of sequences.

    Args:
        seed: decides the head and the noise.

    Raises:
        MissingExtra: nilearn is not installed.
    """
    rng = np.random.default_rng(seed)
    scan = _Scan(make_head(_SLAB, load_template(), rng), rng)
    return [
        scan.series(
            "t1-tr",
            f"T1 weighting: spin echo, TE {_T1_TE_MS:g} ms",
            "TR",
            lambda tr_ms: SpinEcho(repetition_time_ms=tr_ms, echo_time_ms=_T1_TE_MS),
            (150, _T1_TR_MS, 800, 2000, 5000),
            6000,
        ),
        scan.series(
            "t2-te",
            f"T2 weighting: spin echo, TR {_T2_TR_MS:g} ms",
            "TE",
            lambda te_ms: SpinEcho(repetition_time_ms=_T2_TR_MS, echo_time_ms=te_ms),
            (_T1_TE_MS, 40, 80, _T2_TE_MS, 240),
            300,
        ),
        _weightings(scan),
        scan.series(
            "ir-ti",
            f"Inversion recovery: TR {_IR_TR_MS:g}, TE {_IR_TE_MS:g} ms",
            "TI",
            lambda ti_ms: InversionRecovery(
                repetition_time_ms=_IR_TR_MS, echo_time_ms=_IR_TE_MS, inversion_time_ms=ti_ms
            ),
            (150, 3500),
            4000,
            scan.nulls_ms(("WM", "GM", "CSF"), _IR_TR_MS),
        ),
        scan.series(
            "flair-ti",
            f"FLAIR: inversion recovery, TR {_FLAIR_TR_MS:g}, TE {_FLAIR_TE_MS:g} ms",
            "TI",
            lambda ti_ms: InversionRecovery(
                repetition_time_ms=_FLAIR_TR_MS, echo_time_ms=_FLAIR_TE_MS, inversion_time_ms=ti_ms
            ),
            (1000, 2000, 4000, 6000),
            8000,
            scan.nulls_ms(["CSF"], _FLAIR_TR_MS),
        ),
        scan.series(
            "gradient-echo-flip",
            "From PD to T1 weighting: spoiled gradient echo, TR 20, TE 4 ms",
            "flip angle",
            lambda degrees: SpoiledGradientEcho(repetition_time_ms=20, echo_time_ms=4, flip_angle_deg=degrees),
            (2, 5, 10, 20, 40),
            60,
            unit="degrees",
        ),
    ]


class _Scan:
    """The slice of a head, and its image under any sequence."""

    def __init__(self, head: Head, rng: np.random.Generator) -> None:
        middle = head.label.shape[2] // 2
        self._shares = {name: head.embed(share)[..., middle] for name, share in head.fractions.items()}
        self._tissues = head.tissues
        self._rng = rng
        self.spacing_mm = head.spacing_mm[:2]

    def nulls_ms(self, names: Sequence[str], repetition_time_ms: float) -> dict[str, float]:
        """The inversion times at which tissues pass 0: `T1 ln(2 / (1 + exp(-TR/T1)))`."""
        times_ms = {f"{name} null": float(self._tissues[TISSUES[name]].t1_ms) for name in names}
        return {name: t1_ms * log(2 / (1 + exp(-repetition_time_ms / t1_ms))) for name, t1_ms in times_ms.items()}

    def signals(self, sequence: PulseSequence) -> dict[str, float]:
        return {name: float(sequence.signal(self._tissues[key])) for name, key in TISSUES.items()}

    def slice(self, sequence: PulseSequence, title: str) -> ContrastSlice:
        """The magnitude image: the shares of a voxel add up before the magnitude is taken, and so does the noise."""
        image = np.zeros(next(iter(self._shares.values())).shape, np.float32)
        for name, share in self._shares.items():
            image += share * np.float32(sequence.signal(self._tissues[name]))
        noise = _NOISE_SD * self._rng.standard_normal((2, *image.shape), np.float32)
        magnitude = np.hypot(image + noise[0], noise[1])
        return ContrastSlice(title=title, image=magnitude, signals=self.signals(sequence))

    def series(
        self,
        name: str,
        title: str,
        parameter: str,
        sequence: Callable[[float], PulseSequence],
        pictured: Sequence[float],
        most: float,
        marks: dict[str, float] | None = None,
        unit: str = "ms",
    ) -> ContrastSeries:
        """One row of slices and their curves, over one parameter from 0 to `most`; marks are pictured too."""
        marked = {value: f": {name}" for name, value in (marks or {}).items()}
        pictured = sorted([*pictured, *marked])
        titles = [f"{parameter} {value:.0f} {unit}{marked.get(value, '')}" for value in pictured]
        values = np.linspace(0, most, _CURVE_POINTS)
        along = [self.signals(sequence(value)) for value in values]
        return ContrastSeries(
            name=name,
            title=title,
            rows=[[self.slice(sequence(value), text) for value, text in zip(pictured, titles, strict=True)]],
            spacing_mm=self.spacing_mm,
            curve=ContrastCurve(
                parameter=f"{parameter}, {unit}",
                values=values,
                signals={tissue: np.array([signals[tissue] for signals in along]) for tissue in TISSUES},
                pictured=tuple(pictured),
                marks=marks or {},
            ),
        )


def _weightings(scan: _Scan) -> ContrastSeries:
    """TR and TE together: short and short is T1 weighting, long and short PD, long and long T2."""
    named = {(_T1_TR_MS, _T1_TE_MS): "T1w", (_T2_TR_MS, _T1_TE_MS): "PDw", (_T2_TR_MS, _T2_TE_MS): "T2w"}
    rows = [
        [
            scan.slice(
                SpinEcho(repetition_time_ms=tr_ms, echo_time_ms=te_ms),
                f"TR {tr_ms:g}, TE {te_ms:g} ms" + (f": {named[tr_ms, te_ms]}" if (tr_ms, te_ms) in named else ""),
            )
            for te_ms in (_T1_TE_MS, 60.0, _T2_TE_MS)
        ]
        for tr_ms in (_T1_TR_MS, 1500.0, _T2_TR_MS)
    ]
    return ContrastSeries(
        name="tr-te", title="TR and TE of a spin echo together", rows=rows, spacing_mm=scan.spacing_mm
    )
