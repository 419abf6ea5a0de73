"""`segkit train`: from files to a run folder."""

from __future__ import annotations

import importlib.metadata
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from segkit.cards import DatasetCard
from segkit.cli.device import choose_device, device_option
from segkit.cli.options import Triple, parse_options
from segkit.cli.output import progress_bar
from segkit.complexity import require_trainable
from segkit.dataset import Subject, find_subjects, select_modalities
from segkit.errors import OutputExists, SegkitError, UsageError
from segkit.extras import require
from segkit.files import sha256_of
from segkit.patches import require_multiple
from segkit.preprocess import Normalisation
from segkit.registry import Registry
from segkit.run import Run, RunConfig
from segkit.store import PreparedSubject, prepare

LEARNING_RATES = {"sgd": 1e-3, "adamw": 2e-3}
"""SGD's is the thesis'; AdamW's suits networks of a few million parameters and less."""

NORMALISATION: Normalisation = "zscore-nonzero"
STORE = "store"
"""Folder of the prepared subjects inside a run."""

_TAKEN_OVER = (
    "loss",
    "sampler",
    "optimizer",
    "weight_decay",
    "epochs",
    "patches_per_epoch",
    "batch_size",
    "overlap",
    "seed",
)
"""Options whose values go into the config as they are."""


@click.command(epilog="Example: segkit train --model unet3d --dataset phantom --data data/iseg --out runs/first")
@click.option("--model", help="Network; see: segkit models.")
@click.option(
    "--dataset", default="phantom", show_default=True, help="Data set plugin that knows the layout of --data."
)
@click.option("--data", type=click.Path(path_type=Path), help="Folder of the data set.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Run folder to write.")
@click.option("--resume", is_flag=True, help="Go on with the run in --out; everything else is read from it.")
@click.option("--modality", "modalities", multiple=True, help="Channel, repeated in order.  [default: all]")
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="An option of the network.")
@click.option("--patch", type=Triple(), help="Patch size in voxels.  [default: the network's]")
@click.option("--loss", default="dice-ce", show_default=True, help="Loss plugin.")
@click.option("--sampler", default="nonempty", show_default=True, help="Sampler plugin.")
@click.option(
    "--optimizer", type=click.Choice(["sgd", "adamw"]), default="adamw", show_default=True, help="sgd is the thesis'."
)
@click.option("--learning-rate", type=click.FloatRange(0, min_open=True), help="[default: sgd 1e-3, adamw 2e-3]")
@click.option("--weight-decay", type=click.FloatRange(0), default=1e-8, show_default=True)
@click.option("--epochs", type=click.IntRange(1), default=50, show_default=True)
@click.option("--patches-per-epoch", type=click.IntRange(1), default=500, show_default=True)
@click.option("--batch-size", type=click.IntRange(1), default=1, show_default=True)
@click.option("--hold-out", type=click.IntRange(1), help="Subjects to validate on, the first ones.  [default: a fifth]")
@click.option(
    "--overlap",
    type=click.FloatRange(0, 0.75),
    default=0.5,
    show_default=True,
    help="Of patches, when whole volumes are segmented.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@device_option
@click.pass_context
def train(ctx: click.Context, /, out: Path, resume: bool, device: str, **chosen: Any) -> None:
    """Train a network. Ctrl-C saves the state after the step under way; --resume goes on as if nothing had happened."""
    registry: Registry = ctx.obj
    device = choose_device(device)
    for module, extra in (("safetensors", "train"), ("tensorboard", "train"), ("matplotlib", "report")):
        require(module, extra, "training")
    if resume:
        _refuse_changes(ctx)
        run, prepared = _open_run(registry, out)
    else:
        if any(path.name != STORE for path in (out.iterdir() if out.is_dir() else ())):
            raise OutputExists(
                f"expected a new run folder, found files in {out}", hint="choose another --out, or add --resume"
            )
        run, prepared = _new_run(registry, out, **chosen)
    split = len(run.config.held_out_subjects)
    held_out, train_subjects = prepared[:split], prepared[split:]
    config = run.config
    click.echo(
        f"{config.model} on {device}: {len(train_subjects)} subjects to train on, {len(held_out)} held out "
        f"({', '.join(config.held_out_subjects)}), channels {', '.join(config.modalities)}, {config.steps} steps",
        err=True,
    )
    from segkit.training import Stopped, Trainer

    with progress_bar() as bar:
        task = bar.add_task("training", total=config.steps)
        say = partial(bar.console.print, soft_wrap=True, highlight=False)

        def on_epoch(row: dict[str, Any]) -> None:
            say(
                f"epoch {row['epoch']}/{config.epochs}  loss {row['loss']:.4f}  "
                f"held-out Dice {row['mean_dice']:.4f}  {row['seconds']:.0f} s"
            )

        def on_step(step: int, loss: float) -> None:
            bar.update(task, completed=step, description=f"training, loss {loss:.3f}")

        def on_stop() -> None:
            say("stopping after the step under way; Ctrl-C again loses what came after the last epoch")

        trainer = Trainer(run, registry, train_subjects, held_out, device, on_step, on_epoch, on_stop)
        try:
            progress = trainer.fit()
        except KeyboardInterrupt as stop:
            kept = "nothing is lost" if isinstance(stop, Stopped) else "the last checkpoint is kept"
            say(f"stopped, {kept}. Go on with: segkit train --resume --out {out}")
            ctx.exit(130)
        except SegkitError:
            if not (resume or run.last.is_file()):
                _discard(out)
            raise
    click.echo(
        f"best held-out Dice {progress.best:.4f}, run in {out}\n"
        f"next: segkit evaluate {out}\n      segkit export {out} --onnx --trt"
    )


def _discard(out: Path) -> None:
    """Take away what a run left that never did a step."""
    if not out.is_dir():
        return
    for folder in (STORE, "tensorboard"):
        shutil.rmtree(out / folder, ignore_errors=True)
    (out / "config.json").unlink(missing_ok=True)
    if not any(out.iterdir()):
        out.rmdir()


def _new_run(
    registry: Registry,
    out: Path,
    *,
    model: str | None,
    data: Path | None,
    dataset: str,
    hold_out: int | None,
    **chosen: Any,
) -> tuple[Run, list[PreparedSubject]]:
    """Check all that was chosen, prepare the subjects, and write the config: in this order, so a refusal is clean.

    The subjects come with those held out first.
    """
    if model is None or data is None:
        raise UsageError(
            "expected --model and --data for a new run",
            hint="example: segkit train --model unet3d --data DIR --out RUN",
        )
    entry, card = registry.resolve("model", model), registry.card("model", model)
    for kind in ("loss", "sampler"):
        registry.build(kind, chosen[kind])
    dataset_entry, dataset_card = registry.resolve("dataset", dataset), registry.card("dataset", dataset)
    subjects = [s for s in find_subjects(dataset_card, data) if s.label is not None]
    count = hold_out or max(1, round(len(subjects) / 5))
    if len(subjects) <= count:
        raise UsageError(
            f"expected more than {count} labelled subjects in {data}, found {len(subjects)}",
            hint="lower --hold-out, or add subjects",
        )
    modalities = select_modalities(subjects, chosen["modalities"])
    options = parse_options(chosen["options"])
    network = registry.build_model(model, len(modalities), len(dataset_card.labels), options)
    patch = chosen["patch"] or card.patch
    require_multiple(patch, getattr(network, "multiple", card.multiple), model)
    require_trainable(network, len(modalities), patch, chosen["batch_size"])
    try:
        prepared = _prepare(dataset_card, subjects, modalities, NORMALISATION, out)
    except SegkitError:
        _discard(out)
        raise
    spacings = [subject.spacing_mm for subject in prepared]
    optimizer = chosen["optimizer"]
    config = RunConfig(
        model=entry.qualified,
        model_version=entry.version,
        options={**card.options, **options},
        dataset=dataset_entry.qualified,
        data=data.resolve(),
        modalities=modalities,
        labels=dataset_card.labels,
        ignored=dataset_card.ignored,
        held_out_subjects=tuple(s.id for s in subjects[:count]),
        train_subjects=tuple(s.id for s in subjects[count:]),
        train_labels_sha256=tuple(sha256_of(s.label) for s in subjects[count:] if s.label),
        normalisation=NORMALISATION,
        least_spacing_mm=tuple(min(axis) for axis in zip(*spacings, strict=True)),
        most_spacing_mm=tuple(max(axis) for axis in zip(*spacings, strict=True)),
        patch=patch,
        learning_rate=chosen["learning_rate"] or LEARNING_RATES[optimizer],
        software={
            "python": sys.version.split()[0],
            **{name: _version(name) for name in ("torch", "numpy", "monai", "segkit3d")},
        },
        **{key: chosen[key] for key in _TAKEN_OVER},
    )
    return Run.create(out, config), prepared


def _open_run(registry: Registry, out: Path) -> tuple[Run, list[PreparedSubject]]:
    """Read a run and see that its subjects are prepared as they were."""
    run = Run.open(out)
    config = run.config
    card = registry.card("dataset", config.dataset)
    found = {subject.id: subject for subject in find_subjects(card, config.data)}
    wanted = [*config.held_out_subjects, *config.train_subjects]
    missing = [id_ for id_ in wanted if id_ not in found]
    if missing:
        raise UsageError(
            f"expected subject {missing[0]} in {config.data}, found {', '.join(found)}",
            hint="restore the data of the run",
        )
    return run, _prepare(card, [found[id_] for id_ in wanted], config.modalities, config.normalisation, out)


def _prepare(
    card: DatasetCard, subjects: Sequence[Subject], modalities: Sequence[str], normalisation: Normalisation, out: Path
) -> list[PreparedSubject]:
    with progress_bar() as bar:
        task = bar.add_task("preparing", total=len(subjects))
        return prepare(subjects, card, modalities, normalisation, out / STORE, lambda _: bar.advance(task))


def _refuse_changes(ctx: click.Context) -> None:
    given = [
        name
        for name in ctx.params
        if name not in ("out", "resume", "device")
        and ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
    ]
    if given:
        raise UsageError(
            f"expected --resume with --out alone, got --{given[0].replace('_', '-')} too",
            hint="the run's own settings are used; start a new run to change them",
        )


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
