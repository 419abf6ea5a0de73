"""Subjects of a data set, and the reading of their files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.cards import DatasetCard
from segkit.errors import DataError, PluginError, SegkitError, UnknownName, UsageError
from segkit.nifti import read_volume
from segkit.preprocess import Normalisation, normalise
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
        PluginError: the plugin of the data set fails, or gives ids that are not unique names.
    """
    if not root.is_dir():
        raise DataError(f"expected a folder of the data set {card.name!r}, found nothing at {root}")
    try:
        subjects: list[Subject] = card.load()(root)
    except SegkitError:
        raise
    except (Exception, SystemExit) as error:
        raise PluginError(
            f"expected the data set {card.name!r} to find subjects in {root}, {type(error).__name__}: {error}",
            hint=f"run: segkit plugins doctor {card.name}",
        ) from error
    if not subjects:
        raise DataError(
            f"expected subjects of the data set {card.name!r} in {root}, found none",
            hint=f"see the layout: segkit plugins show {card.name}",
        )
    ids = [subject.id for subject in subjects]
    # An id names a folder of the store: it must not lead out of it, nor stand for two subjects.
    strange = [id_ for id_ in ids if id_ in ("", ".", "..") or Path(id_).name != id_ or ids.count(id_) > 1]
    if strange:
        raise PluginError(
            f"expected unique subject ids that can name a folder from the data set {card.name!r}, got {strange[0]!r}",
            hint="mend the plugin of the data set",
        )
    return sorted(subjects, key=lambda subject: _natural(subject.id))


def _natural(text: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text)]


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
                hint=f"known: {', '.join(subject.images)}; choose among them with --modality, or complete the subject",
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


@dataclass(frozen=True)
class NetworkInput:
    """One head, ready for a network.

    Attributes:
        original: the first modality as its file has it.
        volumes: all modalities in channel order, canonical, as read.
        images: (C, X, Y, Z) float32, normalised.
        mask: (X, Y, Z), the voxels where any modality is not zero: all, unless the images were skull-stripped.
    """

    original: Volume
    volumes: Sequence[Volume]
    images: NDArray[np.float32]
    mask: NDArray[np.bool_]


def load_input(images: Mapping[str, Path], modalities: Sequence[str], normalisation: Normalisation) -> NetworkInput:
    """Read, check and normalise the modalities of one head: the one way into training, proof and runtime.

    Raises:
        UsageError, VolumeError, DataError: see `read_images` and `normalise`.
    """
    original, volumes = read_images(images, modalities)
    return NetworkInput(
        original,
        volumes,
        np.stack([normalise(volume.data, normalisation) for volume in volumes]),
        np.logical_or.reduce([volume.data != 0 for volume in volumes]),
    )


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
