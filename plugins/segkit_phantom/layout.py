"""How a phantom data set lies on disk.

DIR/dataset.json            what it is made with: preset, seed, versions, sequences, label codes
DIR/sub-001/T1.nii.gz ...   one int16 image per modality of the preset
DIR/sub-001/label.nii.gz    uint8 codes on the same grid
DIR/sub-001/scan.json       the sequence, noise and bias of each image
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from segkit import Subject
from segkit.errors import DataError

DESCRIPTION = "dataset.json"
LABEL = "label.nii.gz"
SCAN = "scan.json"


def find(root: Path) -> list[Subject]:
    """The subjects of a phantom data set, by number.

    Raises:
        DataError: the folder is not a phantom data set, or a subject lacks a file.
    """
    modalities = _modalities(root)
    folders = [folder for folder in root.glob("sub-*") if folder.is_dir() and folder.name[4:].isdecimal()]
    return [_subject(folder, modalities) for folder in sorted(folders, key=lambda folder: int(folder.name[4:]))]


def read_description(root: Path) -> dict[str, Any]:
    """The content of `dataset.json`.

    Raises:
        DataError: it is missing or not JSON of a phantom.
    """
    file = root / DESCRIPTION
    try:
        description = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise DataError(f"expected {DESCRIPTION} in {root}, found none", hint="name the folder of a phantom") from None
    except ValueError as error:
        raise DataError(f"expected JSON in {file}, found: {error}", hint="make the data set again") from None
    if not isinstance(description, dict):
        raise DataError(f"expected an object in {file}, found {description!r:.40}", hint="make the data set again")
    return description


def image_file(folder: Path, modality: str) -> Path:
    """Where the image of a modality lies in the folder of its subject."""
    return folder / f"{modality}.nii.gz"


def _modalities(root: Path) -> list[str]:
    channels = read_description(root).get("channels")
    if not isinstance(channels, dict) or not channels:
        raise DataError(f"expected channels in {root / DESCRIPTION}, found none", hint="make the data set again")
    return list(channels)


def _subject(folder: Path, modalities: list[str]) -> Subject:
    images = {modality: image_file(folder, modality) for modality in modalities}
    label = folder / LABEL
    missing = [file.name for file in (*images.values(), label) if not file.is_file()]
    if missing:
        raise DataError(
            f"expected {', '.join(modalities)} and a label of the phantom {folder.name}, found no {', '.join(missing)}",
            hint="make the data set again: what is complete is kept",
        )
    return Subject(id=folder.name, images=images, label=label)
