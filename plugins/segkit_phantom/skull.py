"""What surrounds the brain: dura, skull bone with its marrow, scalp fat and, further down, muscle.

Layers of even thickness outside a smooth hull around the brain: an engineering choice, enough to give a network
something bright to keep out of the brain. There are no eyes, sinuses or vessels.
"""

from __future__ import annotations

import numpy as np

from segkit_phantom.fields import Array, smooth_field, step_up

_BLUR_MM = 0.45


def skull_fractions(
    inside: Array,
    outward_mm: Array,
    height_mm: Array,
    spacing_mm: tuple[float, float, float],
    rng: np.random.Generator,
) -> dict[str, Array]:
    """Shares of bone, fat and muscle.

    Args:
        inside: (x, y, z) share of each voxel that brain and CSF fill.
        outward_mm: (x, y, z) distance outside the hull.
        height_mm: (x, y, z) height in the template (MNI z), below which there are neck and face.
        spacing_mm: voxel size.
        rng: decides how thick the layers are.
    """

    def between(low: Array | float, high: Array | float) -> Array:
        return step_up(outward_mm - low, _BLUR_MM) * step_up(high - outward_mm, _BLUR_MM)

    def field(fwhm_mm: float) -> Array:
        return smooth_field(inside.shape, spacing_mm, fwhm_mm, rng)

    bone_mm = np.maximum(3, 6.5 + 1.3 * field(50)).astype(np.float32)
    scalp_mm = np.maximum(2, 5.0 + 1.2 * field(40)).astype(np.float32)
    below = step_up((-height_mm - 28) / 6 + np.float32(0.8) * field(14), _BLUR_MM)
    scalp = between(bone_mm, bone_mm + scalp_mm)
    skull = between(1, bone_mm) * (1 - below)
    marrow = between(np.float32(0.38) * bone_mm, np.float32(0.66) * bone_mm)
    marrow *= np.clip(np.float32(0.33) + np.float32(0.15) * field(12), 0, 0.6)
    fatty = np.clip(np.float32(0.2) + np.float32(0.2) * field(10), 0, 0.6) * below
    flesh = (1 - skull - scalp) * step_up(bone_mm - outward_mm, _BLUR_MM)
    flesh *= np.float32(0.6) + np.float32(0.2) * below
    outside = 1 - inside
    return {
        "bone": outside * skull * (1 - marrow),
        "fat": outside * (np.float32(0.7) * scalp + skull * marrow + flesh * fatty),
        "muscle": outside * (np.float32(0.3) * scalp + flesh * (1 - fatty)),
    }
