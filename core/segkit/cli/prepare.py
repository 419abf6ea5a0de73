"""`segkit data prepare`: from the files of a data set to the store that training reads."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segkit.cli.options import dataset_option, json_option, parse_options, preprocessing_options
from segkit.cli.output import print_json, print_table, progress_bar
from segkit.errors import DataError
from segkit.volume import format_size

if TYPE_CHECKING:
    from segkit.dataset import LabelScheme
    from segkit.registry import Registry
    from segkit.store import PreparedSubject


@click.command(epilog="Example: segkit data prepare data/iseg --store data/store --bias-correction n4")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--dataset", default="phantom", show_default=True, help="The data set plugin that knows the layout.")
@dataset_option
@click.option("--store", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder to write.")
@click.option("--modality", "modalities", multiple=True, help="Channel, repeated in order.  [default: all]")
@preprocessing_options
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Subjects at a time.")
@json_option
@click.pass_obj
def prepare(
    registry: Registry,
    folder: Path,
    dataset: str,
    dataset_options: tuple[str, ...],
    store: Path,
    modalities: tuple[str, ...],
    preprocessing: dict[str, Any],
    workers: int,
    as_json: bool,
) -> None:
    """Preprocess the labelled subjects of a data set. Called again, it makes only what is missing.

    Train on them with: segkit train --store STORE, and the same options.
    """
    from segkit import store as stores
    from segkit.dataset import open_dataset, select_modalities
    from segkit.preprocess import Preprocessing

    how = Preprocessing(**preprocessing)
    opened = open_dataset(registry.card("dataset", dataset), folder, parse_options(dataset_options, "--dataset-option"))
    if not opened.labelled:
        raise DataError(f"expected labelled subjects in {folder}, found none", hint="training needs labels")
    chosen = select_modalities(opened.labelled, modalities)
    began = time.monotonic()
    with progress_bar() as bar:
        task = bar.add_task("preparing", total=len(opened.labelled))
        prepared = stores.prepare(
            opened,
            opened.labelled,
            chosen,
            how,
            store,
            workers=workers,
            progress=lambda _: bar.advance(task),
        )
    seconds = time.monotonic() - began
    made = sum(subject.is_new for subject in prepared)
    if as_json:
        summary = {"made": made, "kept": len(prepared) - made, "seconds": round(seconds, 2)}
        subjects = [_as_record(subject, opened.scheme) for subject in prepared]
        settings = {"store": store, "modalities": chosen, "preprocessing": how.model_dump()}
        print_json({"schema": 1, **settings, **summary, "subjects": subjects})
        return
    print_table([_as_row(subject) for subject in prepared])
    work = f"{made} made, {len(prepared) - made} kept, {seconds:.1f} s" if made else "all kept, nothing to do"
    click.echo(f"{', '.join(chosen)}; {how.describe()}\n{len(prepared)} subjects in {store}: {work}")


def _as_record(subject: PreparedSubject, scheme: LabelScheme) -> dict[str, Any]:
    return {
        "id": subject.id,
        "folder": subject.folder,
        "made": subject.is_new,
        "shape": subject.shape,
        "spacing_mm": subject.spacing_mm,
        "voxels": {label.name: count for label, count in zip(scheme.labels, subject.class_counts, strict=True)},
    }


def _as_row(subject: PreparedSubject) -> dict[str, Any]:
    return {
        "subject": subject.id,
        "size": format_size(subject.shape),
        "spacing mm": format_size([round(side, 3) for side in subject.spacing_mm]),
        "labelled voxels": f"{sum(subject.class_counts[1:]):,}",
        "": "made" if subject.is_new else "kept",
    }
