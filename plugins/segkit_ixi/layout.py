"""How IXI lies on disk: DIR/T1/IXI002-Guys-0828-T1.nii.gz, DIR/T2/IXI002-Guys-0828-T2.nii.gz, likewise PD and MRA."""

from __future__ import annotations

import re
from pathlib import Path

from segkit import Subject
from segkit.errors import DataError

MODALITIES = ("T1", "T2", "PD", "MRA")


def find(root: Path) -> list[Subject]:
    """The subjects of IXI, each with the modalities that it has.

    Args:
        root: the folder that holds one folder per modality.

    Raises:
        DataError: a file has the name of another modality, or of no subject.
    """
    images: dict[str, dict[str, Path]] = {}
    for modality in MODALITIES:
        for file in sorted((root / modality).glob("[!.]*.nii.gz")):
            match = re.fullmatch(rf"(IXI\d+-\w+-\d+)-{modality}\.nii\.gz", file.name)
            if match is None:
                raise DataError(
                    f"expected names such as IXI002-Guys-0828-{modality}.nii.gz in {file.parent}, found {file.name}",
                    hint="move it elsewhere",
                )
            images.setdefault(match[1], {})[modality] = file
    return [Subject(id=id_, images=files) for id_, files in images.items()]
