"""BraTS on miniatures in the exact layouts of its years."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from segkit import Registry, Volume, write_volume
from segkit.dataset import Dataset, open_dataset, read_images, read_label
from segkit.errors import DataError

OLD, NEW = ("t1", "t1ce", "t2", "flair"), ("t1n", "t1c", "t2w", "t2f")
MODALITIES = ["T1", "T1ce", "T2", "FLAIR"]
MEANS = {"t1": 200, "t1ce": 400, "t2": 600, "flair": 800} | {"t1n": 200, "t1c": 400, "t2w": 600, "t2f": 800}
SHAPE = (12, 12, 8)

TRAINING_2018 = "MICCAI_BraTS_2018_Data_Training"
TRAINING_2020 = "MICCAI_BraTS2020_TrainingData"
TRAINING_2023 = "ASNR-MICCAI-BraTS2023-GLI-Challenge-TrainingData"

MakeCase = Callable[..., Path]


@pytest.fixture
def make_case(tmp_path: Path, shells, intensities) -> MakeCase:
    """`make_case("parent/case")`: int16 images and a uint8 mask, in the folder of the case."""

    def make(
        case: str,
        *,
        kinds: Sequence[str] = OLD,
        separator: str = "_",
        end: str = ".nii.gz",
        codes: Sequence[int] = (2, 1, 4),
        mask: str | None = "",
    ) -> Path:
        folder = tmp_path / case
        label = shells(SHAPE, codes)
        affine = np.diag([-1.0, -1, 1, 1])
        for kind in kinds:
            image = intensities(label, dict.fromkeys(codes, MEANS[kind]))
            write_volume(folder / f"{folder.name}{separator}{kind}{end}", Volume(image, affine))
        if mask is not None:
            write_volume(folder / f"{mask or folder.name + separator + 'seg'}{end}", Volume(label, affine))
        return folder

    return make


@pytest.fixture
def open_brats(tmp_path: Path, registry: Registry) -> Callable[[], Dataset]:
    return lambda: open_dataset(registry.card("dataset", "brats"), tmp_path)


LAYOUTS = {
    "2018": ((f"{TRAINING_2018}/HGG/Brats18_CBICA_AAB_1", f"{TRAINING_2018}/LGG/Brats18_TCIA10_325_1"), {}),
    "2020": ((f"{TRAINING_2020}/BraTS20_Training_001", f"{TRAINING_2020}/BraTS20_Training_002"), {"end": ".nii"}),
    "2021": (("BraTS2021_00000", "BraTS2021_00002"), {}),
    "2023": (
        (f"{TRAINING_2023}/BraTS-GLI-00000-000", f"{TRAINING_2023}/BraTS-GLI-00002-001"),
        {"kinds": NEW, "separator": "-", "codes": (2, 1, 3)},
    ),
    "2024": (
        ("training_data1_v2/BraTS-GLI-00005-100", "training_data1_v2/BraTS-GLI-00005-101"),
        {"kinds": NEW, "separator": "-", "codes": (2, 1, 3, 4)},
    ),
}


@pytest.mark.parametrize("year", LAYOUTS)
def test_cases_of_a_year_are_found_with_their_modalities_in_one_order(year, make_case, open_brats):
    cases, how = LAYOUTS[year]
    for case in cases:
        make_case(case, **how)
    dataset = open_brats()
    assert [subject.id for subject in dataset.labelled] == [Path(case).name for case in cases]
    for subject in dataset.subjects:
        assert list(subject.images) == MODALITIES
        _, images = read_images(subject, MODALITIES)
        # t1ce is not taken for t1: each image has the brightness that was written under its name.
        means = [image.data[image.data > 0].mean() for image in images]
        np.testing.assert_allclose(means, [200, 400, 600, 800], atol=10)


@pytest.mark.parametrize(
    ("year", "codes"),
    [
        ("2018", {"background": 0, "NCR": 1, "ED": 2, "ET": 4}),
        ("2020", {"background": 0, "NCR": 1, "ED": 2, "ET": 4}),
        ("2021", {"background": 0, "NCR": 1, "ED": 2, "ET": 4}),
        ("2023", {"background": 0, "NCR": 1, "ED": 2, "ET": 3}),
        ("2024", {"background": 0, "NCR": 1, "ED": 2, "ET": 3, "RC": 4}),
    ],
)
def test_labels_are_those_of_the_year(year, codes, make_case, open_brats):
    (case, _), how = LAYOUTS[year]
    make_case(case, **how)
    dataset = open_brats()
    assert {label.name: label.code for label in dataset.scheme.labels} == codes
    label = read_label(dataset.subjects[0], dataset.scheme)
    assert set(np.unique(label.data)) == set(range(len(codes)))


def test_enhancing_tumour_renumbered_to_3_in_an_old_year_is_read_as_such(make_case, open_brats):
    make_case("BraTS2021_00000", codes=(2, 1, 3))
    dataset = open_brats()
    assert read_label(dataset.subjects[0], dataset.scheme).data.max() == 3


def test_code_4_in_2023_is_refused_since_there_it_has_no_meaning(make_case, open_brats):
    make_case("BraTS-GLI-00000-000", kinds=NEW, separator="-", codes=(2, 1, 4))
    dataset = open_brats()
    with pytest.raises(DataError, match=r"expected the label codes 0, 1, 2, 3 in .*seg\.nii\.gz, found 4"):
        read_label(dataset.subjects[0], dataset.scheme)


def test_mask_that_was_published_under_an_odd_name_is_found(make_case, open_brats):
    make_case(f"{TRAINING_2020}/BraTS20_Training_355", end=".nii", mask="W39_1998.09.19_Segm")
    (subject,) = open_brats().labelled
    assert subject.label is not None
    assert subject.label.name == "W39_1998.09.19_Segm.nii"


def test_validation_cases_have_no_label(make_case, open_brats):
    make_case("MICCAI_BraTS2020_ValidationData/BraTS20_Validation_001", mask=None)
    make_case(f"{TRAINING_2020}/BraTS20_Training_001")
    dataset = open_brats()
    assert len(dataset.subjects) == 2
    assert [subject.id for subject in dataset.labelled] == ["BraTS20_Training_001"]


@pytest.mark.parametrize(
    ("lost", "name"), [("t1", "T1"), ("t1ce", "T1ce"), ("flair", "FLAIR")], ids=["t1", "t1ce", "flair"]
)
def test_missing_modality_is_named_with_its_case(lost, name, make_case, open_brats):
    make_case("BraTS2021_00000")
    (make_case("BraTS2021_00002") / f"BraTS2021_00002_{lost}.nii.gz").unlink()
    with pytest.raises(DataError, match=rf"expected T1, T1ce, T2, FLAIR of every .* no {name} of BraTS2021_00002;"):
        open_brats()


def test_all_missing_files_are_counted(make_case, open_brats):
    for number in range(2):
        make_case(f"BraTS2021_0000{number}", kinds=("flair",))
    with pytest.raises(DataError, match=r"no T1 of BraTS2021_00000, no T1ce of .* and 1 more; copy"):
        open_brats()


def test_same_case_in_two_folders_is_refused(make_case, open_brats):
    make_case("a/BraTS2021_00000")
    make_case("b/BraTS2021_00000")
    with pytest.raises(DataError, match=r"expected the case BraTS2021_00000 once .* in .*/a/.* and .*/b/"):
        open_brats()


def test_zipped_and_unzipped_image_of_one_case_are_refused(make_case, open_brats):
    make_case("BraTS2021_00000")
    make_case("BraTS2021_00000", kinds=("t2",), end=".nii", mask=None)
    with pytest.raises(DataError, match=r"expected one t2 of BraTS2021_00000, found .*t2\.nii and .*t2\.nii\.gz"):
        open_brats()


def test_years_whose_codes_differ_are_not_mixed(make_case, open_brats):
    make_case("BraTS2021_00000")
    make_case("BraTS-GLI-00000-000", kinds=NEW, separator="-", codes=(2, 1, 3))
    with pytest.raises(DataError, match=r"one set of label codes .*, found BraTS2021_00000 .* and BraTS-GLI-00000-000"):
        open_brats()


def test_challenge_of_another_tumour_is_refused(make_case, open_brats):
    make_case("BraTS-PED-00001-000", kinds=NEW, separator="-")
    with pytest.raises(DataError, match=r"expected cases BraTS-GLI-NUMBER-TIMEPOINT in .*, found BraTS-PED-00001-000"):
        open_brats()


def test_other_files_are_no_cases(make_case, open_brats, tmp_path):
    folder = make_case("BraTS2021_00000")
    (folder / "._BraTS2021_00000_t1.nii.gz").write_bytes(b"\0\5\26\7")
    (folder / "BraTS2021_00000_mask.nii.gz").touch()
    (tmp_path / "predictions").mkdir()
    (tmp_path / "predictions" / "BraTS2021_00009_seg.nii.gz").touch()
    (tmp_path / "IXI002-Guys-0828-T1.nii.gz").touch()
    assert [subject.id for subject in open_brats().subjects] == ["BraTS2021_00000"]


def test_folder_without_a_case_is_refused(open_brats, tmp_path):
    (tmp_path / "notes").mkdir()
    with pytest.raises(DataError, match=r"expected subjects of the data set 'brats' in .*, found none"):
        open_brats()
