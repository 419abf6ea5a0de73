"""How BraTS lies on disk: a folder per case, anywhere below the root, and the year told by how its files are named.

2018, 2019   HGG/Brats18_CBICA_AAB_1/Brats18_CBICA_AAB_1_{t1,t1ce,t2,flair,seg}.nii.gz, and LGG/...
2020         BraTS20_Training_001/BraTS20_Training_001_{t1,t1ce,t2,flair,seg}.nii
2021         BraTS2021_00000/BraTS2021_00000_{t1,t1ce,t2,flair,seg}.nii.gz
2023         BraTS-GLI-00000-000/BraTS-GLI-00000-000-{t1n,t1c,t2w,t2f,seg}.nii.gz
2024         the same, post treatment, with time points from 100 up: BraTS-GLI-00005-100

Validation cases have no mask. `.nii` and `.nii.gz` are both taken.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from segkit import Label, Subject
from segkit.errors import DataError

MODALITIES = {"T1": ("t1", "t1n"), "T1ce": ("t1ce", "t1c"), "T2": ("t2", "t2w"), "FLAIR": ("flair", "t2f")}
"""Modalities in channel order, and what the files call them: until 2021, and from 2023."""

ODD_MASKS = {"BraTS20_Training_355": "W39_1998.09.19_Segm"}
"""Cases whose mask was published under a name of its own."""

# The whole word after the last separator, so that t1ce is never taken for t1.
_FILE = re.compile(
    r"(?P<case>brats.*)(?P<separator>[_-])(?P<kind>t1|t1ce|t2|flair|t1n|t1c|t2w|t2f|seg)\.nii(\.gz)?", re.IGNORECASE
)
_GLIOMA = re.compile(r"BraTS-GLI-\d+-(?P<time_point>\d+)", re.IGNORECASE)
_POST_TREATMENT = 100

Cases = dict[str, dict[str, Path]]


def find(root: Path) -> list[Subject]:
    """The cases below a folder, labelled or not.

    Raises:
        DataError: a case lacks a modality or is there twice, or the folder holds another tumour's challenge, or years
            whose codes differ.
    """
    cases = _scan(root)
    missing = [
        f"{name} of {case}"
        for case, files in cases.items()
        for name, kinds in MODALITIES.items()
        if not any(kind in files for kind in kinds)
    ]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise DataError(
            f"expected {', '.join(MODALITIES)} of every case in {root}, found no {', no '.join(missing[:5])}{more}",
            hint="copy these files again, or move these cases elsewhere",
        )
    return [
        Subject(
            id=case,
            images={name: next(files[k] for k in kinds if k in files) for name, kinds in MODALITIES.items()},
            label=files.get("seg"),
        )
        for case, files in cases.items()
    ]


def read_labels(root: Path) -> tuple[tuple[Label, ...], tuple[int, ...]]:
    """What the codes of the masks mean in the year that is found; predictions are written in that year's own codes.

    Until 2021 the enhancing tumour is 4 and there is no 3, so a 3 can only be an enhancing tumour that somebody
    renumbered, and is read as such. From 2023 it is 3, and since 2024 a 4 is a resection cavity: nothing is merged.

    Raises:
        DataError: see `find`.
    """
    cases = _scan(root)
    common = (Label(code=0, name="background"), Label(code=1, name="NCR"), Label(code=2, name="ED"))
    if not any(_has_new_names(files) for files in cases.values()):
        return (*common, Label(code=4, name="ET", merged=(3,))), ()
    points = [int(match["time_point"]) for match in map(_GLIOMA.fullmatch, cases) if match]
    cavity = (Label(code=4, name="RC"),) if max(points) >= _POST_TREATMENT else ()
    return (*common, Label(code=3, name="ET"), *cavity), ()


def _scan(root: Path) -> Cases:
    """Case -> what its files call themselves -> file, for all cases that have an image."""
    found: dict[Path, Cases] = defaultdict(lambda: defaultdict(dict))
    for file in sorted(root.rglob("*.nii*")):
        match = _FILE.fullmatch(file.name)
        if not match or not file.is_file():
            continue
        files, kind = found[file.parent][match["case"]], match["kind"].lower()
        if kind in files:
            raise DataError(f"expected one {kind} of {match['case']}, found {files[kind]} and {file.name}", hint=_ONE)
        files[kind] = file
    cases: Cases = {}
    for folder, inside in found.items():
        for case, files in inside.items():
            if files.keys() <= {"seg"}:
                continue  # somebody's prediction, or a mask that was set aside
            if case in cases:
                other = next(iter(cases[case].values())).parent
                raise DataError(f"expected the case {case} once in {root}, found it in {other} and {folder}", hint=_ONE)
            for odd in (folder / f"{ODD_MASKS.get(case)}{end}" for end in (".nii", ".nii.gz")):
                if odd.is_file():
                    files.setdefault("seg", odd)
            cases[case] = files
    _require_one_convention(root, cases)
    return cases


_ONE = "keep one of them"


def _has_new_names(files: dict[str, Path]) -> bool:
    return any(kind in files for _, kind in MODALITIES.values())


def _require_one_convention(root: Path, cases: Cases) -> None:
    new = [case for case, files in cases.items() if _has_new_names(files)]
    foreign = [case for case in new if not _GLIOMA.fullmatch(case)]
    if foreign:
        raise DataError(
            f"expected cases BraTS-GLI-NUMBER-TIMEPOINT in {root}, found {foreign[0]}",
            hint="the codes of the other challenges mean other things: name the folder of the adult gliomas",
        )
    if new and len(new) < len(cases):
        old = next(case for case in cases if case not in new)
        raise DataError(
            f"expected years of one set of label codes in {root}, found {old} (enhancing tumour 4) "
            f"and {new[0]} (enhancing tumour 3)",
            hint="name the folder of one year",
        )
