"""The arrays on their way into the network and out of it: read, checked against the manifest, normalised, encoded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segkit.dataset import read_images
from segkit.errors import DataError, VolumeError
from segkit.preprocess import normalise
from segkit.volume import Volume
from segkit_runtime.manifest import Manifest, Spacing

_SPACING_TOLERANCE_MM = 5e-3
"""Headers round voxel sizes: 0.977 for 0.9765625."""


def read_modalities(images: Mapping[str, Path], manifest: Manifest) -> tuple[Volume, list[Volume]]:
    """Read the files of a head.

    Args:
        images: modality name -> file.
        manifest: what the bundle expects of them.

    Returns:
        The first modality as its file has it, and all modalities, in the manifest's order, in canonical orientation.

    Raises:
        UsageError: a modality is missing, or there is one too many.
        DataError: a file is bad, the grids disagree, or the voxel sizes are not those of the manifest.
    """
    original, volumes = read_images(images, manifest.modalities)
    _require_spacing(volumes[0], manifest.spacing)
    return original, volumes


def _require_spacing(volume: Volume, spacing: Spacing | None) -> None:
    if spacing is None:
        return
    ranges = list(zip(spacing.least_mm, spacing.most_mm, strict=True))
    fits = (
        least - _SPACING_TOLERANCE_MM <= side <= most + _SPACING_TOLERANCE_MM
        for side, (least, most) in zip(volume.spacing_mm, ranges, strict=True)
    )
    if not all(fits):
        wanted = " x ".join(f"{least:g}" if least == most else f"{least:g}-{most:g}" for least, most in ranges)
        found = " x ".join(f"{side:.3g}" for side in volume.spacing_mm)
        raise VolumeError(
            f"expected voxels of {wanted} mm along {volume.orientation} axes, found {found} mm",
            hint=f"resample all images to {' x '.join(f'{least:g}' for least, _ in ranges)} mm first",
        )


def normalise_modalities(volumes: list[Volume], manifest: Manifest) -> NDArray[np.float32]:
    """Put the modalities into one array, each normalised as the manifest says.

    Returns:
        (C, X, Y, Z) float32.

    Raises:
        DataError: intensities are too large for float32.
    """
    stack = np.empty((len(volumes), *volumes[0].shape), np.float32)
    for channel, volume, name in zip(stack, volumes, manifest.modalities, strict=True):
        with np.errstate(over="ignore", invalid="ignore"):
            channel[:] = normalise(volume.data, manifest.normalisation)
        if not np.isfinite(channel).all():
            raise DataError(
                f"expected intensities of {name} that fit into float32, found larger ones", hint="scale the image first"
            )
    return stack


def encode_codes(indices: Volume, manifest: Manifest) -> Volume:
    """Turn class indices into label codes, uint8 if all codes of the manifest fit into it, else uint16."""
    codes = [label.code for label in manifest.labels]
    table = np.array(codes, np.uint8 if max(codes) <= 255 else np.uint16)
    return indices.with_data(table[indices.data])
