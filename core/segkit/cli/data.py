"""`segkit data`: make and look at data sets."""

from __future__ import annotations

from pathlib import Path

import click

from segkit.cards import load_attribute
from segkit.cli.options import json_option
from segkit.cli.output import print_json, print_table, progress_bar
from segkit.dataset import find_subjects
from segkit.errors import PluginError, UnknownName, UsageError
from segkit.registry import Registry


@click.group()
def data() -> None:
    """Make and look at data sets."""


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
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--dataset", default="phantom", show_default=True, help="The data set plugin that knows the layout.")
@json_option
@click.pass_obj
def list_(registry: Registry, folder: Path, dataset: str, as_json: bool) -> None:
    """List the subjects of a data set and their files."""
    subjects = find_subjects(registry.card("dataset", dataset), folder)
    rows = [{"subject": s.id, "modalities": ", ".join(s.images), "label": s.label and s.label.name} for s in subjects]
    if as_json:
        print_json(
            {"schema": 1, "subjects": [{"id": s.id, "images": dict(s.images), "label": s.label} for s in subjects]}
        )
    else:
        print_table(rows)
