"""The arrays on their way into the network and out of it: checked against the manifest, and encoded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from segkit.dataset import NetworkInput, Subject, load_input, require_modalities
from segkit.errors import VolumeError
from segkit.volume import Volume
from segkit_runtime.manifest import Manifest, Spacing

_SPACING_TOLERANCE_MM = 5e-3
"""Headers round voxel sizes: 0.977 for 0.9765625."""


def read_head(images: Mapping[str, Path], manifest: Manifest) -> NetworkInput:
    """Read the files of a head as a bundle wants them.

    Args:
        images: modality name -> file.
        manifest: what the bundle expects of them.

    Raises:
        UsageError: a modality is missing, or there is one too many.
        DataError: a file is bad, the grids disagree, or the voxel sizes are not those of the manifest.
    """
    require_modalities(images, manifest.modalities)
    head = load_input(Subject(id="input", images=images), manifest.modalities, manifest.preprocessing)
    _require_spacing(head.volumes[0], manifest.spacing)
    return head


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


def encode_codes(indices: Volume, manifest: Manifest) -> Volume:
    """Turn class indices into label codes, uint8 if all codes of the manifest fit into it, else uint16."""
    codes = [label.code for label in manifest.labels]
    table = np.array(codes, np.uint8 if max(codes) <= 255 else np.uint16)
    return indices.with_data(table[indices.data])
