"""segkit's side of `segkit bench training`: the very code that `segkit train` runs."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segkit.cards import OptionValue, Size
from segkit.dataset import Dataset, open_dataset
from segkit.registry import Registry
from segkit.volume import format_size
from segkit_benchmarks.turns import Turn

if TYPE_CHECKING:
    from segkit.training.batches import PatchSource

MODALITIES = ("T1", "T2")

PREPROCESSING: Mapping[str, Any] = {"background": "zero"}
"""No channel for the mask: the others have none."""

PLAIN, DEFAULT = "segkit", "segkit, 1 thread ahead"
WAYS = {PLAIN: 0, DEFAULT: 1, "segkit, 2 threads ahead": 2}
"""Ways to draw: when a patch is asked for, or in threads meanwhile. `segkit train` has one thread ahead by default, so
that is the way that is held against floors."""


@dataclass(frozen=True, kw_only=True)
class Net:
    """A network that training steps are measured on.

    Attributes:
        model: name of the plugin.
        options: its options.
        channels: of its input.
        patch: (x, y, z) voxels.
        batch: patches of a step.
    """

    model: str
    options: Mapping[str, OptionValue] = field(default_factory=dict)
    channels: int
    patch: Size
    batch: int = 1

    @property
    def shape(self) -> str:
        """Its input in words."""
        return f"{self.batch}x{self.channels}x{format_size(self.patch)}"


def open_data(registry: Registry, data: Path) -> Dataset:
    """The phantom in a folder."""
    return open_dataset(registry.card("dataset", "phantom"), data)


def open_source(registry: Registry, data: Path, store: Path, size: Size) -> PatchSource:
    """Patches of all subjects, each with labelled tissue; subjects that the store lacks are prepared."""
    from segkit.preprocess import Preprocessing
    from segkit.store import prepare
    from segkit.training.batches import PatchSource

    dataset = open_data(registry, data)
    prepared = prepare(dataset, dataset.labelled, MODALITIES, Preprocessing(**PREPROCESSING), store)
    return PatchSource(prepared, registry.build("sampler", "nonempty")(), size, (0,))


def rate(batches: Iterator[Any], seconds: float, patches: int = 1) -> float:
    """Patches per second that come from an endless iterator of batches; the first batch is not timed."""
    next(batches)
    began, took, done = time.perf_counter(), 0.0, 0
    while took < seconds or not done:
        next(batches)
        done += patches
        took = time.perf_counter() - began
    return done / took


def patches(turn: Turn, registry: Registry, data: Path, store: Path, sizes: Sequence[Size], seconds: float) -> None:
    """Draw patches, plain and ahead: before all the store is made; in each round it is opened anew."""
    import segkit.store  # noqa: F401 - what follows times no import
    from segkit.memory import keep_freed_memory
    from segkit.training.batches import ahead

    keep_freed_memory()  # as a training on a CPU does
    registry.build("sampler", "nonempty")

    def first(size: Size) -> float:
        began = time.perf_counter()
        open_source(registry, data, store, size).draw(0, [0])
        return time.perf_counter() - began

    turn({"prepare_and_first_patch_seconds": first(sizes[0])})
    sources = {format_size(size): open_source(registry, data, store, size) for size in sizes}
    numbers = itertools.count()
    while True:
        figures: dict[str, Any] = {"first_patch_seconds": first(sizes[0]), **{way: {} for way in WAYS}}
        for name, source in sources.items():
            for way, workers in WAYS.items():
                batches = ahead(lambda step, source=source: source.draw(step, [0]), numbers, workers)  # type: ignore[misc]
                figures[way][name] = rate(batches, seconds)
                batches.close()
        turn(figures)


def plan(registry: Registry, data: Path, store: Path, run: Path, net: Net, precision: str, steps: int) -> None:
    """Write a run of one epoch of so many steps, with the thesis' loss and optimizer."""
    from segkit.training.plan import Choices, plan_runs

    choices = Choices(
        model=net.model,
        options=net.options,
        dataset="phantom",
        data=data,
        store=store,
        modalities=MODALITIES[: net.channels],
        patch=net.patch,
        preprocessing=PREPROCESSING,
        recipe="thesis",
        chosen={
            "precision": precision,
            "batch_size": net.batch,
            "epochs": 1,
            "patches_per_epoch": steps * net.batch,
        },
    )
    plan_runs(registry, choices, run, 1, lambda _: None)


def steps(turn: Turn, registry: Registry, folder: Path) -> None:
    """Train a run, a step in each round; the first step is not timed."""
    from segkit.run import Run
    from segkit.training import Trainer, loop
    from segkit.training.plan import open_subjects
    from segkit.training.processes import Processes

    loop.CHECKPOINT_SECONDS = sys.maxsize  # none falls into a step, however long the others take
    run = Run.open(folder)
    train, held_out = open_subjects(registry, run, lambda _: None)
    began: float | None = None

    def on_step(step: int, loss: float) -> None:
        nonlocal began
        now = time.perf_counter()
        turn({} if began is None else {"seconds": now - began})
        began = time.perf_counter()

    Trainer(run, registry, train, held_out, Processes(1, 0, "cpu"), workers=1, on_step=on_step).fit()
