"""From a folder or a file to the heads of a cohort."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from segkit.errors import DataError, UsageError
from segkit_runtime.cohort.bids import DESCRIPTION, find_in_bids
from segkit_runtime.cohort.folder import find_in_folder
from segkit_runtime.cohort.subjects import Cohort
from segkit_runtime.cohort.table import find_in_table


def find_cohort(
    source: Path,
    modalities: Sequence[str],
    patterns: Mapping[str, str] | None = None,
    entities: Mapping[str, str] | None = None,
) -> Cohort:
    """Find the heads of a cohort and every defect that can be seen without reading an image.

    Args:
        source: a CSV file, a BIDS data set (a folder with a dataset_description.json), or any other folder.
        modalities: those of the bundle.
        patterns: for folders, see `find_in_folder`; a BIDS data set is then a folder as any other.
        entities: for BIDS, see `find_in_bids`.

    Raises:
        DataError: there is nothing.
        UsageError: what was asked for does not go with this kind of cohort.
        CohortDefects: it has defects.
    """
    source = source.absolute()
    if not source.exists():
        raise DataError(f"expected a cohort, a folder or a CSV file, at {source}, found nothing", hint="check the path")
    kind = "a table" if source.is_file() else "a folder"
    if source.is_dir() and not patterns and (source / DESCRIPTION).is_file():
        return find_in_bids(source, modalities, entities or {})
    if entities:
        raise UsageError(f"expected --entity with a BIDS data set, {source} is {kind}", hint="leave --entity out")
    if source.is_dir():
        return find_in_folder(source, modalities, patterns or {})
    if patterns:
        raise UsageError(f"expected --pattern with a folder, {source} is {kind}", hint="leave --pattern out")
    return find_in_table(source, modalities)
