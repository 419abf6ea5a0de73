"""Miniatures of BIDS folders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from segkit import Registry, Volume, write_volume
from segkit.dataset import Dataset, open_dataset

SHAPE = (10, 12, 8)
TABLE = "index\tname\n1\tCSF\n2\tGM\n3\tWM\n"


class Bids:
    """A raw data set that grows by `image`, `label` and `table`; names are those of the files, without ending."""

    def __init__(self, root: Path, registry: Registry, shells, intensities) -> None:
        self.root, self.card = root, registry.card("dataset", "bids")
        self.codes = shells(SHAPE, (1, 2, 3))
        self.intensities = intensities(self.codes, {1: 150, 2: 400, 3: 600})
        root.mkdir()
        self.describe(root)
        (root / "participants.tsv").write_text("participant_id\tage\nsub-01\t.5\n")

    def describe(self, folder: Path, **more: object) -> None:
        content = {"Name": folder.name, "BIDSVersion": "1.9.0", **more}
        (folder / "dataset_description.json").write_text(json.dumps(content))

    def image(self, *names: str, end: str = ".nii.gz") -> None:
        for name in names:
            file = self._anat(self.root, name) / f"{name}{end}"
            write_volume(file, Volume(self.intensities, np.eye(4)))
            file.with_name(f"{name}.json").write_text('{"RepetitionTime": 2.3, "EchoTime": 0.0045}')

    def label(self, *names: str, pipeline: str = "manual") -> None:
        folder = self.root / "derivatives" / pipeline
        for name in names:
            write_volume(self._anat(folder, name) / f"{name}_dseg.nii.gz", Volume(self.codes, np.eye(4)))
        self.describe(folder, DatasetType="derivative", GeneratedBy=[{"Name": pipeline}])

    def table(self, place: str = "derivatives/manual/dseg.tsv", text: str = TABLE) -> None:
        (self.root / place).write_text(text)

    def open(self, **options: str | int) -> Dataset:
        return open_dataset(self.card, self.root, options)

    def _anat(self, root: Path, name: str) -> Path:
        return root.joinpath(*[part for part in name.split("_") if part[:4] in ("sub-", "ses-")], "anat")


@pytest.fixture
def bids(tmp_path: Path, registry: Registry, shells, intensities) -> Bids:
    """A BIDS folder without any subject."""
    return Bids(tmp_path / "bids", registry, shells, intensities)


@pytest.fixture
def heads(bids: Bids) -> Bids:
    """Two subjects of three modalities, with labels and their table."""
    for subject in ("sub-01", "sub-02"):
        bids.image(*[f"{subject}_{suffix}" for suffix in ("FLAIR", "T2w", "T1w")])
        bids.label(subject)
    bids.table()
    return bids
