"""Subjects of a data set, and the reading of their files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.cards import DatasetCard
from segkit.errors import DataError, UnknownName, UsageError
from segkit.nifti import read_volume
from segkit.volume import Volume, require_same_grid

IGNORE = 255
"""The class index of voxels that are neither trained on nor scored."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One head: files, no arrays.

    Attributes:
        id: unique in its data set.
        images: modality name -> file, in channel order.
        label: the label file, or None where there is none.
    """

    id: str
    images: Mapping[str, Path]
    label: Path | None = None


def find_subjects(card: DatasetCard, root: Path) -> list[Subject]:
    """Find the subjects of a data set in a folder, sorted by id as people sort (2 before 10).

    Raises:
        DataError: the folder is missing or holds no subject.
    """
    if not root.is_dir():
        raise DataError(f"expected a folder of the data set {card.name!r}, found nothing at {root}")
    subjects: list[Subject] = card.load()(root)
    if not subjects:
        raise DataError(
            f"expected subjects of the data set {card.name!r} in {root}, found none",
            hint=f"see the layout: segkit plugins show {card.name}",
        )
    return subjects


def select_modalities(subjects: Sequence[Subject], wanted: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the channels: `wanted`, or all modalities of the first subject; every subject must have them.

    Raises:
        UsageError: a subject lacks one.
    """
    names = tuple(wanted) or tuple(subjects[0].images)
    for subject in subjects:
        missing = [name for name in names if name not in subject.images]
        if missing:
            raise UsageError(
                f"expected modalities {', '.join(names)}, subject {subject.id} has {', '.join(subject.images)}",
                hint=f"leave out {', '.join(missing)} with --modality, or complete the subject",
            )
    return names


def read_images(images: Mapping[str, Path], modalities: Sequence[str]) -> tuple[Volume, list[Volume]]:
    """Read one file per modality, all on one grid.

    Returns:
        The first modality as its file has it, and all modalities, in order, in canonical orientation.

    Raises:
        UsageError: a modality is missing, or there is one too many.
        VolumeError: a file is bad, or the grids disagree.
        DataError: an image holds one value only.
    """
    missing = [name for name in modalities if name not in images]
    extra = [name for name in images if name not in modalities]
    if missing or extra:
        raise UsageError(
            f"expected the modalities {', '.join(modalities)}, got {', '.join(images) or 'none'}",
            hint="; ".join(
                [f"add --modality {name}=FILE" for name in missing]
                + [str(UnknownName("modality", name, modalities)) for name in extra]
            ),
        )
    files = [images[name].resolve() for name in modalities]
    twice = next((name for i, name in enumerate(modalities) if files[i] in files[:i]), None)
    if twice is not None:
        raise UsageError(f"expected one file per modality, got {images[twice]} twice", hint="check the paths")
    first = read_volume(images[modalities[0]])
    volumes = [first.canonical(), *(read_volume(images[name]).canonical() for name in modalities[1:])]
    for name, volume in zip(modalities, volumes, strict=True):
        if volume.data.min() == volume.data.max():
            value = volume.data.flat[0]
            raise DataError(
                f"expected an image in {images[name]}, found {f'{value:g}' if value else 'zeros'} only",
                hint="check the export that wrote it",
            )
        require_same_grid(volumes[0], volume, modalities[0], name)
    return first, volumes


def signal_mask(volumes: Sequence[Volume]) -> NDArray[np.bool_]:
    """(X, Y, Z), the voxels where any modality is not zero: all of them, unless the images were skull-stripped."""
    mask: NDArray[np.bool_] = np.logical_or.reduce([volume.data != 0 for volume in volumes])
    return mask


def read_label(path: Path, card: DatasetCard) -> Volume:
    """Read a label file as class indices, uint8, canonical; ignored codes become `IGNORE`.

    Raises:
        VolumeError: the file is bad.
        DataError: it holds a code that the card does not know.
    """
    raw = read_volume(path).canonical()
    return raw.with_data(encode_labels(raw.data, card, path))


def encode_labels(codes: NDArray[Any], card: DatasetCard, path: Path) -> NDArray[np.uint8]:
    """Turn codes of the data set into class indices."""
    indices = np.full(codes.shape, IGNORE - 1, np.uint8)
    for index, label in enumerate(card.labels):
        indices[codes == label.code] = index
    for code in card.ignored:
        indices[codes == code] = IGNORE
    unknown = indices == IGNORE - 1
    if unknown.any():
        found = ", ".join(f"{code:g}" for code in np.unique(codes[unknown])[:5])
        known = ", ".join(str(label.code) for label in card.labels) + "".join(
            f", {code} (ignored)" for code in card.ignored
        )
        raise DataError(
            f"expected the label codes {known} in {path}, found {found}",
            hint="check that the file belongs to this data set (--dataset)",
        )
    return indices
