"""What the codes of dseg files mean: `dseg.tsv`, one for the data set or one beside the file.

A table holds for every dseg file whose name says all that the table's name says, in its folder and those below it; the
nearest one counts (the inheritance principle of BIDS).
"""

from __future__ import annotations

import csv
from pathlib import Path

from segkit import Label
from segkit.cards import OptionValue
from segkit.errors import DataError
from segkit_bids.layout import find, read_names

_MOST = 254
"""Classes that fit into the indices of a label volume."""


def read_labels(root: Path, **options: OptionValue) -> tuple[tuple[Label, ...], tuple[int, ...]]:
    """The classes of the label files that `find` takes: background, then the rows of the table by index.

    Raises:
        DataError: there are labels and no table, a bad one, or tables that differ.
    """
    subjects = find(root, **options)
    tables: dict[Path, tuple[Label, ...]] = {}
    for subject in subjects:
        if subject.label:
            file = _table_of(subject.label, root)
            if file not in tables:
                tables[file] = _read(file)
    first = next(iter(tables), None)
    if first is None:
        return (), ()
    for file, labels in tables.items():
        if labels != tables[first]:
            raise DataError(
                f"expected the same classes in all tables, found others in {file} than in {first}",
                hint="keep one dseg.tsv for all",
            )
    return tables[first], ()


def _table_of(label: Path, root: Path) -> Path:
    (named,) = read_names([label], ["dseg"])
    for folder in label.parents:
        fitting = [
            table.path
            for table in read_names(folder.glob("*dseg.tsv"), ["dseg"], ["tsv"])
            if table.entities.items() <= named.entities.items()
        ]
        if len(fitting) > 1:
            raise DataError(
                f"expected one table for {label}, found {', '.join(file.name for file in fitting)} in {folder}",
                hint="keep one of them",
            )
        if fitting:
            return fitting[0]
        if folder == root:
            break
    place = root / Path(*label.relative_to(root).parts[:2]) / "dseg.tsv"
    raise DataError(
        f"expected the meaning of the codes of {label} in {place}, found no table",
        hint="write it: the columns index and name, with a tab between them, and a row per class",
    )


def _read(file: Path) -> tuple[Label, ...]:
    names: dict[int, str] = {0: "background"}
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            rows = [(int(row["index"]), row["name"].strip()) for row in csv.DictReader(lines, delimiter="\t")]
    except (KeyError, TypeError, AttributeError):
        raise _wrong(file, "the columns index and name, with a tab between them", "others") from None
    except (OSError, ValueError) as error:
        raise _wrong(file, "rows of a whole number and a name", str(error)) from None
    names.update(rows)
    if len(dict(rows)) < len(rows) or len(set(names.values())) < len(names) or min(names) < 0:
        raise _wrong(file, "each index and each name once, from 0 up", "one twice or below 0")
    if not 2 <= len(names) <= _MOST:
        raise _wrong(file, f"1 to {_MOST - 1} classes beside background", f"{len(names) - 1}")
    return tuple(Label(code=index, name=names[index]) for index in sorted(names))


def _wrong(file: Path, expected: str, found: str) -> DataError:
    return DataError(f"expected {expected} in {file}, found {found}", hint="mend the table")
