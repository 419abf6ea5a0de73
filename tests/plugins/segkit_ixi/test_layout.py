"""Miniatures of IXI: a folder per modality, grids that differ, subjects that lack a modality."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Image

from segkit.dataset import Dataset, open_dataset, read_images
from segkit.errors import DataError
from segkit_ixi import segkit_datasets

GRIDS = {"T1": ((16, 18, 12), (0.94, 0.94, 1.2)), "T2": ((18, 18, 10), (0.9, 0.9, 1.25))}
IDS = ("IXI002-Guys-0828", "IXI012-HH-1211", "IXI035-IOP-0873")


@pytest.fixture
def root(shells, intensities, tmp_path) -> Path:
    """T1 of three subjects, T2 of two, one of which has no T1."""
    for modality, (shape, spacing_mm) in GRIDS.items():
        (tmp_path / modality).mkdir()
        image = intensities(shells(shape, (1, 2, 3)), {1: 150, 2: 400, 3: 600})
        for id_ in {"T1": IDS, "T2": (IDS[0], "IXI580-IOP-1157")}[modality]:
            nibabel.save(
                Nifti1Image(image, np.diag([*spacing_mm, 1])), tmp_path / modality / f"{id_}-{modality}.nii.gz"
            )
    (tmp_path / "T1" / "._IXI002-Guys-0828-T1.nii.gz").write_bytes(b"\0\5\26\7")
    (tmp_path / "IXI.xls").touch()
    return tmp_path


def open_ixi(root: Path) -> Dataset:
    (card,) = segkit_datasets()
    return open_dataset(card, root)


def test_subjects_are_listed_with_the_modalities_that_they_have(root):
    dataset = open_ixi(root)
    assert {subject.id: list(subject.images) for subject in dataset.subjects} == {
        "IXI002-Guys-0828": ["T1", "T2"],
        "IXI012-HH-1211": ["T1"],
        "IXI035-IOP-0873": ["T1"],
        "IXI580-IOP-1157": ["T2"],
    }


def test_there_are_no_labels(root):
    dataset = open_ixi(root)
    assert dataset.labelled == ()
    assert dataset.scheme.labels == ()


def test_images_are_read_each_on_its_own_grid(root):
    _, volumes = read_images(open_ixi(root).subjects[0], ["T1", "T2"])
    for volume, (shape, spacing_mm) in zip(volumes, GRIDS.values(), strict=True):
        assert volume.shape == shape
        assert volume.spacing_mm == pytest.approx(spacing_mm)


@pytest.mark.parametrize("modality", ["PD", "MRA"])
def test_further_modalities_come_where_their_folders_are(modality, root):
    (root / modality).mkdir()
    (root / modality / f"IXI002-Guys-0828-{modality}.nii.gz").touch()
    assert list(open_ixi(root).subjects[0].images) == ["T1", "T2", modality]


@pytest.mark.parametrize("name", ["IXI002-Guys-0828-T2.nii.gz", "IXI002-T1.nii.gz", "brain.nii.gz"])
def test_file_of_another_name_is_refused(name, root):
    (root / "T1" / name).touch()
    with pytest.raises(
        DataError, match=rf"expected names such as IXI002-Guys-0828-T1\.nii\.gz in .*T1, found {name}; move it"
    ):
        open_ixi(root)


def test_folder_without_modalities_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"expected subjects of the data set 'ixi' in .*, found none"):
        open_ixi(tmp_path)
