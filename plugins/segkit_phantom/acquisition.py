"""From a head to an image: signal, resolution, receive field and noise of one scan."""

from __future__ import annotations

import numpy as np

from segkit_phantom.anatomy import Head
from segkit_phantom.fields import Array, blur, smooth_field
from segkit_phantom.signal import InversionRecovery, Sequence

_BRAIN_LEVEL = 400.0
_BIAS_FWHM_MM = 110.0
_MOTTLE_FWHM_MM = 14.0
_MOTTLED = ("gm", "deep_gm", "wm", "myelinated_wm")


def acquire(
    head: Head,
    sequence: Sequence,
    rng: np.random.Generator,
    *,
    snr: float = 30.0,
    bias: float = 0.1,
    blur_mm: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Array:
    """Scan a head.

    The signal of a voxel is the sum over its tissues of share times signal, so borders show partial volume. The receive
    field multiplies it by the exponential of a smooth field. Magnitude images get the noise of a complex signal
    (Rician: Gudbjartsson 1995, MRM 34:910), signed ones Gaussian noise.

    Args:
        head: what is scanned.
        sequence: how.
        rng: decides mottle, receive field and noise.
        snr: signal of white or grey matter, the brighter, over the standard deviation of the noise; inf for none.
        bias: standard deviation of the logarithm of the receive field over the head.
        blur_mm: standard deviation of an extra smoothing.

    Returns:
        (x, y, z) float32, not below 0; the brighter of white and grey matter lies near 400. Without a skull every voxel
        of the background label is exactly 0.
    """
    signals = {name: sequence.signal(tissue) for name, tissue in head.tissues.items()}
    reference = max(abs(signals["wm"]), abs(signals["gm"]))
    image = _signal(head, signals, rng)
    image = blur(image, [sigma / mm for sigma, mm in zip(blur_mm, head.spacing_mm, strict=True)])
    image *= _receive_field(head, bias, rng)
    noise = rng.standard_normal((2, *image.shape), np.float32) * np.float32(reference / snr)
    if isinstance(sequence, InversionRecovery) and sequence.signed:
        image += noise[0]
        image = np.maximum(0, image - np.quantile(image, 5e-4))
    else:
        image = np.hypot(image + noise[0], noise[1])
    if not head.skull:
        image *= head.label > 0
    result: Array = head.embed(image * np.float32(_BRAIN_LEVEL / reference))
    return result


def _signal(head: Head, signals: dict[str, float], rng: np.random.Generator) -> Array:
    shape = head.label.shape
    image = np.zeros(shape, np.float32)
    for name, share in head.fractions.items():
        if name in _MOTTLED:
            mottle = smooth_field(shape, head.spacing_mm, _MOTTLE_FWHM_MM, rng)
            image += share * np.float32(signals[name]) * (1 + np.float32(head.mottle_sd) * mottle)
        else:
            image += share * np.float32(signals[name])
    return image


def _receive_field(head: Head, bias: float, rng: np.random.Generator) -> Array:
    field = smooth_field(head.label.shape, head.spacing_mm, _BIAS_FWHM_MM, rng)
    inside = field[head.label > 0]
    field -= inside.mean()
    field *= np.float32(bias) / max(inside.std(), np.float32(1e-6))
    return np.exp(field, out=field)
