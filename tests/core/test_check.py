"""What `check_dataset` and `segkit data check` find in a data set: every defect, and no defect that is none."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from segkit import DatasetCard, Label, Subject, Volume, read_volume, write_volume
from segkit.check import SubjectCheck, check_dataset
from segkit.cli import cli, main
from segkit.dataset import Dataset, LabelScheme
from segkit.fakes import fake_registry, make_subjects

SHAPE = (8, 9, 10)
SCHEME = LabelScheme((Label(code=0, name="background"), Label(code=10, name="CSF"), Label(code=20, name="GM")), (99,))
AXES = np.diag([-1.0, 1, 2, 1])
FLIPPED = np.array([[1.0, 0, 0, 1 - SHAPE[0]], [0, 1, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]])
"""The same places as `AXES` has, counted from the other side."""


class Heads:
    """Subjects s1 to s3 with T1, T2 and a label; a test spoils what it wants before it calls `check`."""

    def __init__(self, root: Path) -> None:
        self.root, self.subjects = root, []
        for number in (1, 2, 3):
            rng = np.random.default_rng(number)
            folder = root / f"s{number}"
            codes = np.zeros(SHAPE, np.uint8)
            codes[2:6, 2:6, 2:6], codes[3, 3, 3 : 3 + number] = 10, 20
            images = {}
            for modality in ("T1", "T2"):
                images[modality] = folder / f"{modality}.nii.gz"
                data = rng.integers(1, 999, SHAPE).astype(np.int16)
                data[0] = 0
                write_volume(images[modality], Volume(data, AXES))
            write_volume(folder / "label.nii.gz", Volume(codes, AXES))
            self.subjects.append(Subject(id=folder.name, images=images, label=folder / "label.nii.gz"))

    def change(self, file: str, change: Callable[[np.ndarray], np.ndarray], affine: np.ndarray = AXES) -> None:
        path = self.root / file
        write_volume(path, Volume(change(read_volume(path).data.copy()), affine))

    def replace(self, number: int, **changes: object) -> None:
        self.subjects[number - 1] = replace(self.subjects[number - 1], **changes)

    def check(self, pictures: Path | None = None) -> dict[str, SubjectCheck]:
        card = DatasetCard(name="heads", factory="none:none", summary="for tests")
        return {c.id: c for c in check_dataset(Dataset(card, self.root, tuple(self.subjects), SCHEME), pictures)}

    def defects(self) -> list[tuple[str, str]]:
        return [(check.id, defect) for check in self.check().values() for defect in check.defects]

    def notes(self) -> list[tuple[str, str]]:
        return [(check.id, note) for check in self.check().values() for note in check.notes]


@pytest.fixture
def heads(tmp_path: Path) -> Heads:
    return Heads(tmp_path)


def put(where: object, value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(data: np.ndarray) -> np.ndarray:
        data[where] = value
        return data

    return change


class TestGoodData:
    def test_have_no_defect_and_no_note(self, heads):
        assert heads.defects() == []
        assert heads.notes() == []

    def test_geometry_is_as_the_files_have_it(self, heads):
        geometry = heads.check()["s1"].geometry["T2"]
        assert (geometry.shape, geometry.spacing_mm, geometry.orientation) == (SHAPE, (1, 1, 2), "LAS")

    def test_volumes_of_classes_are_in_millilitres(self, heads):
        heads.change("s2/label.nii.gz", put((5, 5, 5), 99))
        volumes = heads.check()["s2"].label_ml
        assert volumes == pytest.approx({"background": 1.312, "CSF": 0.122, "GM": 0.004, "ignored": 0.002})

    def test_unlabelled_subjects_are_looked_at_too(self, heads):
        heads.replace(1, label=None)
        check = heads.check()["s1"]
        assert (check.label, check.label_ml, check.defects) == (None, {}, [])
        assert list(check.geometry) == ["T1", "T2"]

    def test_storage_order_of_voxels_does_not_matter(self, heads):
        for file in ("s1/T2.nii.gz", "s2/label.nii.gz"):
            heads.change(file, lambda data: data[::-1], FLIPPED)
        assert heads.defects() == []
        assert heads.notes() == []


class TestFiles:
    def test_all_that_cannot_be_read_are_listed_with_the_readers_message(self, heads):
        (heads.root / "s1" / "T1.nii.gz").unlink()
        (heads.root / "s1" / "T2.nii.gz").write_bytes(b"")
        (heads.root / "s3" / "label.nii.gz").write_bytes(b"\x1f\x8bno")
        first, second, third = heads.defects()
        assert first[0] == second[0] == "s1"
        assert "s1/T1.nii.gz, found no such file; check the path" in first[1]
        assert "s1/T2.nii.gz, found an empty file; copy it again" in second[1]
        assert third[0] == "s3"
        assert "expected an intact gzip stream in" in third[1]

    def test_subject_that_cannot_be_read_keeps_its_other_findings(self, heads):
        (heads.root / "s1" / "T1.nii.gz").unlink()
        check = heads.check()["s1"]
        assert list(check.geometry) == ["T2"]
        assert check.label_ml["CSF"] > 0

    @pytest.mark.parametrize(("value", "found"), [(0, "zeros"), (7, "7")])
    def test_image_of_one_value(self, value, found, heads):
        heads.change("s2/T2.nii.gz", put(..., value))
        ((id_, defect),) = heads.defects()
        assert id_ == "s2"
        assert f"s2/T2.nii.gz, found {found} only" in defect


class TestGrids:
    def test_images_on_different_grids_are_a_note(self, heads):
        heads.change("s1/T2.nii.gz", lambda data: data[:, :, :9])
        assert heads.defects() == []
        ((id_, note),) = heads.notes()
        assert id_ == "s1"
        assert note.startswith("registration needed: expected T2 on the grid of T1 8x9x10, found 8x9x9; ")

    def test_label_on_the_grid_of_no_image_is_a_defect(self, heads):
        shifted = AXES.copy()
        shifted[0, 3] = 3
        heads.change("s1/label.nii.gz", lambda data: data, shifted)
        ((id_, defect),) = heads.defects()
        assert id_ == "s1"
        assert "s1/label.nii.gz on the grid of T1, found their corners 3.00 mm apart; resample" in defect

    def test_label_on_the_grid_of_a_later_image_is_a_note_that_names_it(self, heads):
        for file in ("s1/T2.nii.gz", "s1/label.nii.gz"):
            heads.change(file, lambda data: data[:, :, :9])
        assert heads.defects() == []
        assert heads.notes()[1] == (
            "s1",
            "the label lies on the grid of T2, not of T1: train with --modality T2 first",
        )


class TestLabels:
    def test_unknown_codes_are_a_defect_and_the_rest_is_still_measured(self, heads):
        heads.change("s1/label.nii.gz", put((5, 5, slice(4, 6)), 30))
        check = heads.check()["s1"]
        (defect,) = check.defects
        assert "expected the label codes 0, 10, 20, 99 (ignored) in" in defect
        assert "found 30; check that the file belongs to this data set" in defect
        assert check.label_ml["CSF"] == pytest.approx(0.122)

    def test_unknown_codes_do_not_hide_a_wrong_grid(self, heads):
        heads.change("s1/label.nii.gz", put((0, 0, 0), 30), np.eye(4))
        assert [("found 30" in defect, "on the grid" in defect) for _, defect in heads.defects()] == [
            (True, False),
            (False, True),
        ]

    def test_one_unknown_code_everywhere_is_told_once(self, heads):
        heads.change("s1/label.nii.gz", put(..., 30))
        ((_, defect),) = heads.defects()
        assert "found 30; check" in defect

    @pytest.mark.parametrize("code", [0, 99], ids=["background alone", "ignored alone"])
    def test_without_foreground(self, code, heads):
        heads.change("s1/label.nii.gz", put(..., code))
        ((id_, defect),) = heads.defects()
        assert id_ == "s1"
        assert "expected a class beside background in" in defect

    def test_where_every_image_is_zero_are_counted(self, heads):
        for modality, last in (("T1", 5), ("T2", 4)):
            heads.change(f"s1/{modality}.nii.gz", put((2, 2, slice(2, last)), 0))
        ((id_, defect),) = heads.defects()
        assert id_ == "s1"
        assert "found 2 labelled voxels where every image is zero" in defect

    def test_where_one_image_is_zero_are_fine(self, heads):
        heads.change("s1/T1.nii.gz", put((2, 2, 2), 0))
        assert heads.defects() == []


class TestBetweenSubjects:
    def test_modality_that_most_have_is_missed(self, heads):
        heads.replace(2, images={"T1": heads.subjects[1].images["T1"]})
        assert heads.defects() == [
            ("s2", "expected T2, which 2 of 3 subjects have, found none; complete the subject, or move it elsewhere")
        ]

    def test_modality_that_few_have_is_a_note(self, heads):
        for number in (1, 2):
            heads.replace(number, images={"T1": heads.subjects[number - 1].images["T1"]})
        assert heads.defects() == []
        assert heads.notes() == [("s3", "has T2, which only 1 of 3 subjects have")]

    def test_spacing_far_from_the_others_is_told_once_for_all_modalities(self, heads):
        for file in ("T1", "T2", "label"):
            heads.change(f"s3/{file}.nii.gz", lambda data: data, np.diag([1.0, 1, 3, 1]))
        ((id_, defect),) = heads.defects()
        assert id_ == "s3"
        assert defect == (
            "T1, T2: expected voxels of about 1x1x2 mm, the median of the data set, found 1x1x3 mm; "
            "resample it, or drop it"
        )

    def test_spacing_near_the_others_and_axes_in_another_order_are_fine(self, heads):
        for file in ("T1", "T2", "label"):
            heads.change(f"s2/{file}.nii.gz", lambda data: data, np.diag([1.1, 1, 2, 1]))
            swapped = np.array([[0.0, 0, 1, 0], [1, 0, 0, 0], [0, 2, 0, 0], [0, 0, 0, 1]])
            heads.change(f"s3/{file}.nii.gz", lambda data: np.transpose(data, (1, 2, 0)), swapped)
        assert heads.defects() == []

    def test_copies_between_subjects_are_found_whatever_their_type_and_compression(self, heads):
        source = read_volume(heads.root / "s1" / "T2.nii.gz")
        write_volume(heads.root / "s3" / "T2.nii.gz", source.with_data(source.data.astype(np.float32)))
        (heads.root / "s2" / "label.nii.gz").write_bytes((heads.root / "s1" / "label.nii.gz").read_bytes())
        assert heads.defects() == [
            ("s2", "expected different voxels in each file, found in label those of label of s1; keep one"),
            ("s3", "expected different voxels in each file, found in T2 those of T2 of s1; keep one"),
        ]

    def test_one_image_under_two_names_in_a_subject_is_found(self, heads):
        heads.replace(2, images=dict.fromkeys(("T1", "T2"), heads.subjects[1].images["T1"]))
        assert heads.defects() == [
            ("s2", "expected different voxels in each file, found in T2 those of T1 of s2; keep one")
        ]


class TestPictures:
    def test_are_drawn_of_good_subjects_alone_labelled_or_not(self, heads, tmp_path):
        heads.replace(1, label=None)
        heads.change("s2/label.nii.gz", put(..., 0))
        heads.check(tmp_path / "png")
        assert sorted(file.name for file in (tmp_path / "png").iterdir()) == ["s1.png", "s3.png"]
        assert all(file.read_bytes().startswith(b"\x89PNG") for file in (tmp_path / "png").iterdir())

    def test_show_the_image_that_has_the_grid_of_the_label_and_no_ignored_voxel(self, heads, tmp_path, monkeypatch):
        drawn = []
        monkeypatch.setattr("segkit.pictures.save_overlay", lambda *given, **more: drawn.append(given))
        for file in ("s1/T2.nii.gz", "s1/label.nii.gz"):
            heads.change(file, lambda data: data[:, :, :9])
        heads.change("s1/label.nii.gz", put((5, 5, 5), 99))
        heads.check(tmp_path)
        path, image, labels = drawn[0]
        assert path == tmp_path / "s1.png"
        np.testing.assert_array_equal(image, read_volume(heads.root / "s1" / "T2.nii.gz").canonical().data)
        assert set(np.unique(labels)) == {0, 1, 2}


class TestCommand:
    @pytest.fixture
    def balls(self, tmp_path: Path) -> Path:
        """Two subjects of the fake data set."""
        make_subjects(tmp_path / "balls", "ball", 2, 1, lambda _: None)
        return tmp_path / "balls"

    def segkit(self, *arguments: object) -> Result:
        words = ["data", *map(str, arguments), "--dataset", "fake"]
        return CliRunner().invoke(cli, words, obj=fake_registry())

    def test_good_data_end_with_0_and_a_table(self, balls):
        done = self.segkit("check", balls)
        assert done.exit_code == 0, done.output
        header, first, *_ = done.stdout.splitlines()
        assert header.split("  ")[0] == "subject"
        assert first.split()[:6] == ["ball-1", "T1", "24x24x24", "1x1x1", "RAS", "ball"]
        assert done.stdout.endswith("2 subjects, 2 labelled, no defects\n")

    def test_defects_end_with_2_and_a_line_each(self, balls):
        (balls / "ball-1" / "T1.nii.gz").write_bytes(b"")
        (balls / "ball-2" / "label.nii.gz").unlink()
        done = self.segkit("check", balls)
        assert done.exit_code == 2
        lines = [line for line in done.stdout.splitlines() if line.startswith("defect: ")]
        assert [line.split(": ")[1] for line in lines] == ["ball-1", "ball-2"]
        assert "unreadable" in done.stdout
        assert done.stdout.endswith("2 subjects, 2 labelled, 2 defects\n")

    def test_json_has_geometry_volumes_and_defects(self, balls):
        (balls / "ball-2" / "label.nii.gz").unlink()
        done = self.segkit("check", balls, "--json")
        assert done.exit_code == 2
        report = json.loads(done.stdout)
        assert (report["schema"], report["defects"]) == (1, 1)
        first, second = report["subjects"]
        assert first["geometry"] == {"T1": {"shape": [24, 24, 24], "spacing_mm": [1, 1, 1], "orientation": "RAS"}}
        assert first["label_ml"]["ball"] == pytest.approx(0.485)
        assert first["defects"] == []
        assert "found no such file" in second["defects"][0]

    def test_pictures_go_into_the_folder(self, balls, tmp_path):
        (balls / "ball-2" / "label.nii.gz").unlink()
        self.segkit("check", balls, "--png", tmp_path / "png")
        assert [file.name for file in (tmp_path / "png").iterdir()] == ["ball-1.png"]

    def test_list_shows_subjects_and_files(self, balls):
        done = self.segkit("list", balls, "--json")
        assert [subject["id"] for subject in json.loads(done.stdout)["subjects"]] == ["ball-1", "ball-2"]
        assert "label.nii.gz" in self.segkit("list", balls).stdout

    @pytest.mark.parametrize("command", ["list", "check"])
    def test_option_that_the_data_set_does_not_have_is_refused(self, command, balls):
        done = self.segkit(command, balls, "--dataset-option", "derivatives=a")
        assert str(done.exception).startswith("no option of data set fake 'derivatives'")

    @pytest.mark.parametrize("command", ["list", "check"])
    def test_options_reach_the_data_set(self, command, balls, registry):
        for name in ("a", "b"):
            (balls / "sub-1" / "anat").mkdir(parents=True, exist_ok=True)
            source = balls / "ball-1" / "T1.nii.gz"
            (balls / "sub-1" / "anat" / f"sub-1_acq-{name}_T1w.nii.gz").write_bytes(source.read_bytes())
        words = ["data", command, str(balls), "--dataset", "bids", "--dataset-option", "acquisition=b"]
        done = CliRunner().invoke(cli, words, obj=registry)
        assert done.exit_code == 0, done.output
        assert "T1w" in done.stdout

    def test_volumes_of_many_classes_are_summed_in_the_table(self, balls, registry):
        anat = balls / "derivatives" / "manual" / "sub-1" / "anat"
        for folder, name, file in (
            (balls / "sub-1" / "anat", "T1w", "T1"),
            (anat, "dseg", "label"),
        ):
            folder.mkdir(parents=True)
            (balls / "ball-1" / f"{file}.nii.gz").rename(folder / f"sub-1_{name}.nii.gz")
        rows = "".join(f"{index}\tregion {index}\n" for index in range(1, 21))
        (anat / "sub-1_dseg.tsv").write_text(f"index\tname\n{rows}")
        done = CliRunner().invoke(cli, ["data", "check", str(balls), "--dataset", "bids"], obj=registry)
        assert done.exit_code == 0, done.output
        assert "1 of 20 classes, 0.5" in done.stdout

    def test_interruption_ends_with_130_and_leaves_no_half_picture(self, balls, monkeypatch, capsys, tmp_path):
        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        (balls / "sub-1" / "anat").mkdir(parents=True)
        (balls / "ball-1" / "T1.nii.gz").rename(balls / "sub-1" / "anat" / "sub-1_T1w.nii.gz")
        monkeypatch.setattr("segkit.check.read_image", interrupted)
        with pytest.raises(SystemExit, match=r"^130$"):
            main(["data", "check", str(balls), "--dataset", "bids", "--png", str(tmp_path / "png")])
        assert "error: interrupted" in capsys.readouterr().err
        assert not (tmp_path / "png").exists()
