"""The heads of a cohort: which files they are read from, and where their labels go."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from segkit.errors import DataError, UsageError
from segkit.nifti import require_nifti_name

DESC = "segkit"
"""The value of `desc-` in the names of label files, which tells them from those of other pipelines."""
_BIDS_NAME = re.compile(r"sub-([A-Za-z0-9]+)(?:_ses-([A-Za-z0-9]+))?")


@dataclass(frozen=True, kw_only=True)
class CohortSubject:
    """One head: files, no arrays.

    Attributes:
        name: what its cohort calls it, unique.
        images: modality name -> file, an absolute path; in the order of the bundle.
        labels: the label file to write, relative to the output folder.
        sources: BIDS URIs of the images, in the same order; empty where they do not come from BIDS.
    """

    name: str
    images: Mapping[str, Path]
    labels: str
    sources: tuple[str, ...] = ()

    @property
    def report(self) -> str:
        """The report to write beside the label file."""
        return self.labels.removesuffix(".nii.gz") + ".json"

    @property
    def picture(self) -> str:
        """The picture of the labels."""
        folder, _, name = self.labels.rpartition("/anat/")
        return f"{folder}/figures/{name.removesuffix('.nii.gz')}.png"


@dataclass(frozen=True)
class Cohort:
    """Heads without a defect that can be seen before they are read.

    Attributes:
        subjects: in the order of the table, or as people sort.
        bids: the root of the BIDS data set that they come from, if they do.
    """

    subjects: tuple[CohortSubject, ...]
    bids: Path | None = None


class CohortDefects(DataError):
    """A cohort with defects; nothing of it was run.

    Args:
        source: the folder or table.
        defects: a line for each of them.
    """

    def __init__(self, source: Path, defects: Sequence[str]) -> None:
        count = f"{len(defects)} defect" + ("s, the first" if len(defects) > 1 else "")
        super().__init__(
            f"expected a cohort without defects in {source}, found {count}: {defects[0]}", hint="mend them all first"
        )
        self.defects = tuple(defects)


def label_file(name: str) -> str | None:
    """Where the labels of a head go whose name is free text, or None if no letter or digit is in it.

    "01" and "sub-01" go to sub-01/anat/sub-01_desc-segkit_dseg.nii.gz, "sub-01_ses-x" to the session x of it. BIDS
    takes letters and digits only, so "patient_7" goes to sub-patient7.
    """
    named = _BIDS_NAME.fullmatch(name)
    subject, session = named.groups() if named else (re.sub("[^A-Za-z0-9]", "", name), None)
    if not subject:
        return None
    return bids_label_file({"sub": subject, **({"ses": session} if session else {})})


def bids_label_file(entities: Mapping[str, str]) -> str:
    """Where the labels of an image go whose name has these entities."""
    folders = [f"{key}-{entities[key]}" for key in ("sub", "ses") if key in entities]
    stem = "_".join(f"{key}-{value}" for key, value in entities.items())
    return "/".join([*folders, "anat", f"{stem}_desc-{DESC}_dseg.nii.gz"])


def require_sound(source: Path, subjects: Sequence[CohortSubject], defects: Sequence[str]) -> None:
    """Look for the defects that all kinds of cohorts can have, and refuse a cohort that has any.

    Args:
        source: the folder or table.
        subjects: the heads that were found in it.
        defects: those that were seen so far.

    Raises:
        CohortDefects: there is one, or no head at all.
    """
    found = list(defects)
    if not subjects and not found:
        found.append("no subject")
    names: set[str] = set()
    places: dict[str, str] = {}
    files: dict[Path, str] = {}
    for subject in subjects:
        if subject.name in names:
            found.append(f"subject {subject.name}: there twice")
            continue
        names.add(subject.name)
        # Some file systems take "A" and "a" for one name.
        other = places.setdefault(subject.labels.casefold(), subject.name)
        if other != subject.name:
            found.append(f"subject {subject.name}: its labels would have the name of those of {other}")
        for modality, file in subject.images.items():
            found += _file_defects(f"subject {subject.name}, {modality}", file)
            user = files.setdefault(file.resolve(), f"subject {subject.name}, {modality}")
            if user != f"subject {subject.name}, {modality}":
                found.append(f"subject {subject.name}, {modality}: {file} is {user}, too")
    if found:
        raise CohortDefects(source, found)


def _file_defects(what: str, file: Path) -> list[str]:
    if not file.is_file():
        return [f"{what}: no file {file}"]
    try:
        require_nifti_name(file)
    except UsageError as error:
        return [f"{what}: {error.message}"]
    return []
