"""The arrays on their way into the network and out of it: checked against the manifest, and encoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from segkit.dataset import NetworkInput, Subject, load_input, require_modalities
from segkit.errors import VolumeError
from segkit.resampling import labels_onto, to_spacing
from segkit.volume import Volume, format_size, require_same_grid
from segkit_runtime.manifest import Manifest, Spacing


def read_head(images: Mapping[str, Path], manifest: Manifest) -> NetworkInput:
    """Read the files of a head as a bundle wants them, resampled where it says so.

    Args:
        images: modality name -> file.
        manifest: what the bundle expects of them.

    Raises:
        UsageError: a modality is missing, or there is one too many.
        DataError: a file is bad, the grids disagree, or the voxel sizes are not those of the manifest.
    """
    require_modalities(images, manifest.modalities)
    subject = Subject(id="input", images=images)
    return load_input(
        subject, manifest.modalities, manifest.preprocessing, lambda volumes: _onto_grid(volumes, manifest)
    )


def _onto_grid(volumes: list[Volume], manifest: Manifest) -> list[Volume]:
    """Canonical volumes with voxels that the network takes; where all share one grid, they still do."""
    first, names, wanted_mm = volumes[0], manifest.modalities, manifest.resample_mm
    if manifest.spacing is None or manifest.spacing.takes(first.spacing_mm):
        return volumes
    if wanted_mm is None:
        raise _unfit(first, manifest.spacing)
    resampled = [to_spacing(first, wanted_mm, names[0])]
    if manifest.preprocessing.registration != "none":
        return [*resampled, *volumes[1:]]  # these are brought onto the first's grid in any case: once is enough
    for name, volume in zip(names[1:], volumes[1:], strict=True):
        require_same_grid(first, volume, names[0], name)
        resampled.append(to_spacing(volume, wanted_mm, name))
    return resampled


def _unfit(volume: Volume, spacing: Spacing) -> VolumeError:
    ranges = list(zip(spacing.least_mm, spacing.most_mm, strict=True))
    wanted = " x ".join(f"{least:g}" if least == most else f"{least:g}-{most:g}" for least, most in ranges)
    found = " x ".join(f"{side:.3g}" for side in volume.spacing_mm)
    return VolumeError(
        f"expected voxels of {wanted} mm along {volume.orientation} axes, found {found} mm",
        hint=f"resample all images to {' x '.join(f'{least:g}' for least, _ in ranges)} mm first, or export the bundle "
        "with --resample-to",
    )


def onto_own_grid(indices: Volume, head: NetworkInput) -> Volume:
    """Class indices of the network, uint8, on the canonical grid of the first image as its file has it.

    They come back untouched unless `read_head` resampled that image.
    """
    return labels_onto(indices, head.original.canonical()) if resampling_note(head) else indices


def resampling_note(head: NetworkInput) -> str:
    """What a reader of the labels should know where `read_head` resampled the images, else nothing."""
    found, taken = head.original.canonical(), head.volumes[0]
    if np.array_equal(found.affine, taken.affine):
        return ""
    sizes = [format_size([round(side, 3) for side in volume.spacing_mm]) for volume in (found, taken)]
    return f"the images were resampled from {sizes[0]} to {sizes[1]} mm for the network, and its labels back"


def to_labels(indices: Volume, original: Volume, manifest: Manifest) -> Volume:
    """What is written: label codes, uint8 if all of the manifest fit into it, else uint16, on the grid of the file.

    Its header is kept, and told that these are labels: viewers then choose colours and do not interpolate.

    Args:
        indices: (X, Y, Z) class indices on the canonical grid of the image.
        original: the image as its file has it.
        manifest: says what the classes are called in files.
    """
    known = [label.code for label in manifest.labels]
    table = np.array(known, np.uint8 if max(known) <= 255 else np.uint16)
    encoded = np.empty_like(indices.data, table.dtype)
    slowest = int(np.argmax(np.abs(encoded.strides)))
    # Plane by plane: an index takes eight bytes a voxel.
    for codes, plane in zip(np.moveaxis(encoded, slowest, 0), np.moveaxis(indices.data, slowest, 0), strict=True):
        codes[...] = table[plane]
    labels = indices.with_data(encoded).on_grid_of(original)
    if labels.header is None:
        return labels
    header = labels.header.copy()
    header.set_intent("label")
    return replace(labels, header=header)
