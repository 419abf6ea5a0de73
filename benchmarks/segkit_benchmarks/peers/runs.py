"""Trained networks for `segkit bench peers`: which runs it takes, and how they were made."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segkit.errors import DataError, UsageError
from segkit.registry import Registry
from segkit.run import Run
from segkit.training.recipes import settings
from segkit.volume import format_size
from segkit_benchmarks.peers.work import CLASSES, MODALITIES, Net, Work

DATASET, BACKGROUND = "phantom", "zero"
"""What a run must be trained on and with: the peers normalise so, and none of them makes a channel of the mask."""

_NOT_SET_BY_HAND = ("fixed_patches", "background", "hold_out", "augmentation")


def match_runs(folders: Sequence[Path], work: Work, registry: Registry) -> dict[str, Run]:
    """Runs by the model of the network whose weights they are to give.

    Raises:
        UsageError: a run is of no network that is measured, of the same as another, or was trained in another way.
        DataError: a folder is no run, has no weights yet, or its data set is gone.
    """
    nets = {registry.resolve("model", net.model).qualified: net for net in work.nets}
    found: dict[str, Run] = {}
    for folder in folders:
        run = Run.open(folder)
        net = nets.get(run.config.model)
        if net is None:
            raise UsageError(
                f"expected a run of {' or '.join(net.model for net in work.nets)}, got {run.config.model} in {folder}",
                hint="the networks of --quick and of a full run differ",
            )
        if net.model in found:
            raise UsageError(f"expected one run of {net.model}, got {found[net.model].folder} and {folder}")
        _require_same(run, net, registry)
        found[net.model] = run
    return found


def _require_same(run: Run, net: Net, registry: Registry) -> None:
    config, defaults = run.config, registry.card("model", net.model).options
    for what, expected, got in (
        ("options", _words({**defaults, **net.options}), _words({**defaults, **config.options})),
        ("data set", registry.resolve("dataset", DATASET).qualified, config.dataset),
        ("background", BACKGROUND, config.preprocessing.background),
        ("modalities", ", ".join(MODALITIES[: net.channels]), ", ".join(config.modalities)),
        ("classes", str(CLASSES), str(len(config.labels))),
        ("patch", format_size(net.patch), format_size(config.patch)),
    ):
        if got != expected:
            raise UsageError(
                f"expected the {what} {expected} in a run of {net.model}, got {got} in {run.folder}",
                hint=f"the peers know no other; train it with: {how_to_train(net)}",
            )
    if not run.best.is_file():
        raise DataError(
            f"expected weights at {run.best}, found none", hint="let the training reach its first validation"
        )
    if not config.data.is_dir():
        raise DataError(
            f"expected the data of the run at {config.data}, found no folder",
            hint="its export is proven on them: make them again",
        )


def _words(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in sorted(options.items())) or "none"


def how_to_train(net: Net) -> str:
    """The command line that makes a run for a network; what it leaves out is free."""
    return " ".join(["segkit train", *_of_network(net.model, net.options, net.channels, net.patch), "--out RUN"])


def _of_network(model: str, options: Mapping[str, Any], channels: int, patch: Sequence[int]) -> list[str]:
    modalities = [] if channels == len(MODALITIES) else [f"--modality {name}" for name in MODALITIES[:channels]]
    return [
        f"--model {model}",
        *(f"--option {name}={value}" for name, value in options.items()),
        f"--dataset {DATASET} --data DATA",
        *modalities,
        f"--patch {','.join(map(str, patch))} --background {BACKGROUND}",
    ]


def describe_run(run: Run, net: Net, dice: Mapping[str, float] | None) -> dict[str, Any]:
    """How a run was made, and the Dice of each class on held-out heads if it was evaluated."""
    config = run.config
    usual = settings(config.recipe, config.patch, {})
    defaults = settings(config.recipe, config.patch, {"optimizer": config.optimizer}) | {
        "optimizer": usual["optimizer"]
    }
    chosen = {
        name: getattr(config, name)
        for name, value in defaults.items()
        if name not in _NOT_SET_BY_HAND and getattr(config, name) != value
    }
    words = [
        "segkit train",
        *([] if config.recipe == "segkit" else [f"--recipe {config.recipe}"]),
        *_of_network(net.model, net.options, net.channels, net.patch),
        f"--hold-out {len(config.held_out_subjects)}",
        *(f"--{name.replace('_', '-')} {_number(value)}" for name, value in chosen.items()),
        *(f"--augment {name}" for name in config.augmentation),
        "--out RUN",
    ]
    return {
        "data": _how_data_were_made(config.data, len(config.train_subjects) + len(config.held_out_subjects)),
        "train": " ".join(words),
        "steps": config.steps,
        "threads": config.threads,
        "dice": None if dice is None else dict(dice),
    }


def _number(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _how_data_were_made(folder: Path, subjects: int) -> str:
    made = json.loads((folder / "dataset.json").read_text())
    return f"segkit data make phantom DATA --preset {made['preset']} --subjects {subjects} --seed {made['seed']}"
