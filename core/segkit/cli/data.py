"""`segkit data`: make and look at data sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segkit.cards import load_attribute
from segkit.cli.contrast import contrast
from segkit.cli.options import dataset_option, json_option, parse_options
from segkit.cli.output import print_json, print_table, progress_bar
from segkit.cli.prepare import prepare
from segkit.dataset import open_dataset
from segkit.errors import PluginError, UnknownName, UsageError
from segkit.extras import require
from segkit.registry import Registry
from segkit.volume import format_size

if TYPE_CHECKING:
    from segkit.check import SubjectCheck

_MOST_CLASSES = 12
"""Volumes of more classes than these are summed in the table; JSON has them all."""

_folder = click.argument("folder", type=click.Path(path_type=Path))
_dataset = click.option(
    "--dataset", default="phantom", show_default=True, help="The data set plugin that knows the layout."
)


@click.group()
def data() -> None:
    """Make and look at data sets."""


data.add_command(prepare)


@data.command(epilog="Example: segkit data make phantom data/iseg --preset iseg --subjects 8 --seed 1")
@click.argument("name")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--preset", help="Which one; see: segkit plugins show NAME.  [default: the first]")
@click.option("--subjects", type=click.IntRange(1), default=8, show_default=True, help="How many.")
@click.option(
    "--seed", type=click.IntRange(0), default=1, show_default=True, help="The same seed gives the same files."
)
@click.pass_obj
def make(registry: Registry, name: str, folder: Path, preset: str | None, subjects: int, seed: int) -> None:
    """Make the data set NAME in FOLDER. Called again, it goes on where it was stopped."""
    card = registry.card("dataset", name)
    if card.make is None:
        raise UsageError(
            f"expected a data set that can be made, {name!r} holds recorded images", hint="download it from its owner"
        )
    preset = preset or next(iter(card.presets), "")
    if preset not in card.presets:
        raise UnknownName(f"preset of {name}", preset, card.presets)
    try:
        function = load_attribute(card.make)
    except Exception as error:
        raise PluginError(
            f"expected {card.make} of the data set {name!r} to import, {type(error).__name__}: {error}",
            hint=f"run: segkit plugins doctor {name}",
        ) from error
    with progress_bar() as progress:
        task = progress.add_task(f"making {preset} subjects", total=subjects)
        function(folder, preset, subjects, seed, lambda subject: progress.advance(task))
    click.echo(
        f"{subjects} subjects in {folder}\nnext: segkit train --model unet3d --dataset {name} --data {folder} --out RUN"
    )


@data.command("list", epilog="Example: segkit data list data/iseg --dataset phantom")
@_folder
@_dataset
@dataset_option
@json_option
@click.pass_obj
def list_(registry: Registry, folder: Path, dataset: str, dataset_options: tuple[str, ...], as_json: bool) -> None:
    """List the subjects of a data set and their files."""
    subjects = open_dataset(
        registry.card("dataset", dataset), folder, parse_options(dataset_options, "--dataset-option")
    ).subjects
    if as_json:
        print_json(
            {"schema": 1, "subjects": [{"id": s.id, "images": dict(s.images), "label": s.label} for s in subjects]}
        )
        return
    print_table(
        [{"subject": s.id, "modalities": ", ".join(s.images), "label": s.label and s.label.name} for s in subjects]
    )


@data.command(epilog="Example: segkit data check data/iseg --dataset phantom --png pictures")
@_folder
@_dataset
@dataset_option
@click.option(
    "--png", type=click.Path(path_type=Path, file_okay=False), help="Folder for a picture of each good subject."
)
@json_option
@click.pass_context
def check(
    ctx: click.Context, folder: Path, dataset: str, dataset_options: tuple[str, ...], png: Path | None, as_json: bool
) -> None:
    """Read all files of a data set and list every defect. Exit code 2 if there is one.

    Notes, such as images that need registration, are no defects.
    """
    if png:
        require("matplotlib", "report", "the pictures of segkit data check")
    opened = open_dataset(ctx.obj.card("dataset", dataset), folder, parse_options(dataset_options, "--dataset-option"))
    from segkit.check import check_dataset

    with progress_bar() as bar:
        task = bar.add_task("checking", total=len(opened.subjects))
        checks = check_dataset(opened, png, lambda _: bar.advance(task))
    defects = sum(len(found.defects) for found in checks)
    if as_json:
        print_json({"schema": 1, "subjects": [_as_record(found) for found in checks], "defects": defects})
    else:
        print_table([row for found in checks for row in _as_rows(found)])
        for kind, lines in (("note", [found.notes for found in checks]), ("defect", [f.defects for f in checks])):
            for found, messages in zip(checks, lines, strict=True):
                for message in messages:
                    click.echo(f"{kind}: {found.id}: {message}")
        labelled = sum(found.label is not None for found in checks)
        click.echo(f"{len(checks)} subjects, {labelled} labelled, {defects or 'no'} defect{'s' * (defects != 1)}")
        if png:
            click.echo(f"pictures in {png}")
    ctx.exit(2 if defects else 0)


def _as_record(found: SubjectCheck) -> dict[str, Any]:
    return {
        "id": found.id,
        "modalities": found.modalities,
        "label": found.label,
        "geometry": {modality: vars(geometry) for modality, geometry in found.geometry.items()},
        "label_ml": found.label_ml,
        "defects": found.defects,
        "notes": found.notes,
    }


def _as_rows(found: SubjectCheck) -> Sequence[dict[str, Any]]:
    """A row for each grid of the subject, with the modalities that have it; what could not be read has none."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for modality in found.modalities:
        geometry = found.geometry.get(modality)
        spacing = geometry and format_size([round(size, 3) for size in geometry.spacing_mm])
        grid = (
            (format_size(geometry.shape), spacing or "", geometry.orientation) if geometry else ("unreadable", "", "")
        )
        groups.setdefault(grid, []).append(modality)
    volumes = [_volumes(found.label_ml) if found.label else "none", *[""] * len(groups)]
    return [
        {
            "subject": found.id,
            "modalities": ", ".join(names),
            "shape": shape,
            "spacing, mm": spacing,
            "axes": axes,
            "label, ml": volume,
        }
        for ((shape, spacing, axes), names), volume in zip(groups.items(), volumes, strict=False)
    ]


def _volumes(label_ml: dict[str, float]) -> str:
    classes = list(label_ml.items())[1:]
    if not classes:
        return "unreadable"
    if len(classes) > _MOST_CLASSES:
        found = [volume for _, volume in classes if volume]
        return f"{len(found)} of {len(classes)} classes, {sum(found):.1f}"
    return ", ".join(f"{name} {volume:.3g}" for name, volume in classes)


data.add_command(contrast)
