"""`segkit evaluate`: score a run on whole volumes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segkit.cli.device import choose_device, device_option
from segkit.cli.options import json_option
from segkit.cli.output import print_json, print_table, progress_bar
from segkit.errors import UsageError
from segkit.extras import require
from segkit.files import write_bytes
from segkit.surfaces import CONVENTIONS, Convention

if TYPE_CHECKING:
    from rich.progress import Progress

    from segkit.dataset import Subject
    from segkit.evaluation import Measures, Protocol
    from segkit.registry import Registry
    from segkit.run import Run


@click.command(epilog="Example: segkit evaluate runs/first --data data/iseg-test")
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), help="Folder to score on.  [default: the run's own]")
@click.option(
    "--region",
    "regions",
    metavar="NAME=CLASS,CLASS",
    multiple=True,
    help="Score merged classes too, for example WT=NCR,ED,ET; repeat for more.",
)
@click.option(
    "--tolerance-mm", type=float, default=1.0, show_default=True, help="Tolerance of the surface Dice, millimetres."
)
@click.option(
    "--surface-convention",
    "convention",
    type=click.Choice(CONVENTIONS),
    default="monai",
    show_default=True,
    help="What a surface is, for HD95 and surface Dice: voxels that count alike, or elements that count by their area.",
)
@device_option
@json_option
@click.pass_obj
def evaluate(
    registry: Registry,
    folder: Path,
    data: Path | None,
    regions: tuple[str, ...],
    tolerance_mm: float,
    convention: Convention,
    device: str,
    as_json: bool,
) -> None:
    """Score RUN on every labelled subject of a folder that it was not trained on.

    RUN may be the folder of a cross-validation: each fold is scored on the subjects that it held out, or on all of
    --data. Writes RUN/scores.json, RUN/scores.csv and a picture per subject into RUN/pictures.
    """
    device = choose_device(device)
    require("matplotlib", "report", "the pictures of segkit evaluate")
    require("scipy", "train", "HD95 and surface Dice")
    if convention != "monai":
        require("monai", "train", f"the surface convention {convention}")
    from segkit.evaluation import Protocol, as_csv, resolve_regions, summarise
    from segkit.training.plan import open_runs

    runs = open_runs(folder)
    classes = tuple(label.name for label in runs[0].config.labels)
    protocol = Protocol(classes, resolve_regions(classes, _parse_regions(regions)), tolerance_mm, convention)
    chosen = [(run, _subjects(registry, run, data, folds=len(runs) > 1)) for run in runs]
    scores: dict[str, Measures] = {}
    with progress_bar() as bar:
        for run, subjects in chosen:
            prefix = f"{run.folder.name} " if len(runs) > 1 and data else ""
            for id_, measures in _score_run(registry, run, subjects, protocol, device, folder / "pictures", bar):
                scores[prefix + id_] = measures
    report: dict[str, Any] = {
        "data": str((data or runs[0].config.data).resolve()),
        "weights_sha256": runs[0].weights_sha256() if len(runs) == 1 else None,
        "folds": {run.folder.name: run.weights_sha256() for run in runs} if len(runs) > 1 else None,
        **summarise(scores, protocol),
    }
    write_bytes(folder / "scores.json", json.dumps(report, indent=1).encode())
    write_bytes(folder / "scores.csv", as_csv(scores, protocol).encode())
    if as_json:
        print_json(report)
        return
    _print_dice(report)
    _print_surfaces(report)
    click.echo(f"scores in {folder / 'scores.json'} and scores.csv, pictures in {folder / 'pictures'}")


def _subjects(registry: Registry, run: Run, data: Path | None, *, folds: bool) -> list[Subject]:
    """The labelled subjects of a folder that a run was not trained on; of a fold at home, those it held out."""
    from segkit.dataset import open_dataset
    from segkit.store import hash_image

    config = run.config
    place = (data or config.data).resolve()
    labelled = open_dataset(registry.card("dataset", config.dataset), place, config.dataset_options).labelled
    if folds and data is None:
        subjects = [subject for subject in labelled if subject.id in config.held_out_subjects]
    else:
        subjects = [s for s in labelled if s.label and hash_image(s.label) not in config.train_labels_sha256]
    if not subjects:
        raise UsageError(f"expected labelled subjects in {place} that the run was not trained on, found none")
    return subjects


def _score_run(
    registry: Registry,
    run: Run,
    subjects: Sequence[Subject],
    protocol: Protocol,
    device: str,
    pictures: Path,
    bar: Progress,
) -> Iterator[tuple[str, Measures]]:
    from segkit.evaluation import score_subject
    from segkit.inference import Tiling
    from segkit.inference.torch_engine import TorchEngine
    from segkit.pictures import save_overlay

    config = run.config
    engine = TorchEngine(run.build_network(registry), device=device)
    for subject in subjects:
        task = bar.add_task(f"segmenting {subject.id}", total=None)
        score = score_subject(
            engine,
            subject,
            config.scheme,
            config.modalities,
            config.preprocessing,
            Tiling(config.patch, config.overlap),
            protocol,
            lambda done, total, task=task: bar.update(task, completed=done, total=total),  # type: ignore[misc]
        )
        picture = pictures / f"{subject.id}.png"
        arrays = score.image, score.labels, score.truth
        save_overlay(picture, *arrays, protocol.classes, subject.id, spacing_mm=score.spacing_mm)
        yield subject.id, score.measures


def _parse_regions(texts: Sequence[str]) -> dict[str, list[str]]:
    regions: dict[str, list[str]] = {}
    for text in texts:
        name, _, members = (part.strip() for part in text.partition("="))
        if not name or not members or name in regions:
            raise UsageError(
                f"expected --region NAME=CLASS,CLASS with a NAME of its own, got {text!r}",
                hint="for example --region WT=NCR,ED,ET",
            )
        regions[name] = [member.strip() for member in members.split(",")]
    return regions


def _print_dice(report: Mapping[str, Any]) -> None:
    statistics = report["statistics"]
    averages = {name.replace("_", " "): statistics[name] for name in ("foreground_mean", "thesis_convention")}
    columns = {**statistics["dice"], **averages}
    rows = [
        {
            "subject": row["subject"],
            **{name: _figure(value, 100) for name, value in row["dice"].items()},
            **{name: _figure(row[name.replace(" ", "_")], 100) for name in averages},
        }
        for row in report["subjects"]
    ]
    rows.append({"subject": "mean ± SD", **{name: _mean_sd(column, 100) for name, column in columns.items()}})
    rows.append({"subject": "95 % interval", **{name: _interval(column, 100) for name, column in columns.items()}})
    print_table(rows, title="Dice, % (foreground mean leaves background out, thesis convention counts it)")
    if statistics["thesis_convention"]["interval"] is None:
        click.echo(f"intervals: {report['interval']}")
    click.echo()


def _print_surfaces(report: Mapping[str, Any]) -> None:
    statistics = report["statistics"]
    rows = [
        {
            "structure": name,
            "HD95, mm": _mean_sd(distance, 1),
            "surface Dice, %": _mean_sd(statistics["surface_dice"][name], 100),
            "volume similarity, %": _mean_sd(statistics["volume_similarity"][name], 100),
            "missed": distance["missed"],
            "absent": distance["absent"],
        }
        for name, distance in statistics["hd95_mm"].items()
    ]
    print_table(
        rows,
        title=f"Surfaces at {report['tolerance_mm']:g} mm as in {report['surface_convention']}, mean ± SD "
        "(missed: subjects left out of HD95, only one side has it; absent: out of all, neither has it)",
    )
    click.echo()


def _figure(value: float | None, scale: float) -> str:
    return "-" if value is None else f"{scale * value:.2f}"


def _mean_sd(statistics: Mapping[str, Any], scale: float) -> str:
    mean = _figure(statistics["mean"], scale)
    return mean if statistics["sd"] is None else f"{mean} ± {_figure(statistics['sd'], scale)}"


def _interval(statistics: Mapping[str, Any], scale: float) -> str:
    bounds = statistics["interval"]
    return "-" if bounds is None else " to ".join(_figure(bound, scale) for bound in bounds)
