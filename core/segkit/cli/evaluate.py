"""`segkit evaluate`: score a run on whole volumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from segkit.cli.device import choose_device, device_option
from segkit.cli.options import json_option
from segkit.cli.output import print_json, print_table, progress_bar
from segkit.dataset import find_subjects
from segkit.errors import UsageError
from segkit.extras import require
from segkit.files import sha256_of, write_bytes
from segkit.registry import Registry
from segkit.run import Run


@click.command(epilog="Example: segkit evaluate runs/first --data data/iseg-test")
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), help="Folder to score on.  [default: the run's own]")
@device_option
@json_option
@click.pass_obj
def evaluate(registry: Registry, folder: Path, data: Path | None, device: str, as_json: bool) -> None:
    """Score RUN on every labelled subject of a folder that it was not trained on.

    Writes RUN/scores.json and a picture per subject into RUN/pictures.
    """
    device = choose_device(device)
    run = Run.open(folder)
    config = run.config
    card = registry.card("dataset", config.dataset)
    data = (data or config.data).resolve()
    subjects = [
        subject
        for subject in find_subjects(card, data)
        if subject.label is not None and sha256_of(subject.label) not in config.train_labels_sha256
    ]
    if not subjects:
        raise UsageError(f"expected labelled subjects in {data} that the run was not trained on, found none")
    require("matplotlib", "report", "the pictures of segkit evaluate")
    network = run.build_network(registry)
    from segkit.evaluation import score_subject, summarise
    from segkit.inference import Tiling
    from segkit.inference.torch_engine import TorchEngine
    from segkit.pictures import save_overlay

    engine = TorchEngine(network, device=device)
    scores = {}
    with progress_bar() as bar:
        for subject in subjects:
            task = bar.add_task(f"segmenting {subject.id}", total=None)
            score = score_subject(
                engine,
                subject,
                card,
                config.modalities,
                config.normalisation,
                Tiling(config.patch, config.overlap),
                lambda done, total, task=task: bar.update(task, completed=done, total=total),  # type: ignore[misc]
            )
            save_overlay(
                folder / "pictures" / f"{subject.id}.png",
                score.image,
                score.labels,
                score.truth,
                [label.name for label in card.labels],
                subject.id,
            )
            scores[subject.id] = score.dice
    report: dict[str, Any] = {"data": str(data), "weights_sha256": run.weights_sha256(), **summarise(scores, card)}
    write_bytes(folder / "scores.json", json.dumps(report, indent=1).encode())
    if as_json:
        print_json(report)
        return
    rows = [*report["subjects"], {**report, "subject": "mean", "dice": report["mean"]}]
    print_table(
        [
            {
                "subject": row["subject"],
                **{name: _percent(value) for name, value in row["dice"].items()},
                "foreground mean": _percent(row["foreground_mean"]),
                "thesis convention": _percent(row["thesis_convention"]),
            }
            for row in rows
        ],
        title="Dice, % (foreground mean leaves background out, thesis convention counts it)",
    )
    click.echo(f"scores in {folder / 'scores.json'}, pictures in {folder / 'pictures'}")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"
