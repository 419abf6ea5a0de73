"""Cohorts in a CSV table: a column `subject` and one for each modality, paths relative to the table."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from segkit_runtime.cohort.subjects import Cohort, CohortDefects, CohortSubject, label_file, require_sound

_SUBJECT = "subject"


def find_in_table(table: Path, modalities: Sequence[str]) -> Cohort:
    """The heads of a table, in its order. Columns of other names are for its reader.

    Raises:
        CohortDefects: it cannot be read, or lacks a column, a cell or a file, or has a subject twice.
    """
    try:
        with table.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines, strict=True)
            columns = list(reader.fieldnames or ())
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, ValueError, csv.Error) as error:
        raise CohortDefects(table, [f"no CSV table in UTF-8: {error}"]) from None
    wanted = [_SUBJECT, *modalities]
    defects = [f"no column {name}" for name in wanted if name not in columns]
    defects += [f"column {name}: there twice" for name in wanted if columns.count(name) > 1]
    if defects:
        raise CohortDefects(table, [f"{text} among {', '.join(columns) or 'none'}" for text in defects])
    subjects = []
    for line, row in rows:
        wrong = _row_defects(line, row, wanted)
        labels = None if wrong else label_file(row[_SUBJECT])
        if not wrong and labels is None:
            wrong = [f"line {line}: a subject without a letter or digit of ASCII, {row[_SUBJECT]!r}"]
        defects += wrong
        if labels is not None:
            images = {name: (table.parent / row[name]).absolute() for name in modalities}
            subjects.append(CohortSubject(name=row[_SUBJECT], images=images, labels=labels))
    require_sound(table, subjects, defects)
    return Cohort(tuple(subjects))


def _row_defects(line: int, row: Mapping[str | None, object], wanted: Sequence[str]) -> list[str]:
    """What is wrong with the form of a row: csv gives None for what is missing, and to what is one too many."""
    if None in row:
        return [f"line {line}: more cells than columns"]
    return [f"line {line}: no {name}" for name in wanted if not str(row[name] or "").strip()]
