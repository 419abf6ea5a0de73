"""Rules of data sets: subjects that are found, read, labelled by the card's codes, and on one grid.

They need data: a folder that is given, or one that the data set makes. What holds in an empty folder is checked always.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path

from segkit.cards import load_attribute
from segkit.check import SubjectCheck, check_dataset
from segkit.conformance.check import Candidate, NotApplicable, Rule
from segkit.dataset import Dataset, open_dataset, select_modalities
from segkit.errors import DataError, PluginError
from segkit.files import sha256_of

_SUBJECTS = 2
_SEED = 1


def _folder(candidate: Candidate) -> Path:
    """The folder that was given, or one that is made here, and goes with the candidate."""
    if candidate.data is not None:
        return candidate.data
    if "folder" not in candidate.kept:
        if candidate.card.make is None:
            raise NotApplicable("the data set cannot be made here; name a folder of it with --data")
        folder = Path(tempfile.mkdtemp(prefix="segkit-check-"))
        weakref.finalize(candidate, shutil.rmtree, folder, ignore_errors=True)
        _make(candidate, folder)
        candidate.kept["folder"] = folder
    made: Path = candidate.kept["folder"]
    return made


def _make(candidate: Candidate, folder: Path) -> None:
    preset = next(iter(candidate.card.presets))
    load_attribute(candidate.card.make)(folder, preset, _SUBJECTS, _SEED, lambda _: None)


def _dataset(candidate: Candidate) -> Dataset:
    return open_dataset(candidate.card, _folder(candidate), candidate.options)


def _checks(candidate: Candidate) -> list[SubjectCheck]:
    if "subjects" not in candidate.kept:
        candidate.kept["subjects"] = check_dataset(_dataset(candidate))
    checks: list[SubjectCheck] = candidate.kept["subjects"]
    return checks


def _finds_nothing_in_an_empty_folder(candidate: Candidate) -> str:
    with tempfile.TemporaryDirectory(prefix="segkit-check-") as folder:
        try:
            found = open_dataset(candidate.card, Path(folder), candidate.options).subjects
        except DataError as error:
            return f"refused: {error.message.replace(folder, 'FOLDER')}"
    raise PluginError(
        f"expected no subjects in an empty folder, got {', '.join(subject.id for subject in found[:3])}",
        hint="list only files that are there",
    )


def _finds_subjects(candidate: Candidate) -> str:
    dataset = _dataset(candidate)
    files = {
        f"{subject.id} {name}": file
        for subject in dataset.subjects
        for name, file in (*subject.images.items(), *([("label", subject.label)] if subject.label else []))
    }
    missing = [what for what, file in files.items() if not file.is_file()]
    if missing:
        raise PluginError(
            f"expected files that are there, {missing[0]} is none: {files[missing[0]]}",
            hint="list only files that are there",
        )
    if dataset.subjects != _dataset(candidate).subjects:
        raise PluginError(
            "expected the same subjects from the same folder twice, got different ones", hint="sort what a glob returns"
        )
    made = candidate.data is None
    if made and len(dataset.subjects) != _SUBJECTS:
        raise PluginError(
            f"expected the {_SUBJECTS} subjects that were made, found {len(dataset.subjects)}",
            hint="let make and the factory keep to one layout",
        )
    modalities = select_modalities(dataset.subjects)
    return f"{len(dataset.subjects)} subjects, {len(dataset.labelled)} with labels, {', '.join(modalities)}"


def _keeps_to_its_codes(candidate: Candidate) -> str:
    dataset = _dataset(candidate)
    if not dataset.labelled:
        raise NotApplicable("no subject has a label file")
    if len(dataset.scheme.labels) < 2:
        raise PluginError(
            f"expected background and at least one class for label files, got {len(dataset.scheme.labels)} in all",
            hint="list labels on the card, or let read_labels find them",
        )
    checks = _checks(candidate)
    strange = [line for check in checks for line in check.defects if "label codes" in line]
    if strange:
        found, _, fix = strange[0].partition("; ")
        raise PluginError(found, hint=f"list every code on the card, in labels, merged or ignored; or {fix}")
    never = [
        label.name
        for label in dataset.scheme.labels
        if not any(check.label_ml.get(label.name) for check in checks if check.label)
    ]
    if never:
        raise PluginError(
            f"expected every class in some label file, {', '.join(never)} is in none",
            hint="mend the codes on the card, or give a folder whose subjects have all classes",
        )
    return ", ".join(f"{label.code} {label.name}" for label in dataset.scheme.labels)


def _has_sound_geometry(candidate: Candidate) -> str:
    checks = _checks(candidate)
    defects = [f"{check.id}: {line}" for check in checks for line in check.defects if "label codes" not in line]
    if defects:
        found, _, fix = defects[0].partition("; ")
        more = f" (and {len(defects) - 1} more)" if len(defects) > 1 else ""
        raise PluginError(found + more, hint=fix or "see all: segkit data check")
    shapes = sorted({"x".join(map(str, geometry.shape)) for check in checks for geometry in check.geometry.values()})
    return "images of " + ", ".join(shapes)


def _makes_the_same_again(candidate: Candidate) -> str:
    if candidate.card.make is None:
        raise NotApplicable("the data set cannot be made")
    first = _hashes(candidate, repeats=1)
    if first != _hashes(candidate, repeats=2):
        raise PluginError(
            f"expected make to give the same files from seed {_SEED}, also where they are there already, got others",
            hint="draw from np.random.default_rng([seed, index]) alone, and write no times or names of folders",
        )
    return f"{len(first)} files, preset {next(iter(candidate.card.presets))!r}"


def _hashes(candidate: Candidate, repeats: int) -> dict[str, str]:
    with tempfile.TemporaryDirectory(prefix="segkit-check-") as name:
        folder = Path(name)
        for _ in range(repeats):
            _make(candidate, folder)
        return {str(file.relative_to(folder)): sha256_of(file) for file in folder.rglob("*") if file.is_file()}


RULES = (
    Rule("empty", "a refusal of an empty folder", _finds_nothing_in_an_empty_folder, "factory"),
    Rule("make", "the same files from the same seed", _makes_the_same_again, "factory"),
    Rule("subjects", "subjects whose files are there, in the same order each time", _finds_subjects, "factory"),
    Rule("labels", "label files that keep to the codes of the card", _keeps_to_its_codes, "subjects"),
    Rule("geometry", "images and labels that can be read and fit together", _has_sound_geometry, "subjects"),
)
