"""Miniatures of iSEG: Analyze pairs with the names, codes and types of the challenge."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nibabel.analyze import AnalyzeHeader, AnalyzeImage

from segkit.dataset import Dataset, open_dataset, read_image, read_images, read_label
from segkit.errors import DataError
from segkit_iseg2017 import segkit_datasets

SHAPE = (18, 24, 32)
CODES = (10, 150, 250)
MEANS = {"T1": {10: 200, 150: 520, 250: 560}, "T2": {10: 900, 150: 500, 250: 470}}


def save(path: Path, data: np.ndarray) -> None:
    header = AnalyzeHeader(endianness="<")
    header.set_data_dtype(data.dtype)
    nibabel.save(AnalyzeImage(data[..., None], None, header), path)


@pytest.fixture
def make_set(shells, intensities):
    def make(folder: Path, numbers: list[int], *, labelled: bool) -> Path:
        folder.mkdir(parents=True)
        for number in numbers:
            label = shells((20, *SHAPE[1:]) if number == 23 else SHAPE, CODES)  # 23 is larger in the challenge, too
            for modality, means in MEANS.items():
                save(folder / f"subject-{number}-{modality}.hdr", intensities(label, means))
            if labelled:
                save(folder / f"subject-{number}-label.hdr", label)
        return folder

    return make


@pytest.fixture
def root(make_set, tmp_path) -> Path:
    """2017, with what macOS adds to its archives."""
    make_set(tmp_path / "iSeg-2017-Training", [1, 2, 10], labelled=True)
    make_set(tmp_path / "iSeg-2017-Testing", [11, 23], labelled=False)
    rubbish = tmp_path / "__MACOSX" / "iSeg-2017-Training"
    rubbish.mkdir(parents=True)
    for folder in (rubbish, tmp_path / "iSeg-2017-Training"):
        (folder / "._subject-3-T1.hdr").write_bytes(b"\0\5\26\7")
    return tmp_path


def open_iseg(root: Path) -> Dataset:
    (card,) = segkit_datasets()
    return open_dataset(card, root)


def ids(dataset: Dataset) -> list[str]:
    return [subject.id for subject in dataset.subjects]


def test_both_folders_are_found_and_the_first_subject_is_subject_1(root):
    dataset = open_iseg(root)
    assert ids(dataset) == ["subject-1", "subject-2", "subject-10", "subject-11", "subject-23"]
    assert [subject.id for subject in dataset.labelled] == ["subject-1", "subject-2", "subject-10"]
    assert list(dataset.subjects[0].images) == ["T1", "T2"]


def test_training_folder_alone_is_a_root(root):
    dataset = open_iseg(root / "iSeg-2017-Training")
    assert ids(dataset) == ["subject-1", "subject-2", "subject-10"]
    assert dataset.labelled == dataset.subjects


def test_2019_with_its_third_folder_and_folders_in_folders_of_their_name(make_set, tmp_path):
    name = "iSeg-2019-Training"
    make_set(tmp_path / name / name, [1, 2], labelled=True)
    make_set(tmp_path / "iSeg-2019-Validation", [11], labelled=False)
    make_set(tmp_path / "iSeg-2019-Testing", [24], labelled=False)
    dataset = open_iseg(tmp_path)
    assert ids(dataset) == ["subject-1", "subject-2", "subject-11", "subject-24"]
    assert [subject.id for subject in dataset.labelled] == ["subject-1", "subject-2"]


def test_labels_are_classes_on_the_grid_of_the_images(root, shells):
    dataset = open_iseg(root)
    subject = dataset.subjects[0]
    label = read_label(subject, dataset.scheme)
    _, (t1, t2) = read_images(subject, ["T1", "T2"])
    assert [entry.name for entry in dataset.scheme.labels] == ["background", "CSF", "GM", "WM"]
    np.testing.assert_array_equal(np.array([0, *CODES])[label.data], shells(SHAPE, CODES))
    for image in (t1, t2):
        np.testing.assert_array_equal(image.affine, label.affine)
        np.testing.assert_array_equal(image.data != 0, label.data != 0)


def test_axes_are_those_that_nibabel_takes_plain_analyze_to_have(root):
    subject = open_iseg(root).subjects[0]
    image = read_image(subject, "T1")
    assert image.orientation == "LAS"
    np.testing.assert_array_equal(image.affine, AnalyzeImage.load(subject.images["T1"]).affine)


def test_each_file_of_a_subject_tells_it_from_others(root):
    """Headers of two label files are the same bytes; who looks whether a subject was trained on must see the voxels."""
    for subject in open_iseg(root).subjects:
        assert {file.suffix for file in (*subject.images.values(), subject.label) if file} == {".img"}


@pytest.mark.parametrize("lost", ["T1.img", "T1.hdr", "T2.hdr", "T2.img", "label.hdr", "label.img"])
def test_half_a_subject_is_refused_with_the_name_of_the_file(lost, root):
    (root / "iSeg-2017-Training" / f"subject-2-{lost}").unlink()
    with pytest.raises(
        DataError,
        match=rf"expected T1, T2, label of subject-2 in .*, each as \.hdr and \.img, found no subject-2-{lost}; unpack",
    ):
        open_iseg(root)


def test_training_subject_without_any_label_file_is_refused(root):
    for file in (root / "iSeg-2017-Training").glob("subject-10-label.*"):
        file.unlink()
    with pytest.raises(DataError, match=r"found no subject-10-label\.hdr, subject-10-label\.img; unpack"):
        open_iseg(root)


def test_test_subject_without_t2_is_refused(root):
    (root / "iSeg-2017-Testing" / "subject-11-T2.img").unlink()
    with pytest.raises(DataError, match=r"expected T1, T2 of subject-11 in .*Testing, .* found no subject-11-T2\.img;"):
        open_iseg(root)


def test_misspelt_file_shows_as_the_one_that_is_missing(root):
    folder = root / "iSeg-2017-Training"
    (folder / "subject-2-T2.hdr").rename(folder / "subject-2-t2.hdr")
    with pytest.raises(DataError, match=r"found no subject-2-T2\.hdr; unpack"):
        open_iseg(root)


def test_2017_and_2019_in_one_folder_are_refused_since_they_number_alike(root):
    shutil.copytree(root / "iSeg-2017-Training", root / "iSeg-2019-Training")
    with pytest.raises(
        DataError, match=r"expected subject-1 once in .*, found it in .*2017-Training and .*2019-Training; name the"
    ):
        open_iseg(root)


def test_folder_without_subjects_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"expected subjects of the data set 'iseg2017' in .*, found none"):
        open_iseg(tmp_path)


def test_card_names_what_the_challenge_published():
    (card,) = segkit_datasets()
    assert card.name == "iseg2017"
    assert [(label.code, label.name) for label in card.labels] == [
        (0, "background"),
        (10, "CSF"),
        (150, "GM"),
        (250, "WM"),
    ]
    assert card.ignored == ()
    assert card.reference.doi == "10.1109/TMI.2019.2901712"
