"""The volumes on which an export is held against its network: held-out subjects of a run, or made-up heads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from segkit.cards import Size
from segkit.dataset import LabelScheme, Subject, load_input, open_dataset, read_label, select_modalities
from segkit.errors import DataError, UsageError
from segkit.patches import extract_patch, pad_to, plan_tiles
from segkit.preprocess import Preprocessing, normalise, stack_channels
from segkit_export.source import Source

if TYPE_CHECKING:
    from segkit.registry import Registry

CALIBRATION_SUBJECTS, CALIBRATION_PATCHES = 2, 8
"""How many are read to calibrate int8; more patches change no range by much and cost memory in every layer."""

_KNOT = 8
"""Distance in voxels between the random values that a made-up head is interpolated from."""


@dataclass(frozen=True)
class Head:
    """One volume, read or made when it is needed.

    Attributes:
        name: what a proof calls it.
        load: returns images (C, X, Y, Z) float32, normalised, and the mask (X, Y, Z) of voxels that are not zero.
        load_truth: returns the true class indices (X, Y, Z) uint8, 255 = ignored; None where nobody knows them.
    """

    name: str
    load: Callable[[], tuple[NDArray[np.float32], NDArray[np.bool_]]]
    load_truth: Callable[[], NDArray[np.uint8]] | None = None


def choose_heads(source: Source, registry: Registry, data: Path | None = None, subjects: int = 1) -> list[Head]:
    """Choose what to compare on, without reading it yet.

    Args:
        source: what is exported.
        registry: where the data set of a run is found.
        data: a folder of the data set the run was trained on, or None for the run's own.
        subjects: at most so many subjects; the held-out ones come first.

    Raises:
        UsageError: a bare architecture was given data, or a subject lacks a modality.
        DataError: the folder is gone or holds no subject.
    """
    if source.run is None:
        if data is not None:
            raise UsageError(
                f"expected --verify with a run, got it with the bare model {source.name!r}",
                hint="leave it out: random weights are compared on made-up heads",
            )
        made = partial(make_head, len(source.modalities), source.tiling.patch, source.preprocessing)
        return [Head("synthetic head", made)]
    config = source.run.config
    folder = data or config.data
    if not folder.is_dir():
        raise DataError(
            f"expected the data of the run at {folder}, found no folder",
            hint="name another copy of the data set: --verify DIR",
        )
    found = open_dataset(registry.card("dataset", config.dataset), folder, config.dataset_options).subjects
    # Any head serves to compare two engines; those held out come first, because they are what the network will meet.
    chosen = sorted(found, key=lambda subject: subject.id not in config.held_out_subjects)[:subjects]
    return subject_heads(chosen, config.dataset, source.modalities, source.preprocessing, config.scheme)


def subject_heads(
    subjects: Sequence[Subject],
    dataset: str,
    modalities: Sequence[str],
    preprocessing: Preprocessing,
    scheme: LabelScheme | None,
) -> list[Head]:
    """Subjects of a data set as volumes to compare on.

    Args:
        subjects: of the data set.
        dataset: its name.
        modalities: in channel order.
        preprocessing: of the images.
        scheme: what the codes of its labels mean, or None where they are not the network's classes.

    Raises:
        UsageError: a subject lacks a modality.
    """
    select_modalities(subjects, modalities)
    return [
        Head(
            f"{dataset} {one.id}",
            partial(_read, one, modalities, preprocessing),
            partial(_read_truth, one, scheme) if scheme is not None and one.label is not None else None,
        )
        for one in subjects
    ]


def calibration_patches(source: Source, registry: Registry, heads: Sequence[Head]) -> list[NDArray[np.float32]]:
    """Choose patches (1, C, *patch) that int8 is calibrated on: of subjects that a run was trained on, never held out.

    A bare architecture has none; for it the heads are taken that it is compared on.
    """
    if source.run is not None:
        config = source.run.config
        found = open_dataset(registry.card("dataset", config.dataset), config.data, config.dataset_options).subjects
        known = [subject for subject in found if subject.id in config.train_subjects][:CALIBRATION_SUBJECTS]
        heads = subject_heads(known, config.dataset, source.modalities, source.preprocessing, None) or heads
    patches = []
    for head in heads:
        images, mask = head.load()
        starts = plan_tiles(pad_to(mask, source.tiling.patch), source.tiling.patch, 0.0)
        chosen = np.linspace(0, len(starts) - 1, min(len(starts), CALIBRATION_PATCHES // len(heads) or 1))
        padded = pad_to(images, source.tiling.patch)
        patches += [extract_patch(padded, starts[int(at)], source.tiling.patch)[None] for at in chosen]
    return [np.ascontiguousarray(patch) for patch in patches]


def make_head(
    modalities: int, patch: Size, preprocessing: Preprocessing, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Make smooth random intensities inside an ellipsoid and zero around it, odd-shaped, in one tile.

    One tile tells engines apart as well as many, and each costs seconds; how tiles are blended is the same for all.
    Intensities are rounded to float16, so that a patch can be stored whole for the self-check.

    Returns:
        images (C, X, Y, Z) float32, normalised, and the mask (X, Y, Z) of the ellipsoid.
    """
    rng = np.random.default_rng(seed)
    extent = [side - side // 8 - 1 for side in patch]
    shape = [(side - 1) | 1 if side % 2 else side - 1 for side in patch]
    offsets = [
        (np.arange(n) - (n - 1) / 2).reshape([-1 if axis == i else 1 for i in range(3)]) / (length / 2)
        for axis, (n, length) in enumerate(zip(shape, extent, strict=True))
    ]
    mask = np.asarray(sum(offset**2 for offset in offsets) <= 1)
    images = []
    for _ in range(modalities):
        tissue = 100 + 30 * _smooth_field(shape, rng) + 5 * rng.standard_normal(shape)
        image = normalise(np.where(mask, np.maximum(tissue, 1), 0), preprocessing)
        images.append(image.astype(np.float16).astype(np.float32))
    return stack_channels(images, mask, preprocessing), mask


def _smooth_field(shape: list[int], rng: np.random.Generator) -> NDArray[np.float64]:
    field: NDArray[np.float64] = rng.standard_normal([n // _KNOT + 2 for n in shape])
    for axis, n in enumerate(shape):
        knots = field.shape[axis]
        at = np.linspace(0, knots - 1, n)
        weights = np.stack([np.interp(at, np.arange(knots), row) for row in np.eye(knots)], axis=1)
        field = np.moveaxis(np.tensordot(weights, field, (1, axis)), 0, axis)
    return field


def _read(
    subject: Subject, modalities: Sequence[str], preprocessing: Preprocessing
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    head = load_input(subject, modalities, preprocessing)
    return head.images, head.mask


def _read_truth(subject: Subject, scheme: LabelScheme) -> NDArray[np.uint8]:
    return read_label(subject, scheme).data
