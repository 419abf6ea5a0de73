"""Relaxation times and proton densities of the tissues a head is made of, at 3 tesla.

Adult values lie within what these report; where a source is a range or another field strength, the choice is ours:

- white and grey matter: Wansapura 1999, JMRI 9:531 (T1 832 and 1331 ms, T2 79 and 110 ms); Stanisz 2005, MRM 54:507
  (T1 1084 and 1820 ms, T2 69 and 99 ms, in vitro); T2* after Peters 2007, MRI 25:748.
- CSF: Lu 2005, JMRI 22:13 (T1 3817 +- 424 ms, more likely 4300); its T2 is reported anywhere from 500 to 2000 ms.
- scalp fat, muscle and bone: the ranges of de Bazelaire 2004, Radiology 230:652.

Engineering choices, not measurements: deep grey matter (between WM and GM, T2* shortened by iron), lesions, pial
vessels and membranes, all proton densities, and the whole infant table, which follows the trends of Deoni 2012,
NeuroImage 63:1038 (T1 and T2 fall as myelin comes) and Leppert 2009, JMRI 29:258, down to six months, where grey and
white matter are isointense.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Tissue:
    """What a pulse sequence sees of a tissue.

    Attributes:
        t1_ms: longitudinal relaxation time.
        t2_ms: transverse relaxation time, as a spin echo sees it.
        t2_star_ms: transverse decay time with field inhomogeneity, as a gradient echo sees it.
        proton_density: excitable protons relative to water, 0 to 1.
    """

    t1_ms: float
    t2_ms: float
    t2_star_ms: float
    proton_density: float


ADULT: Mapping[str, Tissue] = {
    "csf": Tissue(4300, 2000, 1500, 1.00),
    "pia": Tissue(1500, 60, 35, 0.85),
    "gm": Tissue(1450, 99, 66, 0.82),
    "deep_gm": Tissue(1250, 80, 45, 0.78),
    "wm": Tissue(850, 70, 53, 0.70),
    "lesion": Tissue(1350, 150, 90, 0.85),
    "bone": Tissue(400, 10, 1, 0.05),
    "fat": Tissue(380, 70, 30, 0.95),
    "muscle": Tissue(1300, 45, 28, 0.80),
}
"""Adult tissues. `pia` is what crosses the subarachnoid space: vessels and membranes.

The T1 of CSF is drawn anew for every head (`presets.Population.csf_t1_ms`)."""

INFANT: Mapping[str, Tissue] = {
    "csf": Tissue(4300, 2000, 1500, 1.00),
    "pia": Tissue(1700, 90, 45, 0.88),
    "gm": Tissue(1580, 118, 75, 0.90),
    "deep_gm": Tissue(1420, 105, 62, 0.88),
    "wm": Tissue(1590, 132, 80, 0.89),
    "myelinated_wm": Tissue(1150, 96, 60, 0.82),
}
"""Tissues at six months. `wm` is white matter without myelin; `myelinated_wm` takes its place where myelin has come."""
