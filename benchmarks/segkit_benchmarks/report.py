"""`segkit report`: the pictures of the thesis' section 6.3 (figures 62 to 73), for any run.

    dice-curve.png        62, 64, 66, 68   Dice of whole held-out volumes by epoch
    loss-curve.png        63, 65, 67, 69   training and validation loss by epoch
    output-volumes.png    70               logits of one patch: the slice through the largest and its neighbours
    predicted-slice.png   71               one axial slice of a whole volume, prediction beside truth
    sub-volume.png        72               one patch beside truth, in three planes
    overlapping.png       73               the slice without overlap, and combined from overlapping predictions
    figures.json          what each picture shows

Positions are voxels of the image in canonical orientation (RAS), Dice is in percent.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from segkit.cli.device import choose_device, device_option
from segkit.cli.options import json_option
from segkit.cli.output import print_json, progress_bar
from segkit.errors import DataError, UsageError
from segkit.extras import require
from segkit.files import write_bytes
from segkit.registry import Registry
from segkit.run import Run
from segkit_benchmarks import figures
from segkit_benchmarks.predictions import predict


@click.command(epilog="Example: segkit report out/table1 --html")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--html", is_flag=True, help="One HTML file of all results in DIR, with a viewer.")
@click.option("--subject", help="Labelled subject to draw.  [default: the first that was held out]")
@click.option("--out", type=click.Path(path_type=Path), help="[default: DIR/figures, or DIR/report.html]")
@click.option(
    "--niivue",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="SEGKIT_NIIVUE",
    show_envvar=True,
    help="npm package of the viewer.  [default: node_modules/@niivue/niivue, here or above]",
)
@device_option
@json_option
@click.pass_context
def report(
    context: click.Context,
    folder: Path,
    html: bool,
    subject: str | None,
    out: Path | None,
    niivue: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Draw a run, or make a page of all results in DIR.

    Without --html, DIR is a run: its learning curves, output volumes, and predictions beside the truth become PNG
    files, and figures.json says what each of them shows.

    With --html, DIR holds what segkit bench, profile, train and evaluate wrote, down to a few folders deep. The page is
    one file that works offline; its last section names what is missing and the command that makes it.
    """
    registry: Registry = context.obj
    if html:
        _report_html(registry, folder, subject, out, niivue, choose_device(device), as_json)
        return
    if context.get_parameter_source("niivue") is ParameterSource.COMMANDLINE:
        raise UsageError("expected --html with --niivue", hint="add --html: pictures have no viewer")
    require("matplotlib", "report", "segkit report")
    run = Run.open(folder)
    out = out or folder / "figures"
    device = choose_device(device)
    with progress_bar() as bar:
        task = bar.add_task("segmenting", total=None)
        found = write_figures(
            registry, run, out, subject, device, lambda done, total: bar.update(task, completed=done, total=total)
        )
    if as_json:
        print_json(found)
    else:
        click.echo(f"{len(found['figures'])} pictures of {found['subject']} in {out}, listed in figures.json")


def _report_html(
    registry: Registry,
    folder: Path,
    subject: str | None,
    out: Path | None,
    niivue: Path | None,
    device: str,
    as_json: bool,
) -> None:
    from segkit_benchmarks.html_report import write_html

    with progress_bar() as bar:
        task = bar.add_task("segmenting the volume of the viewer", total=None)

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        written = write_html(registry, folder, out, subject=subject, device=device, niivue=niivue, progress=show)
    if as_json:
        print_json(written.to_json())
        return
    for section, why in written.missing.items():
        click.echo(f"without {section}: {why}")
    click.echo(f"{len(written.sections)} sections, {written.size_bytes / 1e6:.1f} MB: {written.file}")


def write_figures(
    registry: Registry,
    run: Run,
    out: Path,
    subject: str | None = None,
    device: str = "cpu",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Draw all pictures of a run; nothing is written before everything that is drawn is known.

    Args:
        registry: finds the network and the data set.
        run: a run that has finished an epoch.
        out: the folder to write.
        subject: id of a labelled subject, or None for the first that was held out.
        device: where torch runs.
        progress: called with the number of tiles of the whole volume that are done, and of all.

    Returns:
        The content of figures.json.

    Raises:
        DataError: the run has no weights or no epochs yet, or a file is bad.
        UnknownName: there is no such labelled subject.
    """
    config = run.config
    rows = read_metrics(run.folder / "metrics.csv")
    found = predict(registry, run, subject, device, progress)
    name = f"{config.model.rpartition(':')[2]} on {config.dataset.rpartition(':')[2]}"
    drawn = [figures.dice_curve(out, rows, name), figures.loss_curve(out, rows, name), *found.draw(out)]
    head = found.head
    report = {
        "schema": 1,
        "model": config.model,
        "dataset": config.dataset,
        "weights_sha256": run.weights_sha256(),
        "subject": head.subject,
        "trained_on": head.trained_on,
        "modality": head.modality,
        "classes": list(head.classes),
        "figures": drawn,
    }
    write_bytes(out / "figures.json", json.dumps(report, indent=1).encode())
    return report


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the rows of metrics.csv: one per epoch.

    Raises:
        DataError: there is none, or it is not what training writes.
    """
    try:
        rows = [
            {key: int(text) if key in ("epoch", "step") else float(text) for key, text in row.items()}
            for row in csv.DictReader(path.read_text().splitlines())
        ]
    except OSError:
        rows = []
    except (ValueError, TypeError) as error:
        raise DataError(f"expected the metrics of a run in {path}, found: {error}", hint="train again") from None
    if not rows:
        raise DataError(f"expected at least one epoch in {path}, found none", hint="let the training reach its first")
    missing = {"epoch", "loss", "validation_loss", "mean_dice"} - rows[0].keys()
    if missing:
        raise DataError(
            f"expected the column {min(missing)} in {path}, found {', '.join(rows[0])}",
            hint="train again with this version",
        )
    return rows
