"""`segkit data contrast`: pictures of what TR, TE and TI do to the contrast of a slice."""

from __future__ import annotations

import json
from pathlib import Path

import click

from segkit.cards import load_attribute
from segkit.cli.options import json_option
from segkit.cli.output import print_json
from segkit.errors import PluginError, UsageError
from segkit.extras import require
from segkit.files import write_bytes
from segkit.registry import Registry


@click.command(epilog="Example: segkit data contrast out/contrast")
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
@click.option("--dataset", default="phantom", show_default=True, help="A data set whose images are computed.")
@click.option("--seed", type=click.IntRange(0), default=3, show_default=True, help="The same seed gives the same head.")
@json_option
@click.pass_obj
def contrast(registry: Registry, out: Path, dataset: str, seed: int, as_json: bool) -> None:
    """Draw what TR, TE and TI do to a slice.

    Writes PNG into the folder OUT: slices, and curves of the signal of each tissue; contrast.json says what they show.
    """
    card = registry.card("dataset", dataset)
    if card.contrast is None:
        raise UsageError(
            f"expected a data set that computes its images, {dataset!r} holds recorded ones",
            hint="use --dataset phantom",
        )
    require("matplotlib", "report", "segkit data contrast")
    try:
        function = load_attribute(card.contrast)
    except Exception as error:
        raise PluginError(
            f"expected {card.contrast} of the data set {dataset!r} to import, {type(error).__name__}: {error}",
            hint=f"run: segkit plugins doctor {dataset}",
        ) from error
    from segkit.contrast import draw_contrast

    pictures = [draw_contrast(series, out) for series in function(seed)]
    report = {"schema": 1, "dataset": dataset, "seed": seed, "pictures": pictures}
    write_bytes(out / "contrast.json", json.dumps(report, indent=1).encode())
    if as_json:
        print_json(report)
    else:
        click.echo(f"{sum(len(one['files']) for one in pictures)} pictures in {out}, listed in contrast.json")
