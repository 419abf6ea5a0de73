"""Cohorts without a table of their own: a folder with a sub-folder for each head, or names that follow a pattern."""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from segkit.errors import UsageError
from segkit_runtime.cohort.bids import DESCRIPTION
from segkit_runtime.cohort.subjects import Cohort, CohortSubject, label_file, require_sound

_PLACE = "{subject}"
_ENDINGS = (".nii.gz", ".nii")


def find_in_folder(root: Path, modalities: Sequence[str], patterns: Mapping[str, str]) -> Cohort:
    """The heads of a folder.

    Args:
        root: the folder.
        modalities: those of the bundle.
        patterns: modality name -> where its files lie below `root`, with `{subject}` for the name of the head; empty
            for the layout SUBJECT/MODALITY.nii.gz or .nii, in which every sub-folder is a head, but hidden ones and
            data sets of BIDS: the output of a cohort may lie there.

    Raises:
        UsageError: a pattern is none, or the patterns are not those of the bundle's modalities.
        CohortDefects: a file is missing, or a name cannot be used.
    """
    if patterns:
        _require_patterns(patterns, modalities)
        files = {modality: _matching(root, patterns[modality]) for modality in modalities}
    else:
        files = {modality: {} for modality in modalities}
        for folder in filter(_is_subject, root.iterdir()):
            for modality in modalities:
                files[modality][folder.name] = _image_in(folder, modality)
    subjects, defects = [], []
    for name in sorted({name for found in files.values() for name in found}, key=_natural):
        images = {
            modality: found[name] if name in found else root / patterns[modality].replace(_PLACE, name)
            for modality, found in files.items()
        }
        labels = label_file(name)
        if labels is None:
            defects.append(f"subject {name}: a name without a letter or digit of ASCII")
        else:
            subjects.append(CohortSubject(name=name, images=images, labels=labels))
    require_sound(root, subjects, defects)
    return Cohort(tuple(subjects))


def _is_subject(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".") and not (path / DESCRIPTION).exists()


def _image_in(folder: Path, modality: str) -> Path:
    """The file of a modality, compressed or not; the compressed name where there is none."""
    files = [folder / f"{modality}{ending}" for ending in _ENDINGS]
    return next((file for file in files if file.is_file()), files[0])


def _require_patterns(patterns: Mapping[str, str], modalities: Sequence[str]) -> None:
    if set(patterns) != set(modalities):
        raise UsageError(
            f"expected a pattern for each of {', '.join(modalities)}, got {', '.join(patterns)}",
            hint=f"example: --pattern {modalities[0]}='{_PLACE}/{modalities[0]}.nii.gz'",
        )
    for modality, pattern in patterns.items():
        if _PLACE not in pattern or Path(pattern).is_absolute() or ".." in Path(pattern).parts:
            raise UsageError(
                f"expected a path below the folder with {_PLACE} in it as the pattern of {modality}, got {pattern!r}",
                hint=f"example: --pattern {modality}='{_PLACE}/{modality}.nii.gz'",
            )


def _matching(root: Path, pattern: str) -> dict[str, Path]:
    """Name of the head -> file, for the files that a pattern fits; all places of the name must say the same."""
    first, *others = (re.escape(part) for part in pattern.split(_PLACE))
    name_of = re.compile(f"{first}(?P<subject>[^/]+)" + "(?P=subject)".join(others))
    wildcard = "/".join("*" if _PLACE in part else glob.escape(part) for part in pattern.split("/"))
    found = {}
    for file in root.glob(wildcard):
        match = name_of.fullmatch(file.relative_to(root).as_posix())
        if match and not match["subject"].startswith("."):
            found[match["subject"]] = file
    return found


def _natural(text: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text)]
