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
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from segkit.cards import Size
from segkit.cli.device import choose_device, device_option
from segkit.cli.options import json_option
from segkit.cli.output import print_json, progress_bar
from segkit.dataset import IGNORE, load_input, open_dataset, read_label
from segkit.errors import DataError, UnknownName, UsageError
from segkit.extras import require
from segkit.files import write_bytes
from segkit.inference import Engine, Tiling, segment_volume
from segkit.patches import extract_patch, pad_to, plan_tiles
from segkit.registry import Registry
from segkit.run import Run
from segkit.store import hash_image
from segkit.volume import require_same_grid
from segkit_benchmarks import figures
from segkit_benchmarks.figures import Head, SlabLabels, labelled

_OVERLAP = 0.5
"""Along both axes of a slice, so that four predictions meet in most voxels, as in figure 73."""


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
@click.pass_obj
def report(
    registry: Registry,
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
    if html:
        _report_html(registry, folder, subject, out, niivue, choose_device(device), as_json)
        return
    if niivue is not None and "SEGKIT_NIIVUE" not in os.environ:
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
    from segkit.inference.torch_engine import TorchEngine

    config = run.config
    rows = read_metrics(run.folder / "metrics.csv")
    engine = TorchEngine(run.build_network(registry), device=device)
    head = open_head(registry, run, subject or config.held_out_subjects[0])
    labels = segment_volume(engine, head.images, head.mask, Tiling(config.patch, config.overlap), progress)
    corner = _richest_patch(head, config.patch)
    logits = _logits(engine, head, corner, config.patch)
    slab = _segment_slab(engine, head, config.patch)
    name = f"{config.model.rpartition(':')[2]} on {config.dataset.rpartition(':')[2]}"
    drawn = [
        figures.dice_curve(out, rows, name),
        figures.loss_curve(out, rows, name),
        figures.output_volumes(out, head, logits, corner),
        figures.predicted_slice(out, head, labels, config.overlap),
        figures.sub_volume(out, head, logits, corner),
        figures.overlapping(out, head, slab),
    ]
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


def open_head(registry: Registry, run: Run, name: str) -> Head:
    """Read and preprocess a labelled subject as a run does.

    Raises:
        UnknownName: there is no such labelled subject.
        DataError: a file is bad.
    """
    config = run.config
    dataset = open_dataset(registry.card("dataset", config.dataset), config.data, config.dataset_options)
    subjects = {subject.id: subject for subject in dataset.labelled}
    if name not in subjects:
        raise UnknownName("labelled subject", name, subjects)
    subject = subjects[name]
    assert subject.label is not None  # noqa: S101 - labelled
    head = load_input(subject, config.modalities, config.preprocessing)
    truth = read_label(subject, config.scheme)
    require_same_grid(head.volumes[0], truth, config.modalities[0], "the label")
    return Head(
        subject=name,
        trained_on=hash_image(subject.label) in config.train_labels_sha256,
        modality=config.modalities[0],
        image=head.volumes[0].data,
        images=head.images,
        mask=head.mask,
        truth=truth.data,
        spacing_mm=truth.spacing_mm,
        classes=tuple(label.name for label in config.labels),
        best_slice=_best_slice(labelled(truth.data), head.mask),
    )


def _best_slice(foreground: NDArray[np.bool_], mask: NDArray[np.bool_]) -> int:
    """The z of the axial slice with most labelled voxels in the head; of several, the one with most of the head."""
    counts = zip((foreground & mask).sum((0, 1)).tolist(), mask.sum((0, 1)).tolist(), range(mask.shape[2]), strict=True)
    return int(max(counts)[2])


def _richest_patch(head: Head, patch: Size) -> Size:
    """Corner of the patch whose rarest class has most voxels, then the next rarest, among those that cover the head."""

    def counts(corner: Size) -> list[int]:
        inside = head.truth[tuple(slice(start, start + side) for start, side in zip(corner, patch, strict=True))]
        voxels = np.bincount(inside.ravel(), minlength=IGNORE + 1)[: len(head.classes)]
        return sorted(voxels.tolist())

    return max(plan_tiles(pad_to(head.mask, patch), patch, _OVERLAP), key=counts)


def _logits(engine: Engine, head: Head, corner: Size, patch: Size) -> NDArray[np.float32]:
    """Logits (K, x, y, z) of a patch; what reaches beyond the volume is cut off."""
    logits = engine.run(extract_patch(head.images, corner, patch)[None])[0]
    x, y, z = (size - start for size, start in zip(head.mask.shape, corner, strict=True))
    inside: NDArray[np.float32] = logits[:, :x, :y, :z].copy()
    return inside


def _segment_slab(engine: Engine, head: Head, patch: Size) -> SlabLabels:
    """Segment the best slice without and with overlap, from a slab that is one patch high: overlap is in-plane only."""
    start = min(max(0, head.best_slice - patch[2] // 2), max(0, head.mask.shape[2] - patch[2]))
    within = slice(start, start + patch[2])
    images, mask, at = head.images[..., within], head.mask[..., within], head.best_slice - start
    alone = segment_volume(engine, images, mask, Tiling(patch, 0.0, "constant"))[..., at]
    # Beyond the volume its edge is repeated, so that the rim of the head too is seen by four.
    x, y, _ = patch
    images = np.pad(images, [(0, 0), (x, x), (y, y), (0, 0)], mode="edge")
    wide = np.zeros(images.shape[1:], bool)
    wide[_span(mask, 0, x), _span(mask, 1, y)] = True
    inner = slice(x, x + mask.shape[0]), slice(y, y + mask.shape[1])
    combined = segment_volume(engine, images, wide, Tiling(patch, _OVERLAP))[(*inner, at)] * mask[..., at]
    predictions = np.zeros(wide.shape[:2], np.int64)
    for left, back, _ in plan_tiles(pad_to(wide, patch), patch, _OVERLAP):
        predictions[left : left + x, back : back + y] += 1
    return SlabLabels(alone, combined, predictions[inner])


def _span(mask: NDArray[np.bool_], axis: int, side: int) -> slice:
    """What patches half a side apart must cover so that two meet in each voxel of a mask that begins at `side`."""
    inside = np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))
    first, last = int(inside[0]), int(inside[-1])
    half = max(1, side // 2)
    begin = side + first - half
    return slice(begin, begin + side + math.ceil((last + 1 - first) / half) * half)
