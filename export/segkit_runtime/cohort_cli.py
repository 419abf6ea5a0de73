"""`segkit segment --cohort`: what the command does with many heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segkit.cli.output import print_json, print_table, progress_bar
from segkit.errors import SegkitError, UsageError
from segkit.extras import require

if TYPE_CHECKING:
    from segkit_runtime.cohort.records import Row
    from segkit_runtime.cohort.subjects import Cohort
    from segkit_runtime.cohort.summary import Summary


def segment_cohort(
    path: Path,
    source: Path,
    out: Path,
    options: Mapping[str, Any],
    *,
    patterns: Mapping[str, str],
    entities: Mapping[str, str],
    workers: int | None,
    dask: str | None,
    resume: bool,
    pictures: bool,
    as_json: bool,
) -> None:
    """Segment the heads of a cohort and print their table.

    Raises:
        UsageError, DataError: the request or the cohort is not what it should be; nothing was run.
        SegkitError: a head failed, or the bundle could not be loaded.
    """
    if workers is not None and dask is not None:
        raise UsageError("expected --workers or --dask, got both", hint="the cluster has its own workers")
    if pictures:
        require("matplotlib", "report", "--png")
    from segkit_runtime.budget import to_bytes
    from segkit_runtime.bundle import Bundle
    from segkit_runtime.cohort.run import run_cohort

    to_bytes(options["budget"])
    # Workers may be in another folder.
    options = {**options, "trusted_keys": tuple(key.absolute() for key in options["trusted_keys"])}
    bundle = Bundle.open(path, trusted_keys=options["trusted_keys"])
    cohort = _find(source, bundle.manifest.modalities, patterns, entities)
    with progress_bar() as bar:
        total = bar.add_task("heads", total=len(cohort.subjects))
        tasks: dict[str, Any] = {}

        def on_row(row: Row) -> None:
            if row.subject in tasks:
                bar.remove_task(tasks.pop(row.subject))
            bar.advance(total)
            if row.error:
                bar.console.print(f"{row.subject}: {row.error}", markup=False, highlight=False, soft_wrap=True)

        def watch(subject: str, done: int, tiles: int) -> None:
            if subject not in tasks:
                tasks[subject] = bar.add_task(f"  {subject}")
            bar.update(tasks[subject], completed=done, total=tiles)

        summary = run_cohort(
            bundle,
            cohort,
            out,
            options=options,
            workers=workers or 1,
            dask=dask,
            resume=resume,
            pictures=pictures,
            on_row=on_row,
            watch=watch,
        )
    _print(summary, out, as_json)
    if summary.failed:
        names = ", ".join(row.subject for row in summary.failed)
        raise SegkitError(
            f"expected labels of all {len(summary.rows)} heads, {len(summary.failed)} failed: {names}",
            hint=f"see {out / 'cohort.csv'}, mend them, and add --resume",
        )


def _find(source: Path, modalities: Sequence[str], patterns: Mapping[str, str], entities: Mapping[str, str]) -> Cohort:
    from segkit_runtime.cohort.find import find_cohort
    from segkit_runtime.cohort.subjects import CohortDefects

    try:
        return find_cohort(source, modalities, patterns, entities)
    except CohortDefects as error:
        for defect in error.defects if len(error.defects) > 1 else ():
            click.echo(f"{click.style('defect:', fg='yellow')} {defect}", err=True)
        raise


def _print(summary: Summary, out: Path, as_json: bool) -> None:
    if as_json:
        print_json(summary.to_json())
        return
    rows = [
        {
            "subject": row.subject,
            "status": row.status,
            "s": None if row.seconds is None else f"{row.seconds:.1f}",
            **{
                f"{name}, ml": f"{row.volumes_ml[name]:.2f}" if name in row.volumes_ml else None
                for name in summary.names
            },
            "says": row.error or " | ".join(row.warnings),
        }
        for row in summary.rows
    ]
    print_table(rows)
    click.echo(f"\n{len(rows)} heads in {summary.seconds:.1f} s; labels and cohort.csv in {out}")
