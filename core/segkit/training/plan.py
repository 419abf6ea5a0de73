"""From what was chosen to runs that are ready to train: everything is checked before anything is written."""

from __future__ import annotations

import importlib.metadata
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from segkit.cards import Options, Size
from segkit.complexity import require_trainable
from segkit.dataset import Subject, open_dataset, select_modalities
from segkit.errors import SegkitError, UnknownName, UsageError
from segkit.files import write_bytes
from segkit.patches import require_multiple
from segkit.preprocess import Preprocessing
from segkit.registry import Registry
from segkit.run import Run, RunConfig
from segkit.store import PreparedSubject, hash_image, prepare, with_weight_map
from segkit.training.augmentation import Augmentation
from segkit.training.initial import freeze, take_over
from segkit.training.recipes import fit_patch, settings

STORE = "store"
"""Folder of the prepared subjects inside a run, unless another is named."""


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What someone chose for a training.

    Attributes:
        model, dataset: names of plugins.
        options, dataset_options, loss_options: theirs, where they differ from their defaults.
        data: folder of the data set.
        store: folder of the prepared subjects, or None for one inside the run.
        modalities: channels, in order; empty for all.
        patch: size (x, y, z) in voxels, or None for the network's own.
        preprocessing: fields of `Preprocessing` by name; the recipe gives the background's.
        initial: run or file whose weights are taken over.
        frozen: name patterns of weights that are not trained.
        folds: number of folds of a cross-validation, or None for one run.
        deterministic: see `RunConfig`.
        recipe: gives the settings that are None in `chosen`.
        chosen: settings by name; see `segkit.training.recipes`.
    """

    model: str
    dataset: str
    data: Path
    options: Options = field(default_factory=dict)
    dataset_options: Options = field(default_factory=dict)
    loss_options: Options = field(default_factory=dict)
    store: Path | None = None
    modalities: tuple[str, ...] = ()
    patch: Size | None = None
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    initial: Path | None = None
    frozen: tuple[str, ...] = ()
    folds: int | None = None
    deterministic: bool = False
    recipe: str = "segkit"
    chosen: Mapping[str, Any] = field(default_factory=dict)


def plan_runs(
    registry: Registry, choices: Choices, out: Path, processes: int, progress: Callable[[str], None]
) -> list[Run]:
    """Check all that was chosen, prepare the subjects, and write the config of each run: one, or one per fold.

    Whatever is refused leaves nothing behind.

    Args:
        registry: where plugins are found.
        choices: see there.
        out: the run folder, or the folder of the folds.
        processes: how many train together.
        progress: called with the id of each prepared subject.

    Raises:
        SegkitError: a choice, a file or a plugin is refused.
    """
    entry, card = registry.resolve("model", choices.model), registry.card("model", choices.model)
    dataset_entry = registry.resolve("dataset", choices.dataset)
    dataset = open_dataset(registry.card("dataset", choices.dataset), choices.data, choices.dataset_options)
    subjects = dataset.labelled
    modalities = select_modalities(subjects, choices.modalities) if subjects else ()
    splits = _split(subjects, choices, settings(choices.recipe, card.patch, choices.chosen)["hold_out"])
    options = {**card.options, **choices.options}
    taken = settings(choices.recipe, choices.patch or card.patch, choices.chosen)
    # A network of a fixed number of channels has none to spare for the mask.
    background = "zero" if card.in_channels and taken["background"] == "mask" else taken["background"]
    preprocessing = Preprocessing(**{"background": background, **choices.preprocessing})
    channels = preprocessing.channels(len(modalities))
    network = registry.build_model(choices.model, channels, len(dataset.scheme.labels), choices.options)
    multiple = getattr(network, "multiple", card.multiple)
    loss_options = _loss_options(registry, taken["loss"], choices.loss_options)
    registry.build("sampler", taken["sampler"])
    if choices.patch:
        require_multiple(choices.patch, multiple, choices.model)
    if choices.frozen:
        freeze(network, choices.frozen)
    initial, weights = take_over(network, choices.initial) if choices.initial else (None, {})
    if taken["augmentation"]:
        Augmentation(taken["augmentation"], len(modalities))
    store, had_store = choices.store or out / STORE, (out / STORE).exists()
    try:
        prepared = prepare(dataset, subjects, modalities, preprocessing, store, progress=progress)
        smallest: Size = tuple(min(sides) for sides in zip(*(one.shape for one in prepared), strict=True))
        patch = choices.patch or fit_patch(card.patch, multiple, smallest)
        require_multiple(patch, multiple, choices.model)
        require_trainable(network, channels, patch, taken["batch_size"])
        spacings = [one.spacing_mm for one in prepared]
        del taken["hold_out"], taken["background"]
        common: dict[str, Any] = {
            **taken,
            "recipe": choices.recipe,
            "model": entry.qualified,
            "model_version": entry.version,
            "options": options,
            "dataset": dataset_entry.qualified,
            "dataset_options": {**dataset.card.options, **choices.dataset_options},
            "data": choices.data.resolve(),
            "modalities": modalities,
            "labels": dataset.scheme.labels,
            "ignored": dataset.scheme.ignored,
            "preprocessing": preprocessing,
            "least_spacing_mm": tuple(min(axis) for axis in zip(*spacings, strict=True)),
            "most_spacing_mm": tuple(max(axis) for axis in zip(*spacings, strict=True)),
            "patch": patch,
            "loss_options": loss_options,
            "processes": processes,
            "frozen": choices.frozen,
            "initial": initial,
            "deterministic": choices.deterministic,
            **_environment(),
        }
        folders = [out] if choices.folds is None else [out / f"fold-{n}" for n in range(1, choices.folds + 1)]
        return [
            _write(folder, split, common, choices.store, out, weights)
            for folder, split in zip(folders, splits, strict=True)
        ]
    except SegkitError:
        discard(out, keep_store=had_store)
        raise


def open_runs(out: Path) -> list[Run]:
    """The run in a folder, or the runs of its folds.

    Raises:
        DataError: there is none.
    """
    numbers = sorted(int(path.parent.name[5:]) for path in out.glob("fold-[0-9]*/config.json"))
    return [Run.open(out / f"fold-{number}") for number in numbers] or [Run.open(out)]


def open_subjects(
    registry: Registry, run: Run, progress: Callable[[str], None]
) -> tuple[list[PreparedSubject], list[PreparedSubject]]:
    """The subjects of a run to train on and those held out, prepared as they were.

    Raises:
        UsageError: a subject is gone.
        DataError: a file is bad.
    """
    config = run.config
    dataset = open_dataset(registry.card("dataset", config.dataset), config.data, config.dataset_options)
    found = {subject.id: subject for subject in dataset.subjects}
    missing = [id_ for id_ in (*config.held_out_subjects, *config.train_subjects) if id_ not in found]
    if missing:
        raise UsageError(
            f"expected subject {missing[0]} in {config.data}, found {', '.join(found)}",
            hint="restore the data of the run",
        )
    store = run.folder / config.store

    def prepared(ids: Sequence[str]) -> list[PreparedSubject]:
        chosen = [found[id_] for id_ in ids]
        return prepare(dataset, chosen, config.modalities, config.preprocessing, store, progress=progress)

    card = registry.card("loss", config.loss)
    train, held_out = prepared(config.train_subjects), prepared(config.held_out_subjects)
    if card.weight_map:
        train, held_out = (
            [with_weight_map(one, card, config.loss_options) for one in part] for part in (train, held_out)
        )
    return train, held_out


def discard(out: Path, *, keep_store: bool) -> None:
    """Take away what runs left that never did a step; a store that was there before them stays."""
    for folder in [*out.glob("fold-*"), out]:
        shutil.rmtree(folder / "tensorboard", ignore_errors=True)
        for name in ("config.json", "initial.safetensors"):
            (folder / name).unlink(missing_ok=True)
        if folder.is_dir() and folder != out and not any(folder.iterdir()):
            folder.rmdir()
    if not keep_store:
        shutil.rmtree(out / STORE, ignore_errors=True)
    if out.is_dir() and not any(out.iterdir()):
        out.rmdir()


def _split(
    subjects: Sequence[Subject], choices: Choices, hold_out: int | None
) -> list[tuple[list[Subject], list[Subject]]]:
    """Pairs of (train, held out): the first subjects held out, or each subject once."""
    if choices.folds is not None:
        if not 2 <= choices.folds <= len(subjects):
            raise UsageError(
                f"expected 2 to {len(subjects)} folds of {len(subjects)} labelled subjects, got {choices.folds}",
                hint="lower --folds, or add subjects",
            )
        parts = np.array_split(np.arange(len(subjects)), choices.folds)
        return [
            ([s for i, s in enumerate(subjects) if i not in part], [subjects[i] for i in part.tolist()])
            for part in parts
        ]
    count = hold_out or max(1, round(len(subjects) / 5))
    if len(subjects) <= count:
        raise UsageError(
            f"expected more than {count} labelled subjects in {choices.data}, found {len(subjects)}",
            hint="lower --hold-out, or add subjects",
        )
    return [(list(subjects[count:]), list(subjects[:count]))]


def _loss_options(registry: Registry, loss: str, chosen: Options) -> dict[str, Any]:
    card = registry.card("loss", loss)
    for option in chosen:
        if option not in card.options:
            raise UnknownName(f"option of loss {loss}", option, card.options)
    registry.build("loss", loss)
    return {**card.options, **chosen}


def _environment() -> dict[str, Any]:
    import torch

    names = ("torch", "numpy", "monai", "segkit3d")
    return {
        "threads": torch.get_num_threads(),
        "software": {"python": sys.version.split()[0], **{name: _version(name) for name in names}},
    }


def _write(
    folder: Path,
    split: tuple[list[Subject], list[Subject]],
    common: Mapping[str, Any],
    store: Path | None,
    out: Path,
    weights: Mapping[str, Any],
) -> Run:
    train, held_out = split
    config = RunConfig(
        **common,
        store=store.resolve() if store else Path(STORE if folder == out else f"../{STORE}"),
        train_subjects=tuple(s.id for s in train),
        held_out_subjects=tuple(s.id for s in held_out),
        train_labels_sha256=tuple(hash_image(s.label) for s in train if s.label),
    )
    if weights:
        from safetensors.torch import save

        write_bytes(folder / "initial.safetensors", save(dict(weights)))
    return Run.create(folder, config)


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
