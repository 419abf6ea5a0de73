"""Cohorts in BIDS: each session that has an image is a head.

sub-01[/ses-x]/anat/sub-01[_ses-x][_acq-NAME][_run-1]_{T1w,T2w,FLAIR,PDw}.nii[.gz]

A modality is named by its suffix, "T1w", and with contrast agent "ce-gadolinium_T1w": the names that the data set
plugin `bids` gives them, and so those of a network that was trained on BIDS. A network that calls it "T1" gets T1w,
too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from segkit.errors import UsageError
from segkit_runtime.cohort.subjects import Cohort, CohortSubject, bids_label_file, require_sound

DESCRIPTION = "dataset_description.json"
LINK = "raw"
"""The name by which BIDS URIs of the images mean their data set."""
_SUFFIXES = ("T1w", "T2w", "FLAIR", "PDw")


@dataclass(frozen=True)
class _Image:
    path: Path
    entities: Mapping[str, str]
    modality: str


def find_in_bids(root: Path, modalities: Sequence[str], entities: Mapping[str, str]) -> Cohort:
    """The sessions of a BIDS data set.

    Args:
        root: its folder.
        modalities: those of the bundle.
        entities: which image is meant where there are several of a modality, for example {"run": "1"}.

    Raises:
        UsageError: a modality of the bundle has no name in BIDS.
        CohortDefects: a session lacks an image, or has several that could be meant.
    """
    wanted = {modality: _bids_name(modality) for modality in modalities}
    subjects, defects = [], []
    for anat in sorted([*root.glob("sub-*/anat"), *root.glob("sub-*/ses-*/anat")]):
        name = "_".join(anat.relative_to(root).parts[:-1])
        images = _images_of(anat, name)
        if not any(image.modality in wanted.values() for image in images):
            continue
        chosen: dict[str, _Image] = {}
        for modality, bids_name in wanted.items():
            left = _choose([image for image in images if image.modality == bids_name], entities)
            if len(left) == 1:
                chosen[modality] = left[0]
            else:
                defects.append(f"subject {name}: {_count(left, bids_name)}")
        if len(chosen) == len(wanted):
            subjects.append(_subject(root, name, chosen))
    require_sound(root, subjects, defects)
    return Cohort(tuple(subjects), root)


def _bids_name(modality: str) -> str:
    contrast, _, suffix = modality.rpartition("_")
    if suffix in _SUFFIXES and (not contrast or contrast.startswith("ce-")):
        return modality
    if f"{modality}w" in _SUFFIXES:
        return f"{modality}w"
    raise UsageError(
        f"expected modalities that BIDS has a name for, {', '.join(_SUFFIXES)}, the bundle takes {modality}",
        hint="say where the files lie: --pattern NAME='sub-{subject}/anat/...' for each modality",
    )


def _images_of(anat: Path, name: str) -> list[_Image]:
    images = []
    for path in sorted(anat.glob(f"{name}_*")):
        stem, _, ending = path.name.partition(".")
        *pairs, suffix = stem.split("_")
        if suffix in _SUFFIXES and ending in ("nii", "nii.gz") and all("-" in pair for pair in pairs):
            entities = dict(pair.split("-", 1) for pair in pairs)
            agent = entities.get("ce")
            images.append(_Image(path, entities, f"ce-{agent}_{suffix}" if agent else suffix))
    return images


def _choose(images: Sequence[_Image], wanted: Mapping[str, str]) -> list[_Image]:
    """Those that could be meant: a name that says another value is not, one that says none only if no other says it."""
    left = list(images)
    for entity, value in wanted.items():
        silent = [image for image in left if entity not in image.entities]
        left = [image for image in left if _same(value, image.entities.get(entity, ""))] or silent
    return left


def _same(value: str, name: str) -> bool:
    """Whether an option means the value in a file's name: 1 and 01 are one run."""
    return value == name or (value.isdecimal() and name.isdecimal() and int(value) == int(name))


def _count(images: Sequence[_Image], modality: str) -> str:
    if not images:
        return f"no {modality}"
    names = ", ".join(image.path.name for image in images)
    return f"several {modality}, {names}; choose with --entity, such as run=1"


def _subject(root: Path, name: str, chosen: Mapping[str, _Image]) -> CohortSubject:
    first = next(iter(chosen.values()))
    return CohortSubject(
        name=name,
        images={modality: image.path.absolute() for modality, image in chosen.items()},
        labels=bids_label_file(first.entities),
        sources=tuple(f"bids:{LINK}:{image.path.relative_to(root).as_posix()}" for image in chosen.values()),
    )
