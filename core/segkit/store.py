"""The prepared store: what training reads. Memory-mapped arrays per subject, made once from the files.

STORE/
  SUBJECT/images.npy      (C, X, Y, Z) float32, normalised
  SUBJECT/label.npy       (X, Y, Z) uint8 class indices, 255 = ignored
  SUBJECT/mask.npy        (X, Y, Z) bool, voxels where any modality is not zero
  SUBJECT/nonempty.npy    (N,) int64 flat indices of the voxels that are neither background nor ignored
  SUBJECT/subject.json    what it was made from: files, modalities, normalisation, codes
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.cards import DatasetCard, Size
from segkit.dataset import IGNORE, Subject, load_input, read_label
from segkit.errors import DataError
from segkit.files import cannot_write, write_bytes
from segkit.preprocess import Normalisation
from segkit.volume import require_same_grid


@dataclass(frozen=True)
class PreparedSubject:
    """One subject of the store; arrays are memory-mapped on first use.

    Attributes:
        id: the subject's id.
        folder: where its arrays lie.
        spacing_mm: voxel size (x, y, z).
    """

    id: str
    folder: Path
    spacing_mm: tuple[float, float, float]

    @cached_property
    def images(self) -> NDArray[np.float32]:
        """(C, X, Y, Z) normalised images."""
        return np.load(self.folder / "images.npy", mmap_mode="r")  # type: ignore[no-any-return]

    @cached_property
    def label(self) -> NDArray[np.uint8]:
        """(X, Y, Z) class indices, 255 = ignored."""
        return np.load(self.folder / "label.npy", mmap_mode="r")  # type: ignore[no-any-return]

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """(X, Y, Z), voxels where any modality is not zero."""
        return np.load(self.folder / "mask.npy", mmap_mode="r")  # type: ignore[no-any-return]

    @cached_property
    def nonempty(self) -> NDArray[np.int64]:
        """(N,) flat indices into `label` of the voxels that are neither background nor ignored."""
        return np.load(self.folder / "nonempty.npy", mmap_mode="r")  # type: ignore[no-any-return]

    @property
    def shape(self) -> Size:
        """Size (x, y, z) in voxels."""
        x, y, z = self.label.shape
        return x, y, z


def prepare(
    subjects: Sequence[Subject],
    card: DatasetCard,
    modalities: Sequence[str],
    normalisation: Normalisation,
    folder: Path,
    progress: Callable[[str], None] = lambda _: None,
) -> list[PreparedSubject]:
    """Read, check and normalise subjects into a store; subjects that are there already are kept.

    A subject is redone when one of its files, the modalities or the normalisation have changed since.

    Raises:
        DataError: a file is bad, a subject has no label, or its label has no foreground.
    """
    prepared = []
    for subject in subjects:
        target = folder / subject.id
        record = _record(subject, card, modalities, normalisation)
        known = target / "subject.json"
        stored = _read_record(known)
        if stored.get("made_from") != record:
            try:
                spacing_mm = _prepare_one(subject, card, modalities, normalisation, target)
            except OSError as error:
                raise cannot_write(target, error) from error
            stored = {"made_from": record, "spacing_mm": spacing_mm}
            write_bytes(known, json.dumps(stored, indent=1).encode())
        prepared.append(PreparedSubject(subject.id, target, tuple(stored["spacing_mm"])))
        progress(subject.id)
    return prepared


def _read_record(path: Path) -> dict[str, Any]:
    """What is known of a prepared subject; nothing where its preparation was cut off."""
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return {}


def _record(
    subject: Subject, card: DatasetCard, modalities: Sequence[str], normalisation: Normalisation
) -> dict[str, Any]:
    if subject.label is None:
        raise DataError(
            f"expected a label file for subject {subject.id}, found none", hint="train on labelled subjects only"
        )
    files = [*(subject.images[name] for name in modalities), subject.label]
    return {
        "files": [[str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns] for file in files],
        "modalities": list(modalities),
        "normalisation": normalisation,
        "codes": [label.code for label in card.labels],
        "ignored": list(card.ignored),
    }


def _prepare_one(
    subject: Subject, card: DatasetCard, modalities: Sequence[str], normalisation: Normalisation, target: Path
) -> list[float]:
    assert subject.label is not None  # noqa: S101 - checked when its record was made
    head = load_input({name: subject.images[name] for name in modalities}, modalities, normalisation)
    label = read_label(subject.label, card)
    require_same_grid(head.volumes[0], label, modalities[0], "the label")
    foreground = np.flatnonzero((label.data > 0) & (label.data != IGNORE))
    if not foreground.size:
        raise DataError(
            f"expected labelled voxels in {subject.label}, found background only", hint="leave the subject out"
        )
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    np.save(target / "images.npy", head.images)
    np.save(target / "label.npy", label.data)
    np.save(target / "mask.npy", head.mask)
    np.save(target / "nonempty.npy", foreground.astype(np.int64))
    return list(head.volumes[0].spacing_mm)
