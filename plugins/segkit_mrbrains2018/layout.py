"""How MRBrainS lies on disk.

2018:
DIR/training/070/pre/reg_T1.nii.gz, reg_IR.nii.gz, FLAIR.nii.gz     after bias-field correction
DIR/training/070/orig/...                                           before it; T1 and IR without reg_ lie on other grids
DIR/training/070/segm.nii.gz                                        codes 0 to 10; none in a test folder

2013:
DIR/TrainingData/1/T1.nii, T1_IR.nii, T2_FLAIR.nii, LabelsForTraining.nii
DIR/TestData/1/...                                                  no labels
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from segkit import Subject
from segkit.errors import DataError, UnknownName

FOLDERS = {"corrected": "pre", "original": "orig"}
FILES = {"T1": "reg_T1.nii.gz", "T1-IR": "reg_IR.nii.gz", "FLAIR": "FLAIR.nii.gz"}
LABEL = "segm.nii.gz"

FILES_2013 = {"T1": "T1.nii", "T1-IR": "T1_IR.nii", "FLAIR": "T2_FLAIR.nii"}
LABEL_2013 = "LabelsForTraining.nii"
"""`LabelsForTesting.nii` beside it has codes of its own, and no cerebellum or brain stem: it is not read."""


def find(root: Path, *, images: str, labels: int) -> list[Subject]:
    """The subjects of MRBrainS 2018.

    The heads of one folder are all labelled, or none is.

    Args:
        root: the folder that holds training, or training itself.
        images: "corrected" or "original".
        labels: for `read_labels` only.

    Raises:
        UnknownName: there are no such images.
        DataError: a subject lacks a file, or is there twice.
    """
    if images not in FOLDERS:
        raise UnknownName("images of mrbrains2018", images, FOLDERS)
    found: dict[str, Path] = {}
    subjects = []
    for parent in (root, *_folders(root)):
        heads = [
            head for head in _folders(parent) if any((head / name).exists() for name in (*FOLDERS.values(), LABEL))
        ]
        labelled = any((head / LABEL).is_file() for head in heads)
        for head in heads:
            if found.setdefault(head.name, head) is not head:
                raise DataError(
                    f"expected the subject {head.name} once in {root}, found {found[head.name]} and {head}",
                    hint="name the folder of one set",
                )
            files = {name: head / FOLDERS[images] / file for name, file in FILES.items()}
            subjects.append(_subject(head.name, files, head / LABEL if labelled else None))
    return subjects


def find_2013(root: Path, *, labels: int) -> list[Subject]:
    """The subjects of MRBrainS 2013.

    Args:
        root: the folder that holds TrainingData, TestData, or both.
        labels: for `read_labels_2013` only.

    Raises:
        DataError: a subject lacks a file.
    """
    subjects = []
    for prefix, parent in (("training", root / "TrainingData"), ("test", root / "TestData")):
        for head in _folders(parent) if parent.is_dir() else []:
            files = {name: head / file for name, file in FILES_2013.items()}
            label = head / LABEL_2013 if prefix == "training" else None
            subjects.append(_subject(f"{prefix}-{head.name}", files, label))
    return subjects


def _subject(id_: str, images: Mapping[str, Path], label: Path | None) -> Subject:
    missing = [str(file) for file in (*images.values(), *([label] if label else [])) if not file.is_file()]
    if missing:
        raise DataError(
            f"expected {', '.join(images)}{' and a label' if label else ''} of the subject {id_}, "
            f"found no {', '.join(missing)}",
            hint="unpack the archive of the challenge again",
        )
    return Subject(id=id_, images=images, label=label)


def _folders(parent: Path) -> list[Path]:
    """The folders in a folder, without what macOS adds to an archive."""
    return sorted(
        folder for folder in parent.iterdir() if folder.is_dir() and not folder.name.startswith((".", "__MACOSX"))
    )
