"""`segkit train`: from files to a run folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segkit.cli.device import choose_device, device_option
from segkit.cli.options import Triple, dataset_option, parse_options, preprocessing_options
from segkit.cli.output import progress_bar
from segkit.errors import OutputExists, SegkitError, UsageError
from segkit.extras import require

if TYPE_CHECKING:
    from segkit.registry import Registry
    from segkit.run import Run
    from segkit.training.processes import Processes

_SETTINGS = (
    "loss",
    "sampler",
    "augmentation",
    "optimizer",
    "momentum",
    "learning_rate",
    "schedule",
    "weight_decay",
    "precision",
    "epochs",
    "patches_per_epoch",
    "batch_size",
    "accumulation",
    "validation_patches",
    "patience",
    "hold_out",
    "overlap",
    "seed",
)
"""Options that a recipe sets unless they are given."""

_OPTIONS = {"options": "--option", "dataset_options": "--dataset-option", "loss_options": "--loss-option"}

_positive = click.IntRange(1)


@click.command(epilog="Example: segkit train --model unet3d --dataset phantom --data data/iseg --out runs/first")
@click.option("--model", help="Network; see: segkit models.")
@click.option(
    "--dataset", default="phantom", show_default=True, help="Data set plugin that knows the layout of --data."
)
@click.option("--data", type=click.Path(path_type=Path), help="Folder of the data set.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Run folder to write.")
@click.option("--resume", is_flag=True, help="Go on with the run in --out; everything else is read from it.")
@click.option(
    "--recipe",
    type=click.Choice(["segkit", "thesis"]),
    default="segkit",
    show_default=True,
    help="Where the settings that are not given come from; thesis is the protocol of Adaloglou 2019.",
)
@click.option("--folds", type=click.IntRange(2), help="Cross-validate: one run per fold, in OUT/fold-1 and so on.")
@click.option("--modality", "modalities", multiple=True, help="Repeated, in channel order.  [default: all]")
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="An option of the network.")
@dataset_option
@click.option("--loss-option", "loss_options", multiple=True, metavar="KEY=VALUE", help="One of the loss.")
@click.option("--store", type=click.Path(path_type=Path, file_okay=False), help="Prepared subjects.  [default: in OUT]")
@preprocessing_options
@click.option("--init", "initial", type=click.Path(path_type=Path), help="Run or .safetensors file to start from.")
@click.option("--freeze", "frozen", multiple=True, metavar="PATTERN", help="Weights not to train, such as 'encoder.*'.")
@click.option("--patch", type=Triple(), help="Patch size in voxels.  [default: the network's, halved until it fits]")
@click.option("--loss", help="Loss plugin.  [default: dice-ce; thesis: dice]")
@click.option("--sampler", help="Sampler plugin.  [default: nonempty]")
@click.option(
    "--augment",
    "augmentation",
    multiple=True,
    metavar="NAME",
    help="Change each patch at random: flip, affine, elastic, gamma, bias, noise, or all; repeated.  [default: none]",
)
@click.option("--optimizer", type=click.Choice(["sgd", "adamw"]), help="[default: adamw; thesis: sgd]")
@click.option("--momentum", type=click.FloatRange(0, 1, max_open=True), help="Of sgd.  [default: 0.9; thesis: 0.5]")
@click.option("--learning-rate", type=click.FloatRange(0, min_open=True), help="[default: sgd 1e-3, adamw 2e-3]")
@click.option(
    "--schedule",
    type=click.Choice(["constant", "cosine", "polynomial"]),
    help="Of the learning rate.  [default: sgd constant, adamw cosine]",
)
@click.option("--weight-decay", type=click.FloatRange(0), help="[default: 1e-8]")
@click.option(
    "--precision", type=click.Choice(["fp32", "bf16", "fp16"]), help="Of the network's pass.  [default: fp32]"
)
@click.option("--epochs", type=_positive, help="[default: 50; thesis: 200]")
@click.option("--patches-per-epoch", type=_positive, help="[default: 500; thesis: 500, of small patches 2000]")
@click.option("--batch-size", type=_positive, help="Patches in one pass of one process.  [default: 1]")
@click.option("--accumulation", type=_positive, help="Passes before an optimizer step.  [default: 1]")
@click.option("--validation-patches", type=_positive, help="[default: 10; thesis: 10, of small patches 50]")
@click.option("--patience", type=click.IntRange(0), help="Epochs without a better Dice before it stops; 0: never.")
@click.option(
    "--hold-out", type=_positive, help="Subjects to validate on, the first ones.  [default: a fifth; thesis: 1]"
)
@click.option("--overlap", type=click.FloatRange(0, 0.75), help="Of tiles of whole volumes.  [default: 0.5; thesis: 0]")
@click.option("--seed", type=click.IntRange(0), help="[default: 0]")
@click.option("--deterministic", is_flag=True, help="The same bits each time, also where that is slower.")
@click.option(
    "--workers", type=click.IntRange(0), default=1, show_default=True, help="Threads that draw patches ahead."
)
@device_option
@click.pass_context
def train(ctx: click.Context, /, out: Path, resume: bool, device: str, workers: int, **chosen: Any) -> None:
    """Train a network. Ctrl-C saves the state after the step under way; --resume goes on as if nothing had happened.

    Several processes or machines train together under: accelerate launch -m segkit train ...
    """
    registry: Registry = ctx.obj
    if resume:
        _refuse_changes(ctx)
    device = choose_device(device)
    for module, extra in (("safetensors", "train"), ("tensorboard", "train"), ("matplotlib", "report")):
        require(module, extra, "training")
    from segkit.run import lock
    from segkit.training import Stopped
    from segkit.training.plan import STORE, discard, open_runs
    from segkit.training.processes import join

    processes = join(device)
    had_store = (out / STORE).exists()
    with lock(out) if processes.is_main else nullcontext():
        if processes.is_main and not resume:
            _new_runs(registry, out, processes, device, **chosen)
        processes.wait()
        runs = open_runs(out)
        try:
            for run in runs:
                _train_one(registry, run, processes, workers)
        except KeyboardInterrupt as stop:
            if processes.is_main:
                kept = "nothing is lost" if isinstance(stop, Stopped) else "the last checkpoint is kept"
                click.echo(f"stopped, {kept}. Go on with: segkit train --resume --out {out}", err=True)
            ctx.exit(130)
        except SegkitError:
            if processes.is_main and not (resume or any(run.last.is_file() for run in runs)):
                discard(out, keep_store=had_store)
            raise
    if processes.is_main:
        click.echo(
            f"next: segkit evaluate {out}" + ("" if len(runs) > 1 else f"\n      segkit export {out} --onnx --trt")
        )


def _train_one(registry: Registry, run: Run, processes: Processes, workers: int) -> None:
    from segkit.training import Trainer
    from segkit.training.plan import open_subjects

    config = run.config
    _require_processes(run, processes)
    with _preparing(len(config.train_subjects) + len(config.held_out_subjects), processes) as advance:
        train_subjects, held_out = open_subjects(registry, run, advance)
    processes.wait()
    if processes.is_main:
        click.echo(_describe(run, processes), err=True)
    with progress_bar(hidden=not processes.is_main) as bar:
        task = bar.add_task("training", total=config.steps)

        def say(text: str) -> None:
            if processes.is_main:
                bar.console.print(text, soft_wrap=True, highlight=False)

        def on_epoch(row: dict[str, Any]) -> None:
            say(
                f"epoch {row['epoch']}/{config.epochs}  loss {row['loss']:.4f}  "
                f"held-out Dice {row['mean_dice']:.4f}  {row['seconds']:.0f} s"
            )

        def on_step(step: int, loss: float) -> None:
            bar.update(task, completed=step, description=f"training, loss {loss:.3f}")

        def on_stop() -> None:
            say("stopping after the step under way; Ctrl-C again loses what came after the last checkpoint")

        progress = Trainer(
            run, registry, train_subjects, held_out, processes, workers, on_step, on_epoch, on_stop
        ).fit()
    if processes.is_main:
        early = f"stopped early after {len(progress.rows)} epochs, " if len(progress.rows) < config.epochs else ""
        click.echo(f"{early}best held-out Dice {progress.best:.4f}, run in {run.folder}")


def _describe(run: Run, processes: Processes) -> str:
    """What is about to be trained, on one line; where weights are taken over, on two."""
    config = run.config
    together = f"{processes.count} processes, " if processes.count > 1 else ""
    channels = [*config.modalities, "the mask"][: config.channels]
    text = (
        f"{config.model} on {processes.device}: {together}{len(config.train_subjects)} subjects to train on, "
        f"{len(config.held_out_subjects)} held out ({', '.join(config.held_out_subjects)}), channels "
        f"{', '.join(channels)}, patch {'x'.join(map(str, config.patch))}, {config.steps} steps"
    )
    if config.initial and not run.last.is_file():
        left = f"; left as they were: {', '.join(config.initial.left)}" if config.initial.left else ""
        text += f"\n{config.initial.matched} tensors taken over from {config.initial.source}{left}"
    return text


def _new_runs(registry: Registry, out: Path, processes: Processes, device: str, **chosen: Any) -> None:
    if chosen["model"] is None or chosen["data"] is None:
        raise UsageError(
            "expected --model and --data for a new run",
            hint="example: segkit train --model unet3d --data DIR --out RUN",
        )
    from segkit.training.augmentation import AUGMENTATIONS
    from segkit.training.plan import STORE, Choices, plan_runs

    if any(path.name not in (STORE, ".lock") for path in out.iterdir()):
        raise OutputExists(
            f"expected a new run folder, found files in {out}", hint="choose another --out, or add --resume"
        )
    if chosen["precision"] == "fp16" and device == "cpu":
        raise UsageError("expected a CUDA device for --precision fp16, got the CPU", hint="use --precision bf16")
    settings = {name: chosen.pop(name) for name in _SETTINGS}
    settings["augmentation"] = AUGMENTATIONS if "all" in settings["augmentation"] else settings["augmentation"] or None
    for kind, flag in _OPTIONS.items():
        chosen[kind] = parse_options(chosen[kind], flag)
    with _preparing(None, processes) as advance:
        plan_runs(registry, Choices(**chosen, chosen=settings), out, processes.count, advance)


@contextmanager
def _preparing(total: int | None, processes: Processes) -> Iterator[Any]:
    with progress_bar(hidden=not processes.is_main) as bar:
        task = bar.add_task("preparing", total=total)
        yield lambda _: bar.advance(task)


def _require_processes(run: Run, processes: Processes) -> None:
    if run.config.processes != processes.count:
        raise UsageError(
            f"expected the {run.config.processes} processes that {run.folder} was begun with, got {processes.count}",
            hint="another number would draw other batches; start a new run to change it",
        )


def _refuse_changes(ctx: click.Context) -> None:
    given = [
        parameter
        for parameter in ctx.command.params
        if parameter.name not in ("out", "resume", "device", "workers")
        and parameter.name is not None
        and ctx.get_parameter_source(parameter.name) is not click.core.ParameterSource.DEFAULT
    ]
    if given:
        raise UsageError(
            f"expected --resume with --out alone, got {given[0].opts[0]} too",
            hint="the run's own settings are used; start a new run to change them",
        )
