"""A cohort from its heads to its tables."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from segkit_runtime.bundle import Bundle
from segkit_runtime.cohort.local import Watch, run_here, run_in_processes
from segkit_runtime.cohort.output import opened_output
from segkit_runtime.cohort.records import Row, Settings, version
from segkit_runtime.cohort.subjects import Cohort
from segkit_runtime.cohort.summary import Summary, write_summary


def run_cohort(
    bundle: Bundle,
    cohort: Cohort,
    out: Path,
    *,
    options: Mapping[str, Any] | None = None,
    workers: int = 1,
    dask: str | None = None,
    resume: bool = False,
    pictures: bool = False,
    on_row: Callable[[Row], None] = lambda row: None,
    watch: Watch = lambda subject, done, total: None,
) -> Summary:
    """Segment the heads of a cohort, and write a row for each into cohort.csv and cohort.json.

    A head that fails has a row with its error, and the others go on. What ends the run, Ctrl-C too, leaves what is done
    and both tables.

    Args:
        bundle: what to segment with.
        cohort: the heads.
        out: the folder to write.
        options: what `segkit_runtime.load` takes beside the bundle.
        workers: processes on this machine; 1 is this process itself.
        dask: address of a Dask scheduler, whose workers are used instead.
        resume: whether a cohort may be in the folder already; heads that are done with this bundle are kept.
        pictures: whether to draw a picture of each head.
        on_row: called with each row as it comes.
        watch: called as patches are done; not on Dask.

    Raises:
        OutputExists: there is something in the folder, and `resume` is not set.
        DataError: what is in it is no cohort of segkit, or the bundle cannot be loaded.
        UsageError: another run holds the folder, the cluster cannot be used, or the options do not go with the bundle.
    """
    out = out.absolute()
    settings = Settings(
        bundle=bundle.path.absolute(),
        bundle_id=bundle.id,
        options=dict(options or {}),
        out=out,
        pictures=pictures,
        run=uuid.uuid4().hex,
        version=version(),
    )
    start = time.perf_counter()
    rows: dict[str, Row] = {}

    def summary() -> Summary:
        in_order = [rows.get(s.name) or Row(subject=s.name, status="pending") for s in cohort.subjects]
        return Summary(bundle.manifest, bundle.id, tuple(in_order), time.perf_counter() - start)

    with opened_output(out, cohort, bundle.manifest, resume):
        try:
            with closing(_rows(settings, cohort, workers, dask, watch)) as found:
                for row in found:
                    rows[row.subject] = row
                    on_row(row)
        finally:
            # Whatever ended the run, the tables say what is done.
            write_summary(out, summary())
    return summary()


def _rows(settings: Settings, cohort: Cohort, workers: int, dask: str | None, watch: Watch) -> Generator[Row]:
    if dask is not None:
        from segkit_runtime.cohort.cluster import run_on_dask

        return run_on_dask(settings, cohort.subjects, dask)
    if workers > 1:
        return run_in_processes(settings, cohort.subjects, workers, watch)
    return run_here(settings, cohort.subjects, watch)
