import json
import subprocess
import sys
from pathlib import Path

import pytest

from segkit.errors import DataError
from segkit_phantom import segkit_datasets
from segkit_phantom.layout import find


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data set of three subjects whose files are empty."""
    (tmp_path / "dataset.json").write_text(json.dumps({"channels": {"T2": {}, "T1": {}}}))
    for subject in ("sub-010", "sub-002", "sub-1000"):
        (tmp_path / subject).mkdir()
        for name in ("T1", "T2", "label"):
            (tmp_path / subject / f"{name}.nii.gz").touch()
    return tmp_path


def test_subjects_come_by_number_and_modalities_in_channel_order(root: Path) -> None:
    subjects = find(root)
    assert [subject.id for subject in subjects] == ["sub-002", "sub-010", "sub-1000"]
    assert list(subjects[0].images) == ["T2", "T1"]
    assert subjects[0].images["T1"] == root / "sub-002" / "T1.nii.gz"
    assert subjects[0].label == root / "sub-002" / "label.nii.gz"


def test_half_made_subjects_and_other_files_are_no_subjects(root: Path) -> None:
    (root / ".sub-003.123").mkdir()
    (root / "sub-extra").mkdir()
    (root / "sub-004").touch()
    assert len(find(root)) == 3


@pytest.mark.parametrize("lost", ["T1.nii.gz", "label.nii.gz"])
def test_a_subject_without_one_of_its_files_is_named(lost: str, root: Path) -> None:
    (root / "sub-010" / lost).unlink()
    with pytest.raises(DataError, match=f"of the phantom sub-010, found no {lost}; make the data set again"):
        find(root)


def test_a_folder_without_description_is_no_phantom(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected dataset.json in .*, found none; name the folder of a phantom"):
        find(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "expected JSON in"),
        ("[1]", r"expected an object in .*, found \[1\]"),
        ("{}", "expected channels in .*, found none"),
        ('{"channels": ["T1"]}', "expected channels in .*, found none"),
    ],
)
def test_a_damaged_description_is_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(DataError, match=message):
        find(tmp_path)


def test_the_card_names_classes_presets_and_what_is_ignored() -> None:
    (card,) = segkit_datasets()
    assert card.name == "phantom"
    assert [(label.code, label.name) for label in card.labels] == [(0, "background"), (1, "CSF"), (2, "GM"), (3, "WM")]
    assert card.ignored == (7, 8)
    assert set(card.presets) == {"mini", "adult", "iseg", "mrbrains"}
    assert card.load() is find


def test_the_card_costs_no_array_library() -> None:
    heavy = "numpy scipy torch SimpleITK nibabel nilearn"
    script = (
        "import sys; sys.path[:] = sys.argv[1].split(':');"
        "from segkit_phantom import segkit_datasets; segkit_datasets();"
        f"print([name for name in '{heavy}'.split() if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, ":".join(sys.path)], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
