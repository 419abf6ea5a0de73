"""`segkit bench dsc`: the thesis' Dice tables, ours beside theirs, on whatever data is there."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segkit.cli.options import json_option
from segkit.cli.output import print_json, print_table
from segkit.errors import UnknownName, UsageError
from segkit.files import write_bytes
from segkit_benchmarks.commands import run_segkit
from segkit_benchmarks.thesis import ISEG, MRBRAINS, ROWS, Row

if TYPE_CHECKING:
    from segkit.registry import Registry

CHALLENGES = {"iseg2017": ISEG, "mrbrains2018": MRBRAINS}
"""Data sets, and the table that each belongs to."""

PHANTOMS = {ISEG: "iseg", MRBRAINS: "mrbrains"}
"""Preset of the phantom that stands in for a challenge."""

PHANTOM_SUBJECTS, PHANTOM_SEED = 6, 11

QUICK = (
    "--recipe segkit --hold-out 1 --overlap 0 --epochs 1 --validation-patches 2 --batch-size 2 --learning-rate 0.005"
)
"""Minutes a net on two CPU cores: it shows that every row trains, not how well."""

QUICK_LARGE, QUICK_SMALL = "--patch 64,64,32 --patches-per-epoch 120", "--patches-per-epoch 120"
"""For networks of large patches and for those of 28^3."""


@dataclass(frozen=True)
class Cell:
    """One network on one data set: what is trained, and where."""

    row: Row
    model: str
    table: str
    dataset: str
    data: Path
    run: Path


@click.command(epilog="Example: segkit bench dsc --data iseg2017=iSEG --data mrbrains2018=MRBrainS --out out/dsc")
@click.option(
    "--data",
    "data",
    multiple=True,
    required=True,
    metavar="NAME[=DIR]",
    help="iseg2017=DIR, mrbrains2018=DIR, or phantom, which is made here; repeated.",
)
@click.option("--model", "models", multiple=True, help="Only this one; repeated.  [default: all of the thesis]")
@click.option("--quick", is_flag=True, help="Minutes instead of days, and one table of the phantom.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("out/dsc"), show_default=True)
@json_option
@click.pass_obj
def dsc(
    registry: Registry, data: tuple[str, ...], models: tuple[str, ...], quick: bool, out: Path, as_json: bool
) -> None:
    """Train every row of the thesis' Dice tables, and print ours beside its figures.

    Each row is one `segkit train --recipe thesis`, whose run stays in OUT; called again, it goes on where it was.
    """
    known = [model for row in ROWS for model in row.models]
    for model in models:
        if model not in known:
            raise UnknownName("model of the thesis", model, known)
    cells = [
        cell
        for source in _sources(data, quick, out)
        for cell in _cells(*source, out)
        if cell.model in (models or known)
    ]
    if not cells:
        raise UsageError(
            f"expected a model of the thesis on this data, {', '.join(models)} has no row there",
            hint="choose another --model, or other --data",
        )
    results: list[dict[str, Any]] = []
    report: dict[str, Any] = {}
    for number, cell in enumerate(cells, start=1):
        click.echo(f"\n{number} of {len(cells)}: {cell.row.title} ({cell.model}) on {cell.data}", err=True)
        results.append(_result(cell, _train(registry, cell, quick)))
        report = {
            "schema": 1,
            "protocol": "quick" if quick else "thesis",
            "convention": "hard Dice, %, of the whole held-out subject, best epoch; average counts background",
            "minutes": round(sum(result.get("seconds", 0) for result in results) / 60, 1),
            "rows": results,
        }
        write_bytes(out / "dsc.json", json.dumps(report, indent=1).encode())
    if as_json:
        print_json(report)
        return
    for table in dict.fromkeys(cell.table for cell in cells):
        rows = [_printed(result) for result in results if result["table"] == table]
        print_table(
            rows, title=f"{table}: Dice, %, of the whole held-out subject; ours ({report['protocol']}) | thesis"
        )
        click.echo()
    click.echo(
        "average counts background, as the thesis' averages do; its figures are soft Dice of random patches of real "
        f"heads\n{report['minutes']} minutes of training; {out / 'dsc.json'}, runs beside it"
    )


def _sources(data: Sequence[str], quick: bool, out: Path) -> Iterator[tuple[str, str, Path]]:
    """Table, data set and folder of everything that is trained on; phantoms are made."""
    for text in data:
        name, _, folder = text.partition("=")
        if name in CHALLENGES and folder:
            yield CHALLENGES[name], name, Path(folder)
        elif name == "phantom" and not folder:
            for table in [MRBRAINS] if quick else [ISEG, MRBRAINS]:
                place = out / "data" / PHANTOMS[table]
                made = f"--preset {PHANTOMS[table]} --subjects {PHANTOM_SUBJECTS} --seed {PHANTOM_SEED}"
                if code := run_segkit(["data", "make", "phantom", str(place), *made.split()]):
                    sys.exit(code)
                yield table, "phantom", place
        elif name in CHALLENGES:
            raise UsageError(f"expected a folder with --data {name}, got none", hint=f"give it: --data {name}=DIR")
        else:
            raise UnknownName("data of the benchmark", name, [*CHALLENGES, "phantom"])


def _cells(table: str, dataset: str, data: Path, out: Path) -> Iterator[Cell]:
    place = out / (f"phantom-{PHANTOMS[table]}" if dataset == "phantom" else dataset)
    for row in ROWS:
        for model in row.models if row.modalities[table] else ():
            yield Cell(row, model, table, dataset, data, place / model)


def _train(registry: Registry, cell: Cell, quick: bool) -> int:
    """Train, or go on training; a row that fails is reported, and the next is trained all the same."""
    from segkit.dataset import open_dataset

    if (cell.run / "config.json").is_file():
        code = run_segkit(["train", "--resume", "--out", str(cell.run)])
    else:
        card = registry.card("dataset", cell.dataset)
        names = list(open_dataset(card, cell.data).subjects[0].images)[: cell.row.modalities[cell.table]]
        settings = "--recipe thesis"
        if quick:
            settings = f"{QUICK} {QUICK_SMALL if cell.model.startswith('densenet') else QUICK_LARGE}"
        code = run_segkit(
            [
                *("train", "--model", cell.model, "--dataset", cell.dataset, "--data", str(cell.data)),
                *("--out", str(cell.run), "--store", str(cell.run.parent / "store")),
                *(word for name in names for word in ("--modality", name)),
                *settings.split(),
            ]
        )
    if code == 130:
        raise KeyboardInterrupt
    return code


def _result(cell: Cell, code: int) -> dict[str, Any]:
    """A row of dsc.json: what was trained, our figures and the thesis'."""
    result: dict[str, Any] = {
        "table": cell.table,
        "row": cell.row.title,
        "model": cell.model,
        "dataset": cell.dataset,
        "run": str(cell.run),
        "thesis": dict(cell.row.dsc[cell.table]),
        "ours": None,
        "failed": f"segkit train ended with exit code {code}" if code else None,
    }
    if code:
        return result
    from segkit.run import Run

    config = Run.open(cell.run).config
    rows = list(csv.DictReader((cell.run / "metrics.csv").read_text().splitlines()))
    best = max(rows, key=lambda row: float(row["mean_dice"]))
    scores = {label.name: 100 * float(best[f"dice_{label.name}"]) for label in config.labels}
    counted = [score for score in scores.values() if not math.isnan(score)]
    return {
        **result,
        "held_out": list(config.held_out_subjects),
        "modalities": list(config.modalities),
        "patch": list(config.patch),
        "steps": int(rows[-1]["step"]),
        "seconds": float(rows[-1]["seconds"]),
        "ours": {
            "average": sum(counted) / len(counted),
            **{name: score for name, score in scores.items() if name != config.labels[0].name},
        },
    }


def _printed(result: Mapping[str, Any]) -> dict[str, Any]:
    thesis, ours = result["thesis"], result["ours"] or {}
    return {
        "row": result["row"],
        "model": result["model"],
        **{name: f"{_figure(ours.get(name))} | {figure:.2f}" for name, figure in thesis.items()},
        "ours on": result["failed"] or f"{result['dataset']} {', '.join(result['held_out'])}",
        "modalities": ", ".join(result.get("modalities", [])),
        "steps": result.get("steps"),
        "minutes": round(result["seconds"] / 60, 1) if result["ours"] else None,
    }


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
