"""The Decathlon on a miniature of Task01_BrainTumour, as it comes out of its tar."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from segkit import Registry
from segkit.dataset import Dataset, open_dataset, read_images, read_label
from segkit.errors import DataError

SHAPE = (12, 12, 8)
MODALITIES = ["FLAIR", "T1w", "t1gd", "T2w"]


def save(path: Path, data: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), path)


@pytest.fixture
def description() -> dict[str, Any]:
    return {
        "name": "BRATS",
        "description": "a miniature",
        "licence": "CC-BY-SA 4.0",
        "relase": "1.0 04/05/2018",
        "tensorImageSize": "4D",
        "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
        "labels": {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"},
        "numTraining": 2,
        "numTest": 1,
        "training": [
            {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}
            for name in ("BRATS_001", "BRATS_010")
        ],
        "test": ["./imagesTs/BRATS_485.nii.gz"],
    }


@pytest.fixture
def task(tmp_path: Path, description, shells, intensities) -> Path:
    """Images float32 (X, Y, Z, 4), labels uint8, and what macOS put beside them."""
    root = tmp_path / "Task01_BrainTumour"
    label = shells(SHAPE, (1, 2, 3))
    image = np.stack([intensities(label, dict.fromkeys((1, 2, 3), 200 * (i + 1))) for i in range(4)], axis=-1)
    for name in ("BRATS_001", "BRATS_010"):
        save(root / "imagesTr" / f"{name}.nii.gz", image.astype(np.float32))
        save(root / "labelsTr" / f"{name}.nii.gz", label)
        (root / "imagesTr" / f"._{name}.nii.gz").write_bytes(b"\0\5\26\7")
    save(root / "imagesTs" / "BRATS_485.nii.gz", image.astype(np.float32))
    return describe(root, description)


def describe(root: Path, content: object) -> Path:
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def open_task(registry: Registry, root: Path) -> Dataset:
    return open_dataset(registry.card("dataset", "decathlon"), root)


def test_training_is_labelled_and_test_is_not(registry, task):
    dataset = open_task(registry, task)
    assert [subject.id for subject in dataset.subjects] == ["BRATS_001", "BRATS_010", "BRATS_485"]
    assert [subject.id for subject in dataset.labelled] == ["BRATS_001", "BRATS_010"]


def test_modalities_come_from_the_fourth_axis_under_the_names_of_the_json(registry, task):
    subject = open_task(registry, task).subjects[0]
    assert list(subject.images) == MODALITIES
    _, images = read_images(subject, MODALITIES)
    assert {image.shape for image in images} == {SHAPE}
    np.testing.assert_allclose([i.data[i.data > 0].mean() for i in images], [200, 400, 600, 800], atol=10)


def test_classes_have_the_names_of_the_json(registry, task):
    dataset = open_task(registry, task)
    assert [(label.code, label.name) for label in dataset.scheme.labels] == [
        (0, "background"),
        (1, "edema"),
        (2, "non-enhancing tumor"),
        (3, "enhancing tumour"),
    ]
    assert set(np.unique(read_label(dataset.subjects[0], dataset.scheme).data)) == {0, 1, 2, 3}


def test_classes_are_in_the_order_of_their_codes_however_the_json_lists_them(registry, task, description):
    labels = {"10": "c", "2": "b", "0": "background"}
    dataset = open_task(registry, describe(task, {**description, "labels": labels}))
    assert [label.code for label in dataset.scheme.labels] == [0, 2, 10]


def test_task_of_one_modality_has_3d_images(registry, tmp_path, shells, intensities):
    label = shells(SHAPE, (1, 2))
    save(tmp_path / "imagesTr" / "hippocampus_001.nii.gz", intensities(label, {1: 200, 2: 400}))
    save(tmp_path / "labelsTr" / "hippocampus_001.nii.gz", label)
    content = {
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "Anterior", "2": "Posterior"},
        "training": [
            {"image": "./imagesTr/hippocampus_001.nii.gz", "label": "./labelsTr/hippocampus_001.nii.gz"},
        ],
    }
    (subject,) = open_task(registry, describe(tmp_path, content)).subjects
    _, (image,) = read_images(subject, ["MRI"])
    assert image.shape == SHAPE


def test_listed_appledouble_files_are_no_subjects(registry, task, description):
    description["training"].append({"image": "./imagesTr/._BRATS_001.nii.gz", "label": "./labelsTr/._BRATS_001.nii.gz"})
    assert len(open_task(registry, describe(task, description)).subjects) == 3


def test_test_entries_may_be_objects_as_training_entries_are(registry, task, description):
    description["test"] = [{"image": "./imagesTs/BRATS_485.nii.gz"}]
    assert open_task(registry, describe(task, description)).subjects[-1].label is None


def test_folder_above_the_tasks_is_refused_with_the_tasks_it_holds(registry, task):
    with pytest.raises(
        DataError, match=r"expected dataset\.json in .*, found none; name the folder of one task: Task01_BrainTumour"
    ):
        open_task(registry, task.parent)


@pytest.mark.parametrize("path", ["../other/BRATS_001.nii.gz", "./imagesTr/../../x.nii.gz", "/etc/x.nii.gz"])
@pytest.mark.parametrize("key", ["image", "label"])
def test_path_that_leaves_the_folder_is_refused(key, path, registry, task, description):
    description["training"][0][key] = path
    with pytest.raises(DataError, match=r"expected files inside its folder in .*dataset\.json, found \""):
        open_task(registry, describe(task, description))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": None}, r"expected names by number under 'labels' in .*, found null"),
        ({"labels": {"background": 0}}, r"expected names by number under 'labels'"),
        ({"labels": {"1": "edema"}}, r"expected different names from 0 up under 'labels'"),
        ({"labels": {"0": "a", "1": "a"}}, r"expected different names from 0 up under 'labels'"),
        ({"modality": {"0": "FLAIR", "2": "T1w"}}, r"expected a modality for each place along the fourth axis"),
        ({"modality": ["FLAIR"]}, r"expected names by number under 'modality' in .*, found \[\"FLAIR\"\]"),
        ({"training": {}}, r"expected a list under 'training' in .*, found \{\}"),
        ({"training": [{"image": "./a.nii.gz"}]}, r"expected an image, and of training a label, in each entry"),
        ({"test": ["./imagesTr/BRATS_001.nii.gz"]}, r"expected each subject once in .*, found \"BRATS_001\""),
    ],
)
def test_description_that_does_not_say_what_is_needed_is_refused(change, message, registry, task, description):
    with pytest.raises(DataError, match=message):
        open_task(registry, describe(task, {**description, **change}))


@pytest.mark.parametrize(("text", "message"), [("{", r"expected JSON in .*; copy it again"), ("[]", "an object in")])
def test_damaged_description_is_refused(text, message, registry, task):
    (task / "dataset.json").write_text(text)
    with pytest.raises(DataError, match=message):
        open_task(registry, task)
