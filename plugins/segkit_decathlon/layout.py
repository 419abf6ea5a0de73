"""How a task of the Decathlon lies on disk.

TaskXX_Name/dataset.json              modalities, label codes, training and test files; nothing else is read of it
TaskXX_Name/imagesTr/NAME_001.nii.gz  4-D where there are several modalities, in the order of dataset.json
TaskXX_Name/labelsTr/NAME_001.nii.gz
TaskXX_Name/imagesTs/NAME_485.nii.gz  no labels

Only what dataset.json lists is read, so what else lies in the folders does not matter. A file that is listed and
missing is found by whoever reads it: many people keep the training half alone.
"""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any

from segkit import Label, Subject
from segkit.errors import DataError

DESCRIPTION = "dataset.json"


def find(root: Path) -> list[Subject]:
    """The training subjects, labelled, and the test subjects, unlabelled.

    Raises:
        DataError: dataset.json is missing or not that of a task, or names a file outside the folder or one twice.
    """
    description = _read(root)
    modalities = _names(description, "modality", root)
    channels = {name: place for place, name in modalities.items()} if len(modalities) > 1 else {}
    subjects: dict[str, Subject] = {}
    for part in ("training", "test"):
        entries = description.get(part, [])
        if not isinstance(entries, list):
            raise _wrong(root, f"a list under {part!r}", entries)
        for entry in entries:
            image, label = _pair(entry, root, labelled=part == "training")
            if image.name.startswith("._"):
                continue  # AppleDouble: what macOS leaves beside the real file
            id_ = image.name.removesuffix(".gz").removesuffix(".nii")
            if id_ in subjects:
                raise _wrong(root, "each subject once", id_)
            images = dict.fromkeys(modalities.values(), image)
            subjects[id_] = Subject(id=id_, images=images, label=label, channels=channels)
    return list(subjects.values())


def read_labels(root: Path) -> tuple[tuple[Label, ...], tuple[int, ...]]:
    """The classes that dataset.json names, by code; none of the Decathlon's codes is ignored.

    Raises:
        DataError: dataset.json is missing or not that of a task.
    """
    names = _names(_read(root), "labels", root)
    return tuple(Label(code=code, name=name) for code, name in names.items()), ()


def _read(root: Path) -> dict[str, Any]:
    file = root / DESCRIPTION
    try:
        description = json.loads(file.read_bytes())
    except FileNotFoundError:
        tasks = ", ".join(sorted(found.parent.name for found in root.glob(f"*/{DESCRIPTION}")))
        raise DataError(
            f"expected {DESCRIPTION} in {root}, found none",
            hint=f"name the folder of one task{': ' if tasks else ''}{tasks}",
        ) from None
    except ValueError as error:
        raise DataError(f"expected JSON in {file}, found: {error}", hint="copy it again") from None
    if not isinstance(description, dict):
        raise _wrong(root, "an object", description)
    return description


def _names(description: dict[str, Any], key: str, root: Path) -> dict[int, str]:
    """Names by number, from 0 up: `{"0": "FLAIR", "1": "T1w"}`."""
    table = description.get(key)
    if not isinstance(table, dict) or not all(str(number).isdecimal() for number in table):
        raise _wrong(root, f"names by number under {key!r}", table)
    names = {int(number): str(table[number]) for number in sorted(table, key=int)}
    if 0 not in names or len(set(names.values())) < len(table):
        raise _wrong(root, f"different names from 0 up under {key!r}", table)
    if key == "modality" and list(names) != list(range(len(names))):
        raise _wrong(root, "a modality for each place along the fourth axis", table)
    return names


def _pair(entry: object, root: Path, *, labelled: bool) -> tuple[Path, Path | None]:
    """Image and label of an entry; test entries are often the bare name of an image."""
    pair = entry if isinstance(entry, dict) else {"image": entry}
    wanted = [pair.get(key) for key in ("image", "label")[: 1 + labelled]]
    if not all(isinstance(name, str) for name in wanted):
        raise _wrong(root, "an image, and of training a label, in each entry", entry)
    files = [_inside(root, str(name)) for name in wanted]
    return files[0], files[1] if labelled else None


def _inside(root: Path, listed: str) -> Path:
    path = PurePosixPath(listed)
    if path.is_absolute() or ".." in path.parts:
        raise _wrong(root, "files inside its folder", listed)
    return root / path


def _wrong(root: Path, expected: str, found: object) -> DataError:
    return DataError(
        f"expected {expected} in {root / DESCRIPTION}, found {json.dumps(found):.60}", hint="mend it, or copy it again"
    )
