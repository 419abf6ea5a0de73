"""How iSEG-2017 and iSEG-2019 lie on disk.

DIR/iSeg-2017-Training/subject-1-T1.hdr, .img ...     Analyze pairs, int16; -T2 and the uint8 -label likewise
DIR/iSeg-2017-Testing/subject-11-T1.hdr, .img ...     no labels

2019 says 2019, and Validation beside Testing; a copy of it has each folder inside one of its own name.
"""

from __future__ import annotations

import re
from pathlib import Path

from segkit import Subject
from segkit.errors import DataError

MODALITIES = ("T1", "T2")
LABEL = "label"
PAIR = (".hdr", ".img")

ORIENTATION = "LAS"
"""Directions of the axes. The files state none. Which axis is left-right (144), front-back (192) and up-down (256) is
known from their sizes; which way each runs is an assumption: what nibabel takes Analyze files to be. ITK takes
front-back the other way. One choice for all subjects changes no score, only how pictures are turned."""

_FILE = re.compile(r"(subject-\d+)-(?:T1|T2|label)\.(?:hdr|img)")


def find(root: Path) -> list[Subject]:
    """The subjects of iSEG.

    Args:
        root: the folder that holds Training, Testing and Validation folders, or one of these.

    Raises:
        DataError: a subject lacks a file, or is there twice.
    """
    subjects: dict[str, Subject] = {}
    for folder in (root, *sorted(root.glob("iSeg-*")), *sorted(root.glob("iSeg-*/iSeg-*"))):
        for subject in _find_in(folder):
            other = subjects.setdefault(subject.id, subject)
            if other is not subject:
                raise DataError(
                    f"expected {subject.id} once in {root}, found it in {other.images['T1'].parent} and {folder}",
                    hint="name the folder of one of them",
                )
    return list(subjects.values())


def _find_in(folder: Path) -> list[Subject]:
    """The subjects whose files lie in a folder: all labelled, or none."""
    ids = {match[1] for file in folder.glob("subject-*") if (match := _FILE.fullmatch(file.name))}
    labelled = any(_path(folder, id_, LABEL, ending).is_file() for id_ in ids for ending in PAIR)
    return [_subject(folder, id_, labelled) for id_ in sorted(ids)]


def _subject(folder: Path, id_: str, labelled: bool) -> Subject:
    kinds = (*MODALITIES, LABEL) if labelled else MODALITIES
    files = [_path(folder, id_, kind, ending) for kind in kinds for ending in PAIR]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise DataError(
            f"expected {', '.join(kinds)} of {id_} in {folder}, each as .hdr and .img, found no {', '.join(missing)}",
            hint="unpack the archive of the challenge again",
        )
    # The .img and not the .hdr stands for a pair: headers are alike, and files are told apart by their content.
    return Subject(
        id=id_,
        images={modality: _path(folder, id_, modality, ".img") for modality in MODALITIES},
        label=_path(folder, id_, LABEL, ".img") if labelled else None,
        orientation=ORIENTATION,
    )


def _path(folder: Path, id_: str, kind: str, ending: str) -> Path:
    return folder / f"{id_}-{kind}{ending}"
