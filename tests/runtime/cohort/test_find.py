"""From folders, tables and BIDS data sets to heads; every defect is told before anything runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from segkit.errors import DataError, UsageError
from segkit_bids import layout
from segkit_runtime.cohort.find import find_cohort
from segkit_runtime.cohort.subjects import Cohort, CohortDefects

BOTH = ("T1", "T2")


def defects_of(*arguments: object) -> list[str]:
    with pytest.raises(CohortDefects, match="expected a cohort without defects in") as caught:
        find_cohort(*arguments)  # type: ignore[arg-type]
    return list(caught.value.defects)


def names_in(cohort: Cohort) -> list[str]:
    return [subject.name for subject in cohort.subjects]


class TestFolder:
    def test_each_sub_folder_is_a_head_and_they_are_sorted_as_people_sort(self, save_folder: Callable) -> None:
        root = save_folder("head10", "head9")
        (root / ".hidden").mkdir()
        (root / "notes.txt").touch()
        cohort = find_cohort(root, BOTH)
        assert names_in(cohort) == ["head9", "head10"]
        assert cohort.subjects[0].images == {name: root / "head9" / f"{name}.nii.gz" for name in BOTH}
        assert list(cohort.subjects[0].images) == ["T1", "T2"]

    def test_an_output_folder_inside_is_no_head(self, save_folder: Callable) -> None:
        root = save_folder("a")
        (root / "out").mkdir()
        (root / "out" / "dataset_description.json").write_text("{}")
        assert names_in(find_cohort(root, BOTH)) == ["a"]

    def test_images_may_be_uncompressed(self, save_folder: Callable) -> None:
        root = save_folder("a")
        (root / "a" / "T2.nii.gz").rename(root / "a" / "T2.nii")
        assert find_cohort(root, BOTH).subjects[0].images["T2"].name == "T2.nii"

    def test_every_missing_file_is_told(self, save_folder: Callable) -> None:
        root = save_folder("a", "b", "c")
        (root / "a" / "T2.nii.gz").unlink()
        (root / "c" / "T1.nii.gz").unlink()
        assert defects_of(root, BOTH) == [
            f"subject a, T2: no file {root}/a/T2.nii.gz",
            f"subject c, T1: no file {root}/c/T1.nii.gz",
        ]

    def test_names_that_bids_cannot_tell_apart(self, save_folder: Callable) -> None:
        assert defects_of(save_folder("a_1", "a-1", "Ü"), BOTH) == [
            "subject Ü: a name without a letter or digit of ASCII",
            "subject a_1: its labels would have the name of those of a-1",
        ]

    def test_no_head(self, tmp_path: Path) -> None:
        assert defects_of(tmp_path, BOTH) == ["no subject"]

    @pytest.mark.parametrize(
        ("name", "labels"),
        [
            ("7", "sub-7/anat/sub-7_desc-segkit_dseg.nii.gz"),
            ("sub-7", "sub-7/anat/sub-7_desc-segkit_dseg.nii.gz"),
            ("sub-7_ses-x", "sub-7/ses-x/anat/sub-7_ses-x_desc-segkit_dseg.nii.gz"),
            ("patient_7", "sub-patient7/anat/sub-patient7_desc-segkit_dseg.nii.gz"),
        ],
    )
    def test_labels_get_a_name_of_bids(self, save_folder: Callable, name: str, labels: str) -> None:
        assert find_cohort(save_folder(name), BOTH).subjects[0].labels == labels


class TestPattern:
    def test_it_says_where_the_images_lie(self, tmp_path: Path) -> None:
        for name in ("x1", "x2"):
            (tmp_path / "t1" / name).mkdir(parents=True)
            (tmp_path / "t1" / name / f"{name}_[a].nii.gz").touch()
            (tmp_path / f"{name}-t2.nii.gz").touch()
        (tmp_path / "t1" / "x1" / "x2_[a].nii.gz").touch()
        patterns = {"T1": "t1/{subject}/{subject}_[a].nii.gz", "T2": "{subject}-t2.nii.gz"}
        cohort = find_cohort(tmp_path, BOTH, patterns)
        assert names_in(cohort) == ["x1", "x2"]
        assert cohort.subjects[1].images == {
            "T1": tmp_path / "t1/x2/x2_[a].nii.gz",
            "T2": tmp_path / "x2-t2.nii.gz",
        }

    def test_a_head_that_only_one_pattern_finds_is_a_defect(self, tmp_path: Path) -> None:
        (tmp_path / "a-1.nii").touch()
        patterns = {"T1": "{subject}-1.nii", "T2": "{subject}-2.nii"}
        assert defects_of(tmp_path, BOTH, patterns) == [f"subject a, T2: no file {tmp_path}/a-2.nii"]

    @pytest.mark.parametrize("pattern", ["t1.nii", "/data/{subject}.nii", "../{subject}.nii"])
    def test_what_is_no_pattern(self, tmp_path: Path, pattern: str) -> None:
        with pytest.raises(
            UsageError, match=r"expected a path below the folder with \{subject\} in it as the pattern of"
        ):
            find_cohort(tmp_path, ("T1",), {"T1": pattern})

    def test_patterns_that_are_not_those_of_the_bundle(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="expected a pattern for each of T1, T2, got T1"):
            find_cohort(tmp_path, BOTH, {"T1": "{subject}.nii"})


class TestTable:
    def write(self, folder: Path, text: str) -> Path:
        (folder / "cohort.csv").write_text(text, encoding="utf-8")
        return folder / "cohort.csv"

    def test_paths_are_relative_to_it_and_other_columns_are_for_the_reader(self, save_folder: Callable) -> None:
        root = save_folder("b", "a")
        table = self.write(
            root, "\ufeffage,T2,subject,T1\n60,b/T2.nii.gz,second,b/T1.nii.gz\n,a/T2.nii.gz,first,a/T1.nii.gz\n"
        )
        cohort = find_cohort(table, BOTH)
        assert names_in(cohort) == ["second", "first"]
        assert cohort.subjects[0].images == {name: root / "b" / f"{name}.nii.gz" for name in BOTH}

    def test_every_defect_is_told(self, save_folder: Callable) -> None:
        root = save_folder("a", "b", "c")
        rows = [
            "a,a/T1.nii.gz,a/T2.nii.gz",
            "a,b/T1.nii.gz,b/T2.nii.gz",
            "c,c/T1.nii.gz,",
            "d,c/T1.nii.gz",
            "e,c/T1.nii.gz,c/T2.nii.gz,more",
            "f,a/T1.nii.gz,gone.nii.gz",
            "g,../heads/b/T1.nii.gz,cohort.csv",
            "?,b/T1.nii.gz,b/T2.nii.gz",
        ]
        assert defects_of(self.write(root, "\n".join(["subject,T1,T2", *rows])), BOTH) == [
            "line 4: no T2",
            "line 5: no T2",
            "line 6: more cells than columns",
            "line 9: a subject without a letter or digit of ASCII, '?'",
            "subject a: there twice",
            f"subject f, T1: {root}/a/T1.nii.gz is subject a, T1, too",
            f"subject f, T2: no file {root}/gone.nii.gz",
            "subject g, T2: expected a name that ends in .nii or .nii.gz, got 'cohort.csv'",
        ]

    def test_columns_that_are_missing_or_there_twice(self, tmp_path: Path) -> None:
        assert defects_of(self.write(tmp_path, "subject,T1,T1\n"), BOTH) == [
            "no column T2 among subject, T1, T1",
            "column T1: there twice among subject, T1, T1",
        ]
        assert defects_of(self.write(tmp_path, ""), ("T1",)) == [
            "no column subject among none",
            "no column T1 among none",
        ]

    def test_what_is_no_table(self, tmp_path: Path) -> None:
        (tmp_path / "cohort.csv").write_bytes(b"\xff\xfe\x00")
        assert defects_of(tmp_path / "cohort.csv", BOTH)[0].startswith("no CSV table in UTF-8")

    def test_one_file_for_two_modalities(self, save_folder: Callable) -> None:
        root = save_folder("a")
        table = self.write(root, "subject,T1,T2\na,a/T1.nii.gz,a/T1.nii.gz\n")
        assert defects_of(table, BOTH) == [f"subject a, T2: {root}/a/T1.nii.gz is subject a, T1, too"]


class TestBids:
    STEMS = (
        "sub-01/anat/sub-01_T1w",
        "sub-01/anat/sub-01_T2w",
        "sub-02/ses-a/anat/sub-02_ses-a_acq-x_T1w",
        "sub-02/ses-a/anat/sub-02_ses-a_T2w",
    )

    def test_a_session_is_a_head_and_its_labels_are_named_after_its_first_image(self, save_bids: Callable) -> None:
        root = save_bids(*self.STEMS, "sub-03/ses-b/anat/sub-03_ses-b_PDw")
        cohort = find_cohort(root, ("T1w", "T2w"))
        assert cohort.bids == root
        assert names_in(cohort) == ["sub-01", "sub-02_ses-a"]
        assert [subject.labels for subject in cohort.subjects] == [
            "sub-01/anat/sub-01_desc-segkit_dseg.nii.gz",
            "sub-02/ses-a/anat/sub-02_ses-a_acq-x_desc-segkit_dseg.nii.gz",
        ]
        assert cohort.subjects[0].sources == (
            "bids:raw:sub-01/anat/sub-01_T1w.nii.gz",
            "bids:raw:sub-01/anat/sub-01_T2w.nii.gz",
        )

    def test_a_bundle_that_says_t1_takes_t1w(self, save_bids: Callable) -> None:
        cohort = find_cohort(save_bids(*self.STEMS), BOTH)
        assert cohort.subjects[0].images["T1"].name == "sub-01_T1w.nii.gz"

    def test_names_and_files_are_those_of_the_plugin(self, save_bids: Callable) -> None:
        """The plugin that the network was trained with, and which the runtime may not import."""
        root = save_bids(
            *self.STEMS, "sub-01/anat/sub-01_ce-gad_T1w", "sub-02/ses-a/anat/sub-02_ses-a_ce-gad_run-2_T1w"
        )
        plugin = layout.find(root)
        cohort = find_cohort(root, tuple(plugin[0].images))
        assert list(plugin[0].images) == ["T1w", "ce-gad_T1w", "T2w"]
        assert [(s.name, dict(s.images)) for s in cohort.subjects] == [(s.id, dict(s.images)) for s in plugin]

    def test_of_several_images_an_entity_chooses(self, save_bids: Callable) -> None:
        root = save_bids("sub-1/anat/sub-1_run-01_T1w", "sub-1/anat/sub-1_run-02_T1w")
        assert defects_of(root, ("T1",)) == [
            "subject sub-1: several T1w, sub-1_run-01_T1w.nii.gz, sub-1_run-02_T1w.nii.gz; "
            "choose with --entity, such as run=1"
        ]
        chosen = find_cohort(root, ("T1",), entities={"run": "2"})
        assert chosen.subjects[0].images["T1"].name == "sub-1_run-02_T1w.nii.gz"

    def test_a_session_without_one_of_the_images(self, save_bids: Callable) -> None:
        assert defects_of(save_bids(*self.STEMS[:3]), BOTH) == ["subject sub-02_ses-a: no T2w"]

    def test_a_modality_that_bids_does_not_name(self, save_bids: Callable) -> None:
        with pytest.raises(UsageError, match=r"T1w, T2w, FLAIR, PDw, the bundle takes T1-IR; say where .*--pattern"):
            find_cohort(save_bids(*self.STEMS), ("T1-IR",))

    def test_patterns_see_a_folder_like_any_other(self, save_bids: Callable) -> None:
        root = save_bids("sub-1/anat/sub-1_acq-IR_T1w")
        cohort = find_cohort(root, ("T1-IR",), {"T1-IR": "sub-{subject}/anat/sub-{subject}_acq-IR_T1w.nii.gz"})
        assert names_in(cohort) == ["1"]
        assert cohort.bids is None


class TestRefused:
    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"expected a cohort, a folder or a CSV file, at .*gone, found nothing"):
            find_cohort(tmp_path / "gone", BOTH)

    def test_an_entity_without_bids(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"expected --entity with a BIDS data set, .* is a folder"):
            find_cohort(tmp_path, BOTH, entities={"run": "1"})

    def test_a_pattern_with_a_table(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").touch()
        with pytest.raises(UsageError, match=r"expected --pattern with a folder, .* is a table"):
            find_cohort(tmp_path / "a.csv", BOTH, {"T1": "{subject}.nii", "T2": "{subject}.nii"})
