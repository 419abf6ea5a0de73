"""Miniatures of MRBrainS 2018: names, codes, types and voxel sizes of the challenge."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Image

from segkit.dataset import IGNORE, Dataset, open_dataset, read_images, read_label
from segkit.errors import DataError, UnknownName
from segkit_mrbrains2018 import segkit_datasets

SHAPE = (24, 24, 8)
SPACING_MM = (0.958, 0.958, 3.0)
IDS = ("1", "4", "5", "7", "14", "070", "148")
NAMES = ("FLAIR", "reg_IR", "reg_T1")


def save(path: Path, data: np.ndarray, spacing_mm: tuple[float, ...] = SPACING_MM) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(Nifti1Image(data, np.diag([*spacing_mm, 1])), path)


@pytest.fixture(scope="session")
def codes(shells) -> np.ndarray:
    """Every code from 0 to 10, float32 as in the challenge."""
    label = shells(SHAPE, (5, 1, 3, 2, 6))
    label[12, 6:18, 3] = 4
    label[:, :, :2][label[:, :, :2] > 0] = 7
    label[11:13, 11:13, 1] = 8
    label[6, 12, 4], label[17, 12, 4] = 9, 10
    return label.astype(np.float32)


@pytest.fixture(scope="session")
def original(tmp_path_factory, codes, intensities) -> Path:
    """A root with all seven training subjects and one test subject."""
    root = tmp_path_factory.mktemp("mrbrains")
    for head in (*(root / "training" / id_ for id_ in IDS), root / "test" / "2"):
        for folder, dtype, factor in (("orig", np.int16, 1), ("pre", np.float32, 2)):
            for offset, name in enumerate(NAMES):
                means = {code: factor * (100 + 30 * code + 10 * offset) for code in range(1, 11)}
                save(head / folder / f"{name}.nii.gz", intensities(codes, means).astype(dtype))
            for name in ("IR", "T1"):  # on grids of their own
                save(head / folder / f"{name}.nii.gz", np.ones((10, 10, 10), np.int16), (1, 1, 1))
        (head / "orig" / "reg_3DT1_to_FLAIR.txt").write_text("parameters")
        if head.parent.name == "training":
            save(head / "segm.nii.gz", codes)
    return root


@pytest.fixture
def root(original, tmp_path) -> Path:
    """A copy to spoil."""
    return shutil.copytree(original, tmp_path / "mrbrains")


def open_mrbrains(root: Path, **options: str | int) -> Dataset:
    card = next(card for card in segkit_datasets() if card.name == "mrbrains2018")
    return open_dataset(card, root, options)


def test_training_and_test_subjects_are_found_under_their_own_ids(original):
    dataset = open_mrbrains(original)
    assert [subject.id for subject in dataset.labelled] == ["1", "4", "5", "7", "14", "070", "148"]
    assert [subject.id for subject in dataset.subjects if subject.label is None] == ["2"]


def test_training_folder_alone_is_a_root(original):
    dataset = open_mrbrains(original / "training")
    assert len(dataset.subjects) == 7
    assert dataset.labelled == dataset.subjects


@pytest.mark.parametrize(("options", "folder"), [({}, "pre"), ({"images": "original"}, "orig")])
def test_option_images_chooses_the_folder_and_the_registered_files(options, folder, original):
    dataset = open_mrbrains(original, **options)
    subject = dataset.labelled[0]
    assert {name: str(path.relative_to(original)) for name, path in subject.images.items()} == {
        "T1": f"training/1/{folder}/reg_T1.nii.gz",
        "T1-IR": f"training/1/{folder}/reg_IR.nii.gz",
        "FLAIR": f"training/1/{folder}/FLAIR.nii.gz",
    }
    first, volumes = read_images(subject, list(subject.images))
    assert first.spacing_mm == pytest.approx(SPACING_MM)
    assert {volume.shape for volume in volumes} == {SHAPE}


def test_four_classes_merge_as_the_challenge_of_2013_did_and_ignore_the_rest(original, codes):
    dataset = open_mrbrains(original)
    assert [label.name for label in dataset.scheme.labels] == ["background", "CSF", "GM", "WM"]
    label = read_label(dataset.labelled[0], dataset.scheme).data
    classes = {0: 0, 1: 2, 2: 2, 3: 3, 4: 3, 5: 1, 6: 1, 7: IGNORE, 8: IGNORE, 9: IGNORE, 10: IGNORE}
    for code, index in classes.items():
        assert np.unique(label[codes == code]).tolist() == [index], code


@pytest.mark.parametrize(("number", "ignored"), [(8, (9, 10)), (10, ())])
def test_more_classes_keep_the_codes_as_they_are(number, ignored, original, codes):
    dataset = open_mrbrains(original, labels=number)
    assert [label.code for label in dataset.scheme.labels] == list(range(number + 1))
    assert dataset.scheme.ignored == ignored
    label = read_label(dataset.labelled[0], dataset.scheme).data
    np.testing.assert_array_equal(label, np.where(np.isin(codes, ignored), IGNORE, codes))


def test_classes_have_the_names_of_the_challenge(original):
    names = [label.name for label in open_mrbrains(original, labels=10).scheme.labels]
    assert (names[1], names[4], names[6], names[8], names[9]) == (
        "cortical GM",
        "WM lesions",
        "ventricles",
        "brain stem",
        "infarction",
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": "correct"}, r"no images of mrbrains2018 'correct'; did you mean 'corrected'\?"),
        ({"labels": 3}, r"no number of labels of MRBrainS '3'; known: 10, 4, 8"),
        ({"label": 4}, r"no option of data set mrbrains2018 'label'; did you mean 'labels'\?"),
    ],
)
def test_unknown_option_is_refused(options, message, original):
    with pytest.raises(UnknownName, match=message):
        open_mrbrains(original, **options)


@pytest.mark.parametrize("lost", ["pre/reg_T1.nii.gz", "pre/reg_IR.nii.gz", "pre/FLAIR.nii.gz", "segm.nii.gz"])
def test_half_a_subject_is_refused_with_the_name_of_the_file(lost, root):
    (root / "training" / "070" / lost).unlink()
    with pytest.raises(
        DataError,
        match=rf"expected T1, T1-IR, FLAIR and a label of the subject 070, found no .*training/070/{lost}; unpack",
    ):
        open_mrbrains(root)


def test_subject_with_nothing_but_a_label_is_refused(root):
    for folder in ("pre", "orig"):
        shutil.rmtree(root / "training" / "148" / folder)
    with pytest.raises(DataError, match=r"of the subject 148, found no .*training/148/pre/reg_T1\.nii\.gz, .*; unpack"):
        open_mrbrains(root)


def test_images_that_were_not_asked_for_may_be_missing(root):
    for folder in root.glob("*/*/orig"):
        shutil.rmtree(folder)
    assert len(open_mrbrains(root).subjects) == 8
    with pytest.raises(DataError, match=r"of the subject 2, found no .*test/2/orig/reg_T1\.nii\.gz, .*; unpack"):
        open_mrbrains(root, images="original")


def test_subject_that_is_there_twice_is_refused(root):
    (root / "test" / "2").rename(root / "test" / "4")
    with pytest.raises(DataError, match=r"expected the subject 4 once in .*, found .*test/4 and .*training/4; name"):
        open_mrbrains(root)


def test_what_macos_adds_to_an_archive_is_no_subject(root):
    for name in ("__MACOSX/1", "__MACOSX/99", "training/._99"):
        (root / name / "pre").mkdir(parents=True)
    assert len(open_mrbrains(root).subjects) == 8
