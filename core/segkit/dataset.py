"""Subjects of a data set, and the reading of their files."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.analyze import read_analyze
from segkit.cards import DatasetCard, Label, Options, load_attribute
from segkit.errors import DataError, PluginError, SegkitError, UnknownName, UsageError
from segkit.nifti import read_volume
from segkit.preprocess import Channels, Preprocessing, preprocess
from segkit.volume import Volume

IGNORE = 255
"""The class index of voxels that are neither trained on nor scored."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One head: files, no arrays.

    Attributes:
        id: unique in its data set.
        images: modality name -> file, in channel order.
        label: the label file, or None where there is none.
        channels: modality name -> its place along the fourth axis, where one file holds several modalities.
        orientation: the directions of the axes, for example "RAS", of files that do not say: Analyze.
    """

    id: str
    images: Mapping[str, Path]
    label: Path | None = None
    channels: Mapping[str, int] = field(default_factory=dict)
    orientation: str = ""


@dataclass(frozen=True)
class LabelScheme:
    """What the codes of label files mean.

    Attributes:
        labels: the classes in the order of their indices; index 0 is background.
        ignored: codes that are neither trained on nor scored.
    """

    labels: tuple[Label, ...]
    ignored: tuple[int, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """A data set in a folder: its subjects, sorted as people sort (2 before 10), and the meaning of its labels."""

    card: DatasetCard
    root: Path
    subjects: tuple[Subject, ...]
    scheme: LabelScheme

    @property
    def labelled(self) -> tuple[Subject, ...]:
        """The subjects that have a label file."""
        return tuple(subject for subject in self.subjects if subject.label is not None)


def open_dataset(card: DatasetCard, root: Path, options: Options | None = None) -> Dataset:
    """Find the subjects of a data set in a folder, and what its labels mean.

    Args:
        card: of the data set.
        root: the folder.
        options: options of the card, where they differ from its defaults.

    Raises:
        UnknownName: an option that the card does not have.
        DataError: the folder is missing or holds no subject.
        PluginError: the plugin of the data set fails, or gives ids that are not unique names.
    """
    if not root.is_dir():
        raise DataError(f"expected a folder of the data set {card.name!r}, found nothing at {root}")
    for option in options or {}:
        if option not in card.options:
            raise UnknownName(f"option of data set {card.name}", option, card.options)
    chosen = {**card.options, **(options or {})}
    try:
        subjects: list[Subject] = card.load()(root, **chosen)
        scheme = (card.labels, card.ignored)
        if card.read_labels:
            scheme = load_attribute(card.read_labels)(root, **chosen)
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
    in_order = sorted(subjects, key=lambda subject: _natural(subject.id))
    return Dataset(card, root, tuple(in_order), LabelScheme(*scheme))


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


def require_modalities(images: Mapping[str, Path], modalities: Sequence[str]) -> None:
    """Refuse images that are not exactly one file for each modality.

    Raises:
        UsageError: a modality is missing, or there is one too many.
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


def read_image(subject: Subject, modality: str) -> Volume:
    """Read one modality of a subject as its file has it.

    Raises:
        VolumeError: the file is bad.
        DataError: it holds one value only.
    """
    path = subject.images[modality]
    volume = _read(path, subject.orientation, subject.channels.get(modality))
    if volume.data.min() == volume.data.max():
        value = volume.data.flat[0]
        raise DataError(
            f"expected an image in {path}, found {f'{value:g}' if value else 'zeros'} only",
            hint="check the export that wrote it",
        )
    return volume


def read_images(subject: Subject, modalities: Sequence[str]) -> tuple[Volume, list[Volume]]:
    """Read modalities of a subject, each on its own grid.

    Returns:
        The first modality as its file has it, and all modalities, in order, in canonical orientation.

    Raises:
        UsageError: a modality is missing, or two are the same image.
        VolumeError: a file is bad.
        DataError: an image holds one value only.
    """
    select_modalities([subject], modalities)
    sources = [(subject.images[name].resolve(), subject.channels.get(name)) for name in modalities]
    twice = next((name for i, name in enumerate(modalities) if sources[i] in sources[:i]), None)
    if twice is not None:
        raise UsageError(f"expected one file per modality, got {subject.images[twice]} twice", hint="check the paths")
    first = read_image(subject, modalities[0])
    return first, [first.canonical(), *(read_image(subject, name).canonical() for name in modalities[1:])]


def _read(path: Path, orientation: str, channel: int | None = None) -> Volume:
    if path.suffix in (".hdr", ".img"):
        return read_analyze(path, orientation)
    return read_volume(path, channel=channel)


@dataclass(frozen=True)
class NetworkInput:
    """One head, ready for a network.

    Attributes:
        original: the first modality as its file has it.
        volumes: all modalities in channel order, canonical, on the grid of the first, intensities before normalisation.
        channels: what a network gets of them; patches of it are normalised as they are cut.
    """

    original: Volume
    volumes: Sequence[Volume]
    channels: Channels

    @property
    def images(self) -> NDArray[np.float32]:
        """All channels at once, (C, X, Y, Z) float32, normalised; made anew on each access."""
        return self.channels.whole()

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(X, Y, Z), the voxels where any modality is not zero: all, unless the images were skull-stripped."""
        return self.channels.mask


def load_input(
    subject: Subject,
    modalities: Sequence[str],
    preprocessing: Preprocessing,
    onto_grid: Callable[[list[Volume]], list[Volume]] = lambda volumes: volumes,
) -> NetworkInput:
    """Read, check and preprocess the modalities of one head: the one way into training, proof and runtime.

    Args:
        subject: its files.
        modalities: in channel order.
        preprocessing: the steps.
        onto_grid: refuses canonical volumes whose voxel sizes a network does not take, or resamples them.

    Raises:
        UsageError, VolumeError, DataError: see `read_images` and `preprocess`.
    """
    original, volumes = read_images(subject, modalities)
    volumes = onto_grid(volumes)
    volumes, channels = preprocess(volumes, modalities, preprocessing)
    return NetworkInput(original, volumes, channels)


def read_label(subject: Subject, scheme: LabelScheme) -> Volume:
    """Read the label file of a subject as class indices, uint8, canonical; ignored codes become `IGNORE`.

    Raises:
        VolumeError: the file is bad.
        DataError: there is no label file, or it holds a code that the scheme does not know.
    """
    if subject.label is None:
        raise DataError(
            f"expected a label file for subject {subject.id}, found none", hint="use labelled subjects only"
        )
    raw = _read(subject.label, subject.orientation).canonical()
    return raw.with_data(encode_labels(raw.data, scheme, subject.label))


def encode_labels(codes: NDArray[Any], scheme: LabelScheme, path: Path) -> NDArray[np.uint8]:
    """Turn codes of label files into class indices; `path` is named in the error."""
    indices = np.full(codes.shape, IGNORE - 1, np.uint8)
    for index, label in enumerate(scheme.labels):
        for code in (label.code, *label.merged):
            indices[codes == code] = index
    for code in scheme.ignored:
        indices[codes == code] = IGNORE
    unknown = indices == IGNORE - 1
    if unknown.any():
        found = ", ".join(f"{code:g}" for code in np.unique(codes[unknown])[:5])
        known = ", ".join(str(code) for label in scheme.labels for code in (label.code, *label.merged))
        known += "".join(f", {code} (ignored)" for code in scheme.ignored)
        raise DataError(
            f"expected the label codes {known} in {path}, found {found}",
            hint="check that the file belongs to this data set (--dataset)",
        )
    return indices
