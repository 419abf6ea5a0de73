"""What is wrong with a data set: every defect of every subject, found by reading all files once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.dataset import IGNORE, Dataset, LabelScheme, Subject, encode_labels, read_image, read_label
from segkit.errors import DataError, VolumeError
from segkit.volume import Volume, format_size, require_same_grid

_SPACING_FACTOR = 1.25
"""A voxel size that is this many times the median of the data set, or its part, differs much."""

_LABEL = "label"


@dataclass(frozen=True)
class Geometry:
    """The grid of an image as its file has it."""

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    orientation: str


@dataclass
class SubjectCheck:
    """What reading a subject showed.

    Attributes:
        id: of the subject.
        modalities: those it has, readable or not.
        label: its label file, if it has one.
        geometry: of each modality that could be read.
        label_ml: volume of each class, in millilitres, if the label could be read.
        defects: what must be mended, a line each.
        notes: what is worth knowing, a line each.
    """

    id: str
    modalities: tuple[str, ...]
    label: Path | None
    geometry: dict[str, Geometry] = field(default_factory=dict)
    label_ml: dict[str, float] = field(default_factory=dict)
    defects: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    spacings_mm: dict[str, tuple[float, float, float]] = field(default_factory=dict, repr=False)
    digests: dict[str, str] = field(default_factory=dict, repr=False)


def check_dataset(
    dataset: Dataset, pictures: Path | None = None, on_subject: Callable[[str], None] = lambda _: None
) -> list[SubjectCheck]:
    """Read all files of a data set and list what is wrong, in each subject and between subjects.

    Args:
        dataset: labelled or not.
        pictures: a folder for a PNG of each subject that has no defect of its own.
        on_subject: called with the id of each subject that was read.

    Raises:
        UsageError: a picture cannot be written.
    """
    checks = []
    for subject in dataset.subjects:
        checks.append(_check_subject(subject, dataset.scheme, pictures))
        on_subject(subject.id)
    _compare_modalities(checks)
    _compare_spacings(checks)
    _find_duplicates(checks)
    return checks


def _check_subject(subject: Subject, scheme: LabelScheme, pictures: Path | None) -> SubjectCheck:
    check = SubjectCheck(subject.id, tuple(subject.images), subject.label)
    label = _check_label(subject, scheme, check)
    first: Volume | None = None  # the image whose grid the others should have
    shown: Volume | None = None  # the one for the picture: on the grid of the label
    on_label_grid: list[str] = []
    dark = None if label is None else (label.data > 0) & (label.data != IGNORE)
    for modality in subject.images:
        try:
            image = read_image(subject, modality)
        except DataError as error:
            check.defects.append(str(error))
            continue
        check.geometry[modality] = Geometry(image.shape, image.spacing_mm, image.orientation)
        image = image.canonical()
        check.spacings_mm[modality] = image.spacing_mm
        check.digests[modality] = _digest(image.data, np.float32)
        if first is None:
            first = shown = image
        elif problem := _apart(first, image, next(iter(check.geometry)), modality):
            check.notes.append(f"registration needed: {problem}")
        if label is not None and dark is not None and not _apart(image, label, modality, _LABEL):
            shown = image if not on_label_grid else shown
            on_label_grid.append(modality)
            dark &= image.data == 0
    if label is not None and dark is not None and first is not None:
        _compare_label(check, first, label, on_label_grid)
        if len(on_label_grid) == len(subject.images) and dark.any():
            check.defects.append(
                f"expected signal wherever {subject.label} has a class, found {dark.sum():,} labelled voxels "
                "where every image is zero; mask the label, or check that it belongs to these images"
            )
    if pictures and shown is not None and not check.defects:
        _draw(pictures, check.id, shown, label, scheme)
    return check


def _check_label(subject: Subject, scheme: LabelScheme, check: SubjectCheck) -> Volume | None:
    """Read the label, and measure its classes; unknown codes are a defect, and background from there on."""
    if subject.label is None:
        return None
    try:
        label = read_label(subject, scheme)
    except VolumeError as error:
        check.defects.append(str(error))
        return None
    except DataError as error:
        check.defects.append(str(error))
        found = _with_known_codes_only(subject, subject.label, scheme)
        if found is None:
            return None
        label = found
    counts = np.bincount(label.data.ravel(), minlength=IGNORE + 1)
    names = {index: class_.name for index, class_ in enumerate(scheme.labels)}
    if counts[IGNORE]:
        names[IGNORE] = "ignored"
    check.label_ml = {name: float(counts[index]) * label.voxel_ml for index, name in names.items()}
    if counts[1:IGNORE].any():
        check.digests[_LABEL] = _digest(label.data, np.uint8)
    else:
        check.defects.append(f"expected a class beside background in {subject.label}, found none; label it, or drop it")
    return label


def _with_known_codes_only(subject: Subject, file: Path, scheme: LabelScheme) -> Volume | None:
    known = [code for label in scheme.labels for code in (label.code, *label.merged)]
    try:
        raw = read_image(Subject(id=subject.id, images={_LABEL: file}, orientation=subject.orientation), _LABEL)
    except DataError:  # one unknown code everywhere: the defect is told already, and nothing is left to look at
        return None
    raw = raw.canonical()
    codes = np.where(np.isin(raw.data, [*known, *scheme.ignored]), raw.data, scheme.labels[0].code)
    return raw.with_data(encode_labels(codes, scheme, file))


def _compare_label(check: SubjectCheck, first: Volume, label: Volume, on_label_grid: Sequence[str]) -> None:
    """A label must lie on the grid of an image; training takes the first modality for it."""
    name = next(iter(check.geometry))
    if not on_label_grid:
        check.defects.append(str(_apart(first, label, name, f"the label {check.label}")))
    elif name not in on_label_grid:
        check.notes.append(
            f"the label lies on the grid of {', '.join(on_label_grid)}, not of {name}: "
            f"train with --modality {on_label_grid[0]} first"
        )


def _compare_modalities(checks: Sequence[SubjectCheck]) -> None:
    for modality in dict.fromkeys(name for check in checks for name in check.modalities):
        with_it = sum(modality in check.modalities for check in checks)
        for check in checks:
            if modality not in check.modalities and 2 * with_it >= len(checks):
                check.defects.append(
                    f"expected {modality}, which {with_it} of {len(checks)} subjects have, found none; "
                    "complete the subject, or move it elsewhere"
                )
            elif modality in check.modalities and 2 * with_it < len(checks):
                check.notes.append(f"has {modality}, which only {with_it} of {len(checks)} subjects have")


def _compare_spacings(checks: Sequence[SubjectCheck]) -> None:
    """Compare voxel sizes along canonical axes with the median of their modality, from three subjects up."""
    medians = {}
    for modality in {name for check in checks for name in check.spacings_mm}:
        spacings = [check.spacings_mm[modality] for check in checks if modality in check.spacings_mm]
        if len(spacings) > 2:
            medians[modality] = np.median(spacings, axis=0)
    for check in checks:
        lines: dict[str, list[str]] = {}
        for modality, spacing in check.spacings_mm.items():
            ratio = np.asarray(spacing) / medians.get(modality, spacing)
            if max(ratio.max(), 1 / ratio.min()) > _SPACING_FACTOR:
                median = format_size(medians[modality].round(3).tolist())
                found = format_size(np.round(spacing, 3).tolist())
                line = f"expected voxels of about {median} mm, the median of the data set, found {found} mm"
                lines.setdefault(line, []).append(modality)
        check.defects += [f"{', '.join(names)}: {line}; resample it, or drop it" for line, names in lines.items()]


def _find_duplicates(checks: Sequence[SubjectCheck]) -> None:
    """Voxels that are there twice: a copy beside its original is trained on and scored at once."""
    seen: dict[tuple[bool, str], tuple[str, str]] = {}
    for check in checks:
        for name, digest in check.digests.items():
            id_, other = seen.setdefault((name == _LABEL, digest), (check.id, name))
            if (id_, other) != (check.id, name):
                check.defects.append(
                    f"expected different voxels in each file, found in {name} those of {other} of {id_}; keep one"
                )


def _digest(data: NDArray[Any], dtype: type[np.generic]) -> str:
    """Hash of the voxels, whatever type and compression they are stored in."""
    with np.errstate(over="ignore", invalid="ignore"):
        values = np.ascontiguousarray(data, dtype)
    return hashlib.sha256(repr(values.shape).encode() + values.tobytes()).hexdigest()


def _apart(first: Volume, second: Volume, first_name: str, second_name: str) -> str:
    """Why two volumes are not on one grid; empty where they are."""
    try:
        require_same_grid(first, second, first_name, second_name)
    except VolumeError as error:
        return str(error)
    return ""


def _draw(folder: Path, id_: str, image: Volume, label: Volume | None, scheme: LabelScheme) -> None:
    from segkit.pictures import save_overlay

    classes = np.zeros(image.shape, np.uint8) if label is None else np.where(label.data == IGNORE, 0, label.data)
    names = [] if label is None else [label.name for label in scheme.labels]
    labels, spacing_mm = classes.astype(np.uint8), image.spacing_mm
    save_overlay(folder / f"{id_}.png", image.data, labels, names=names, title=id_, spacing_mm=spacing_mm)
