"""An individual cortex from an average one.

The maps of the template are means over many brains: where sulci differ they are grey fog. Three steps make one brain of
it. Each is an engineering choice, tuned by eye and by how much grey matter borders on other tissue.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segkit_phantom.fields import Array, blur, gradient_norm, signed_distance_mm, smooth_field, step_up
from segkit_phantom.template import BRAIN_STEM, CEREBELLUM, DEEP_GM

_SHARPNESS = 5.0
_FLOOR = 0.02


def fold(
    tissue: Array,
    region: NDArray[np.uint8],
    depth_mm: Array,
    spacing_mm: tuple[float, float, float],
    sulcus_width: float,
    rng: np.random.Generator,
) -> Array:
    """Turn the average shares of CSF, GM and WM into those of one brain.

    Args:
        tissue: (3, x, y, z) shares of CSF, GM and WM in the bent template.
        region: (x, y, z) region codes.
        depth_mm: (x, y, z) depth below the intracranial surface.
        spacing_mm: voxel size.
        sulcus_width: share of the cortex around the middle of a sulcus that is CSF.
        rng: decides where the folds are.

    Returns:
        (3, x, y, z) shares that sum to 1; the intracranial surface is not cut yet.
    """
    score = np.log(tissue + np.float32(_FLOOR))
    _vary(score, spacing_mm, rng)
    _add_sulci(score, tissue, region, depth_mm, spacing_mm, rng)
    deep = region == DEEP_GM
    score[0] -= 2 * deep
    score[1] += np.float32(0.55) * deep - np.float32(1.2) * (region == BRAIN_STEM)
    share = _softmax(score)
    _open_sulci(share, region, depth_mm, spacing_mm, sulcus_width, rng)
    return share


def _vary(score: Array, spacing_mm: tuple[float, float, float], rng: np.random.Generator) -> None:
    """Move borders back and forth by fields about as fine as gyri; shift the balance of the whole brain a little."""
    shape = score.shape[1:]
    for tissue in score:
        for fwhm_mm, strength in ((4.0, 0.38), (9.0, 0.28)):
            tissue += np.float32(strength) * smooth_field(shape, spacing_mm, fwhm_mm, rng)
    score[0] += np.float32(0.1 * rng.standard_normal())
    score[2] += np.float32(0.35)


def _add_sulci(
    score: Array,
    tissue: Array,
    region: NDArray[np.uint8],
    depth_mm: Array,
    spacing_mm: tuple[float, float, float],
    rng: np.random.Generator,
) -> None:
    """Lay thin sheets of CSF with cortex on both sides, where a smooth field crosses 0; they fade with depth."""
    cerebellum = region == CEREBELLUM
    elsewhere = (region != DEEP_GM) & (region < CEREBELLUM)
    near_brain = np.clip(2 * tissue[1:].sum(0), 0, 1)  # Without it, banks of cortex grow in the open cisterns.
    for fwhm_mm, where, bank_mm, deepest_mm, fluid, cortex in (
        (13.0, elsewhere, 2.3, 17.0, 1.2, 1.3),
        (5.0, cerebellum, 1.1, 22.0, 1.1, 0.9),
    ):
        field = smooth_field(region.shape, spacing_mm, fwhm_mm, rng)
        slope = gradient_norm(field, spacing_mm)
        squared_mm = field**2 / (slope**2 + np.float32((0.25 / fwhm_mm) ** 2))
        fade = np.clip((np.float32(deepest_mm) - depth_mm) / 5, 0, 1) * where
        score[0] += np.float32(fluid) * fade * np.exp(-squared_mm / np.float32(0.9**2))
        score[1] += np.float32(cortex) * fade * near_brain * np.exp(-squared_mm / np.float32(bank_mm**2))


def _softmax(score: Array) -> Array:
    share: Array = np.exp(np.float32(_SHARPNESS) * (score - score.max(0)))
    share /= share.sum(0)
    return share


def _open_sulci(
    share: Array,
    region: NDArray[np.uint8],
    depth_mm: Array,
    spacing_mm: tuple[float, float, float],
    sulcus_width: float,
    rng: np.random.Generator,
) -> None:
    """Put CSF where two banks of cortex meet: on the ridge of the distance to white matter, where it is not steep."""
    distance_mm = np.maximum(0, -signed_distance_mm(share[2] >= 0.5, spacing_mm))
    slope = gradient_norm(blur(distance_mm, [0.8 / mm for mm in spacing_mm]), spacing_mm)
    width = np.float32(sulcus_width) + np.float32(0.05) * smooth_field(region.shape, spacing_mm, 25, rng)
    ridge = step_up(width - slope, 0.07) * step_up(distance_mm - np.float32(2.1), 0.25)
    ridge *= share[1] * ((depth_mm < 30) & (region < CEREBELLUM) & (region != DEEP_GM))
    share[0] += ridge
    share[1] -= ridge
