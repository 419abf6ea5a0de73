"""How a BIDS folder lies on disk.

sub-01[/ses-x]/anat/sub-01[_ses-x][_acq-NAME][_run-1]_{T1w,T2w,FLAIR,PDw}.nii[.gz]
derivatives/PIPELINE/sub-01[/ses-x]/anat/sub-01[_ses-x][_desc-NAME]_dseg.nii[.gz]
derivatives/PIPELINE/[desc-NAME_]dseg.tsv    index and name of each class; see `segkit_bids.tables`

A session is a subject of its own, "sub-01_ses-x". An image with contrast agent is a modality of its own, for example
"ce-gadolinium_T1w". Of several images of one modality none is taken by guess: options choose, or there is an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from segkit import Subject
from segkit.errors import DataError, UnknownName

SUFFIXES = ("T1w", "T2w", "FLAIR", "PDw")
"""Modalities, in channel order."""

NONE = "none"
"""The value of an option that means: the file whose name does not say."""

_IMAGE_ENDS = ("nii", "nii.gz")

_OPTION_OF = {"acq": "acquisition", "run": "run", "desc": "desc"}


@dataclass(frozen=True)
class Named:
    """A file whose name BIDS defines: entities such as acq-MPRAGE, then a suffix such as T1w."""

    path: Path
    entities: Mapping[str, str]
    suffix: str


def find(
    root: Path,
    *,
    derivatives: str | float = "",
    acquisition: str | float = "",
    run: str | float = "",
    desc: str | float = "",
) -> list[Subject]:
    """The subjects and sessions that have an image.

    Args:
        root: the folder of the raw data set.
        derivatives: the folder under `derivatives/` that holds the labels; "" the only one there, "none" no labels.
        acquisition: which acq- to take where images say one; "none" those that say none.
        run: which run- to take, likewise.
        desc: which desc- of label files to take, likewise.

    Raises:
        DataError: more than one file could be meant, or all labels of a subject are in another space than its images.
        UnknownName: an option names what no file has.
    """
    wanted = {key: str(value) for key, value in (("acq", acquisition), ("run", run), ("desc", desc))}
    pipeline = _pipeline(root, str(derivatives))
    anats = sorted([*root.glob("sub-*/anat"), *root.glob("sub-*/ses-*/anat")])
    ids = {anat: "_".join(anat.relative_to(root).parts[:-1]) for anat in anats}
    raw = {id_: read_names(anat.glob(f"{id_}_*"), SUFFIXES) for anat, id_ in ids.items()}
    labels = {
        id_: read_names((pipeline / anat.relative_to(root)).glob(f"{id_}_*"), ["dseg"]) if pipeline else []
        for anat, id_ in ids.items()
    }
    _require_known(wanted, [*raw.values(), *labels.values()])
    subjects = []
    for id_, files in raw.items():
        images = _images(files, wanted)
        if images:
            subjects.append(Subject(id=id_, images=images, label=_label(id_, labels[id_], wanted)))
    return subjects


def read_names(paths: Iterable[Path], suffixes: Sequence[str], ends: Sequence[str] = _IMAGE_ENDS) -> list[Named]:
    """The files among `paths` that BIDS names, with one of these suffixes and endings."""
    named = []
    for path in sorted(paths):
        stem, _, end = path.name.partition(".")
        *pairs, suffix = stem.split("_")
        if suffix in suffixes and end in ends and all("-" in pair for pair in pairs):
            named.append(Named(path, dict(pair.split("-", 1) for pair in pairs), suffix))
    return named


def _pipeline(root: Path, name: str) -> Path | None:
    folders = {path.name: path for path in sorted(root.glob("derivatives/*")) if path.is_dir()}
    if name == NONE or not (name or folders):
        return None
    if name:
        if name not in folders:
            raise UnknownName(f"folder under {root / 'derivatives'}", name, folders)
        return folders[name]
    if len(folders) > 1:
        raise DataError(
            f"expected one folder of labels under {root / 'derivatives'}, found {', '.join(folders)}",
            hint=f"choose: --dataset-option derivatives={next(iter(folders))}, or {NONE} for no labels",
        )
    return next(iter(folders.values()))


def _require_known(wanted: Mapping[str, str], groups: Iterable[Sequence[Named]]) -> None:
    files = [file for group in groups for file in group]
    for entity, value in wanted.items():
        known = {file.entities[entity] for file in files if entity in file.entities}
        if value not in ("", NONE) and not any(_same(value, name) for name in known):
            raise UnknownName(_OPTION_OF[entity], value, known)


def _images(files: Sequence[Named], wanted: Mapping[str, str]) -> dict[str, Path]:
    groups: dict[str, list[Named]] = {}
    for file in sorted(files, key=lambda file: (SUFFIXES.index(file.suffix), file.entities.get("ce", ""))):
        agent = file.entities.get("ce")
        groups.setdefault(f"ce-{agent}_{file.suffix}" if agent else file.suffix, []).append(file)
    chosen = {modality: _choose(group, wanted) for modality, group in groups.items()}
    return {modality: file.path for modality, file in chosen.items() if file}


def _label(id_: str, files: Sequence[Named], wanted: Mapping[str, str]) -> Path | None:
    # "orig" is BIDS' name for the space of the raw image; what names any other was resampled to it.
    native = [file for file in files if file.entities.get("space", "orig") == "orig"]
    if files and not native:
        raise DataError(
            f"expected a dseg of {id_} in the space of its images, found only {_list(files)}",
            hint="resample it to the image and drop space- from its name, or take no labels: "
            "--dataset-option derivatives=none",
        )
    chosen = _choose(native, wanted)
    return chosen.path if chosen else None


def _choose(files: Sequence[Named], wanted: Mapping[str, str]) -> Named | None:
    """The one file that is meant, None if there is none.

    A file that says another value than the one wanted is left out; one that says none is taken where no file says it.
    """
    left = list(files)
    for entity, value in wanted.items():
        if value:
            silent = [file for file in left if entity not in file.entities]
            left = [file for file in left if _same(value, file.entities.get(entity, NONE))] or silent
    if len(left) > 1:
        raise DataError(
            f"expected one {left[0].suffix} in {left[0].path.parent}, found {_list(left)}",
            hint=f"{_ways(left)}move the others away",
        )
    return left[0] if left else None


def _ways(files: Sequence[Named]) -> str:
    """How options would tell these files apart, if they can."""
    ways = []
    for entity, option in _OPTION_OF.items():
        values = dict.fromkeys(file.entities.get(entity, NONE) for file in files)
        if len(values) > 1:
            ways += [f"{option}={value}" for value in values]
    return f"choose with --dataset-option {' or '.join(ways)}, or " if ways else ""


def _same(value: str, name: str) -> bool:
    """Whether an option means the value in a file's name: 1 and 01 are one run."""
    return value == name or (value.isdecimal() and name.isdecimal() and int(value) == int(name))


def _list(files: Sequence[Named]) -> str:
    return ", ".join(file.path.name for file in files)
