"""Miniatures of MRBrainS 2013."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Image

from segkit.dataset import IGNORE, Dataset, open_dataset, read_label
from segkit.errors import DataError, UnknownName
from segkit_mrbrains2018 import segkit_datasets

SHAPE = (25, 25, 9)


def save(path: Path, data: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(Nifti1Image(data, np.diag([0.958, 0.958, 3, 1])), path)


@pytest.fixture
def codes(shells) -> np.ndarray:
    """Every code from 0 to 8."""
    label = shells(SHAPE, (8, 7, 6, 5, 4, 3, 2, 1))
    assert np.unique(label).tolist() == list(range(9))
    return label


@pytest.fixture
def root(codes, intensities, tmp_path) -> Path:
    for head in ("TrainingData/1", "TrainingData/2", "TestData/1"):
        for name in ("T1", "T1_1mm", "T1_IR", "T2_FLAIR"):
            save(tmp_path / head / f"{name}.nii", intensities(codes, {code: 90 * code for code in range(1, 9)}))
        if head.startswith("Training"):
            save(tmp_path / head / "LabelsForTraining.nii", codes)
            save(tmp_path / head / "LabelsForTesting.nii", np.array([0, 2, 2, 3, 3, 1, 1, 0, 0], np.uint8)[codes])
    return tmp_path


def open_mrbrains(root: Path, **options: int) -> Dataset:
    card = next(card for card in segkit_datasets() if card.name == "mrbrains2013")
    return open_dataset(card, root, options)


def test_subjects_of_both_folders_have_ids_of_their_own(root):
    dataset = open_mrbrains(root)
    assert [subject.id for subject in dataset.subjects] == ["test-1", "training-1", "training-2"]
    assert [subject.id for subject in dataset.labelled] == ["training-1", "training-2"]
    assert {name: path.name for name, path in dataset.subjects[0].images.items()} == {
        "T1": "T1.nii",
        "T1-IR": "T1_IR.nii",
        "FLAIR": "T2_FLAIR.nii",
    }


def test_four_classes_are_those_of_the_testing_labels_but_for_what_is_ignored(root, codes):
    dataset = open_mrbrains(root)
    label = read_label(dataset.labelled[0], dataset.scheme).data
    testing = np.asarray(nibabel.load(root / "TrainingData/1/LabelsForTesting.nii").dataobj)
    np.testing.assert_array_equal(label == IGNORE, codes >= 7)
    np.testing.assert_array_equal(label[codes < 7], testing[codes < 7])


def test_eight_classes_ignore_nothing(root, codes):
    dataset = open_mrbrains(root, labels=8)
    assert dataset.scheme.ignored == ()
    np.testing.assert_array_equal(read_label(dataset.labelled[0], dataset.scheme).data, codes)


def test_ten_classes_came_in_2018_only(root):
    with pytest.raises(UnknownName, match=r"no number of labels of MRBrainS '10'; known: 4, 8"):
        open_mrbrains(root, labels=10)


@pytest.mark.parametrize("lost", ["T1_IR.nii", "LabelsForTraining.nii"])
def test_half_a_subject_is_refused_with_the_name_of_the_file(lost, root):
    (root / "TrainingData" / "2" / lost).unlink()
    with pytest.raises(DataError, match=rf"and a label of the subject training-2, found no .*2/{lost}; unpack"):
        open_mrbrains(root)
