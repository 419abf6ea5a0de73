"""The volumes on which an export is held against its network: held-out subjects of a run, or made-up heads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from segkit.cards import Size
from segkit.dataset import Subject, load_input, open_dataset, select_modalities
from segkit.errors import DataError, UsageError
from segkit.preprocess import Preprocessing, normalise
from segkit_export.source import Source

if TYPE_CHECKING:
    from segkit.registry import Registry

_KNOT = 8
"""Distance in voxels between the random values that a made-up head is interpolated from."""


@dataclass(frozen=True)
class Head:
    """One volume, read or made when it is needed.

    Attributes:
        name: what a proof calls it.
        load: returns images (C, X, Y, Z) float32, normalised, and the mask (X, Y, Z) of voxels that are not zero.
    """

    name: str
    load: Callable[[], tuple[NDArray[np.float32], NDArray[np.bool_]]]


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
    select_modalities(chosen, source.modalities)
    return [Head(f"{config.dataset} {one.id}", partial(_read, one, source)) for one in chosen]


def make_head(
    channels: int, patch: Size, preprocessing: Preprocessing, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Make smooth random intensities inside an ellipsoid and zero around it, odd-shaped, so that two tiles are blended.

    Returns:
        images (C, X, Y, Z) float32, normalised, and the mask (X, Y, Z) of the ellipsoid.
    """
    rng = np.random.default_rng(seed)
    # Longer than a patch along x only: one more tile is enough to blend, and each costs seconds.
    extent = (patch[0] + max(1, patch[0] // 4), *(side - 1 for side in patch[1:]))
    shape = [(length + 3) | 1 for length in extent]
    offsets = [
        (np.arange(n) - (n - 1) / 2).reshape([-1 if axis == i else 1 for i in range(3)]) / (length / 2)
        for axis, (n, length) in enumerate(zip(shape, extent, strict=True))
    ]
    mask = np.asarray(sum(offset**2 for offset in offsets) <= 1)
    images = []
    for _ in range(channels):
        tissue = 100 + 30 * _smooth_field(shape, rng) + 5 * rng.standard_normal(shape)
        images.append(normalise(np.where(mask, np.maximum(tissue, 1), 0), preprocessing))
    return np.stack(images), mask


def _smooth_field(shape: list[int], rng: np.random.Generator) -> NDArray[np.float64]:
    field: NDArray[np.float64] = rng.standard_normal([n // _KNOT + 2 for n in shape])
    for axis, n in enumerate(shape):
        knots = field.shape[axis]
        at = np.linspace(0, knots - 1, n)
        weights = np.stack([np.interp(at, np.arange(knots), row) for row in np.eye(knots)], axis=1)
        field = np.moveaxis(np.tensordot(weights, field, (1, axis)), 0, axis)
    return field


def _read(subject: Subject, source: Source) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    head = load_input(subject, source.modalities, source.preprocessing)
    return head.images, head.mask
