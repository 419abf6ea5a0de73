"""A cohort in one process: what is written, what is kept, and what a bad head does to the others."""

from __future__ import annotations

import csv
import errno
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import nibabel as nib
import numpy as np
import pytest

from segkit.errors import BundleError, DataError, OutputExists, SegkitError, UsageError
from segkit_runtime import load
from segkit_runtime.bundle import Bundle
from segkit_runtime.cli import segment
from segkit_runtime.cohort.find import find_cohort
from segkit_runtime.cohort.output import opened_output
from segkit_runtime.cohort.records import Row, Status

A, B = "sub-a/anat/sub-a_desc-segkit_dseg", "sub-b/anat/sub-b_desc-segkit_dseg"


def statuses(summary: Any) -> list[str]:
    return [row.status for row in summary.rows]


def validate(folder: Path) -> list[dict[str, Any]]:
    """What the official validator of BIDS has to say of a data set."""
    validator = str(Path(sys.executable).with_name("bids-validator-deno"))
    done = subprocess.run([validator, str(folder), "--format", "json"], capture_output=True, text=True, check=False)
    return json.loads(done.stdout)["issues"]["issues"]


class TestWritten:
    def test_labels_are_those_of_a_single_segmentation(
        self, run: Callable, save_folder: Callable, bundle: Path, tmp_path: Path
    ) -> None:
        source = save_folder("a", "b")
        assert statuses(run(source)) == ["done", "done"]
        with load(bundle, threads=1) as net:
            result = net.segment({name: source / "b" / f"{name}.nii.gz" for name in ("T1", "T2")})
        result.save(tmp_path / "one.nii.gz")
        assert (tmp_path / "out" / f"{B}.nii.gz").read_bytes() == (tmp_path / "one.nii.gz").read_bytes()
        one, record = (json.loads(file.read_text()) for file in (tmp_path / "one.json", tmp_path / "out" / f"{B}.json"))
        assert record["voxels_sha256"] == one["voxels_sha256"]
        assert record["bundle"] == one["bundle"]
        assert set(one) - set(record) == set()

    def test_the_tables_have_a_row_for_each_head(self, run: Callable, save_folder: Callable, tmp_path: Path) -> None:
        source = save_folder("a", "b")
        (source / "a" / "T2.nii.gz").write_bytes(b"")
        summary = run(source)
        with (tmp_path / "out" / "cohort.csv").open(newline="") as lines:
            first, second = csv.DictReader(lines)
        assert first["status"] == "failed"
        assert "expected" in first["error"]
        assert "T2.nii.gz" in first["error"]
        assert [first["labels"], first["grey matter_ml"]] == ["", ""]
        assert [second["subject"], second["status"], second["labels"], second["error"]] == [
            "b",
            "done",
            f"{B}.nii.gz",
            "",
        ]
        labels = nib.load(tmp_path / "out" / f"{B}.nii.gz")
        voxel_ml = float(np.prod(labels.header.get_zooms())) / 1000
        grey = np.count_nonzero(np.asarray(labels.dataobj) == 150) * voxel_ml
        assert float(second["grey matter_ml"]) == pytest.approx(grey, rel=1e-5)
        table = json.loads((tmp_path / "out" / "cohort.json").read_text())
        assert table["schema"] == 1
        assert table["counts"] == {"done": 1, "kept": 0, "failed": 1, "pending": 0}
        assert table["bundle"]["name"] == "threshold"
        assert table == json.loads(json.dumps(summary.to_json() | {"seconds": table["seconds"]}))

    def test_warnings_have_a_column(self, run: Callable, save_folder: Callable, make_bundle: Callable) -> None:
        bundle = make_bundle("untrained.segkit", weights={"trained": False})
        summary = run(save_folder("a"), using=bundle, options={"allow_untrained": True, "threads": 1})
        assert summary.rows[0].warnings[0].startswith("the weights are untrained")
        assert "the weights are untrained" in summary.to_csv()

    def test_pictures_are_drawn_if_asked_for(self, run: Callable, save_folder: Callable, tmp_path: Path) -> None:
        run(save_folder("a"), pictures=True)
        picture = tmp_path / "out" / "sub-a/figures/sub-a_desc-segkit_dseg.png"
        assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"

    def test_nothing_else_is_left(
        self, run: Callable, save_folder: Callable, files_in: Callable, tmp_path: Path
    ) -> None:
        run(save_folder("a"))
        everywhere = {".bidsignore", "README.md", "cohort.csv", "cohort.json", "dataset_description.json"}
        assert set(files_in(tmp_path / "out")) == {*everywhere, "desc-segkit_dseg.tsv", f"{A}.json", f"{A}.nii.gz"}


class TestBids:
    STEMS = (
        "sub-01/anat/sub-01_T1w",
        "sub-01/anat/sub-01_T2w",
        "sub-02/ses-a/anat/sub-02_ses-a_acq-x_run-1_T1w",
        "sub-02/ses-a/anat/sub-02_ses-a_T2w",
    )

    def test_the_official_validator_finds_no_error(self, run: Callable, save_bids: Callable, tmp_path: Path) -> None:
        out = tmp_path / "raw" / "derivatives" / "segkit"
        run(save_bids(*self.STEMS), out=out, pictures=True)
        found = validate(out)
        assert [issue for issue in found if issue["severity"] == "error"] == []
        # Of what is recommended, authors and a sidecar for the table are all that is missing.
        assert {(issue["code"], issue["location"]) for issue in found} == {
            ("TOO_FEW_AUTHORS", "/dataset_description.json"),
            ("SIDECAR_KEY_RECOMMENDED", "/desc-segkit_dseg.tsv"),
        }
        record = json.loads((out / "sub-01/anat/sub-01_desc-segkit_dseg.json").read_text())
        assert record["SpatialReference"] == "bids:raw:sub-01/anat/sub-01_T1w.nii.gz"
        links = json.loads((out / "dataset_description.json").read_text())["DatasetLinks"]
        assert (out / links["raw"]).resolve() == tmp_path / "raw"

    def test_so_it_does_of_a_folder_that_is_not_bids(
        self, run: Callable, save_folder: Callable, tmp_path: Path
    ) -> None:
        run(save_folder("patient_1", "patient_2"))
        assert [issue for issue in validate(tmp_path / "out") if issue["severity"] == "error"] == []

    def test_the_plugin_for_training_reads_them_as_labels(
        self, run: Callable, save_bids: Callable, tmp_path: Path
    ) -> None:
        from segkit_bids import layout, tables

        raw = save_bids(*self.STEMS)
        run(raw, out=raw / "derivatives" / "segkit")
        assert all(subject.label is not None for subject in layout.find(raw))
        labels, _ = tables.read_labels(raw)
        assert [(label.code, label.name) for label in labels] == [
            (0, "background"),
            (150, "grey matter"),
            (250, "white matter"),
        ]


class TestResume:
    def test_what_is_done_is_kept_and_the_rest_is_done(
        self, run: Callable, save_folder: Callable, files_in: Callable, tmp_path: Path
    ) -> None:
        source, out = save_folder("a", "b"), tmp_path / "out"
        good = (source / "b" / "T1.nii.gz").read_bytes()
        (source / "b" / "T1.nii.gz").write_bytes(b"")
        assert statuses(run(source)) == ["done", "failed"]
        before = (out / f"{A}.nii.gz").stat()
        (source / "b" / "T1.nii.gz").write_bytes(good)
        summary = run(source, resume=True)
        assert statuses(summary) == ["kept", "done"]
        assert summary.rows[0].volumes_ml == {"grey matter": 0.64416, "white matter": 0.55968}
        assert (out / f"{A}.nii.gz").stat().st_ino == before.st_ino
        run(source, out=tmp_path / "fresh")
        there, fresh = files_in(out), files_in(tmp_path / "fresh")
        assert set(there) == set(fresh)
        assert [there[f"{name}.nii.gz"] for name in (A, B)] == [fresh[f"{name}.nii.gz"] for name in (A, B)]

    def test_nothing_is_loaded_if_all_is_done(
        self, run: Callable, save_folder: Callable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = save_folder("a")
        run(source)

        def fail(*arguments: object, **options: object) -> None:
            raise AssertionError("expected no bundle to be loaded")

        monkeypatch.setattr("segkit_runtime.segmenter.load", fail)
        assert statuses(run(source, resume=True)) == ["kept"]

    def change_image(self, source: Path, out: Path) -> None:
        image = nib.load(source / "a" / "T1.nii.gz")
        nib.Nifti1Image(np.asarray(image.dataobj)[::-1], image.affine).to_filename(source / "a" / "T1.nii.gz")

    def cut_labels(self, source: Path, out: Path) -> None:
        file = out / f"{A}.nii.gz"
        file.write_bytes(file.read_bytes()[:-5])

    def remove_labels(self, source: Path, out: Path) -> None:
        (out / f"{A}.nii.gz").unlink()

    def remove_report(self, source: Path, out: Path) -> None:
        (out / f"{A}.json").unlink()

    def spoil_report(self, source: Path, out: Path) -> None:
        (out / f"{A}.json").write_text('{"cohort": 1}')

    @pytest.mark.parametrize(
        "change",
        [change_image, cut_labels, remove_labels, remove_report, spoil_report],
        ids=lambda change: change.__name__,
    )
    def test_what_changed_is_done_again(
        self, run: Callable, save_folder: Callable, files_in: Callable, tmp_path: Path, change: Callable
    ) -> None:
        source, out = save_folder("a", "b"), tmp_path / "out"
        run(source)
        change(self, source, out)
        assert statuses(run(source, resume=True)) == ["done", "kept"]
        run(source, out=tmp_path / "fresh")
        assert files_in(out)[f"{A}.nii.gz"] == files_in(tmp_path / "fresh")[f"{A}.nii.gz"]

    def test_another_bundle_or_precision_does_all_again(
        self, run: Callable, save_folder: Callable, make_bundle: Callable
    ) -> None:
        source = save_folder("a")
        run(source)
        assert statuses(
            run(source, resume=True, using=make_bundle("other.segkit", created="2026-01-02T00:00:00Z"))
        ) == ["done"]
        assert statuses(run(source, resume=True)) == ["done"]
        chosen = {"runtime": "onnxruntime", "threads": 1}
        assert statuses(run(source, resume=True, options=chosen)) == ["done"]
        assert statuses(run(source, resume=True, options=chosen)) == ["kept"]

    def test_pictures_that_are_not_there_yet_are_drawn(
        self, run: Callable, save_folder: Callable, tmp_path: Path
    ) -> None:
        source = save_folder("a")
        run(source)
        run(source, resume=True, pictures=True)
        assert (tmp_path / "out/sub-a/figures/sub-a_desc-segkit_dseg.png").exists()

    def test_an_empty_folder_can_be_resumed(self, run: Callable, save_folder: Callable, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        assert statuses(run(save_folder("a"), resume=True)) == ["done"]


class TestStopped:
    def test_ctrl_c_keeps_what_is_done_and_says_what_is_not(
        self, run: Callable, save_folder: Callable, tmp_path: Path
    ) -> None:
        source, out = save_folder("a", "b", "c"), tmp_path / "out"

        def stop(row: Row) -> None:
            if row.subject == "b":
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(source, on_row=stop)
        table = json.loads((out / "cohort.json").read_text())
        assert [row["status"] for row in table["subjects"]] == ["done", "done", "pending"]
        assert not (out / ".drafts").exists()
        assert statuses(run(source, resume=True)) == ["kept", "kept", "done"]

    def test_a_bundle_that_cannot_be_loaded_leaves_nothing(
        self, run: Callable, save_folder: Callable, tmp_path: Path, make_bundle: Callable
    ) -> None:
        untrained = make_bundle("untrained.segkit", weights={"trained": False})
        with pytest.raises(BundleError, match="expected trained weights"):
            run(save_folder("a"), using=untrained)
        assert not (tmp_path / "out").exists()
        (tmp_path / "out").mkdir()
        with pytest.raises(UsageError, match="expected a way to run that is proven"):
            run(save_folder("a"), options={"precision": "bf16"})
        assert list((tmp_path / "out").iterdir()) == []

    def test_a_bundle_that_is_replaced_before_it_is_loaded(
        self, save_folder: Callable, run: Callable, bundle: Path, make_bundle: Callable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other = Bundle.open(make_bundle("other.segkit", created="2026-01-02T00:00:00Z"))
        monkeypatch.setattr(Bundle, "path", property(lambda self: other.folder))
        with pytest.raises(DataError, match=r"expected the same bundle for the whole cohort at .*, it changed"):
            run(save_folder("a"))

    def test_an_image_that_changes_while_it_is_read_fails(
        self, run: Callable, save_folder: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from segkit_runtime.segmenter import Segmenter

        segment = Segmenter.segment

        def and_touch(self: Segmenter, images: Any, progress: Any = None) -> Any:
            result = segment(self, images, progress)
            images["T1"].write_bytes(images["T1"].read_bytes() + b"more")
            return result

        monkeypatch.setattr(Segmenter, "segment", and_touch)
        summary = run(save_folder("a"))
        assert "expected images that stay as they are" in summary.rows[0].error
        assert not (tmp_path / "out" / f"{A}.nii.gz").exists()

    def test_a_full_disk_at_one_head_leaves_nothing_of_it(
        self, run: Callable, save_folder: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from segkit.nifti import write_volume

        def fill(path: Path, volume: Any) -> None:
            monkeypatch.setattr("segkit_runtime.result.write_volume", write_volume)
            path.write_bytes(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("segkit_runtime.result.write_volume", fill)
        summary = run(save_folder("a", "b"))
        assert statuses(summary) == ["failed", "done"]
        assert "the system says: No space left on device; free space" in summary.rows[0].error
        assert not (tmp_path / "out" / "sub-a").exists()
        assert not (tmp_path / "out" / ".drafts").exists()

    @pytest.mark.parametrize("error", [MemoryError("no more"), RuntimeError("a defect")])
    def test_a_defect_at_one_head_does_not_stop_the_others(
        self, run: Callable, save_folder: Callable, monkeypatch: pytest.MonkeyPatch, error: Exception
    ) -> None:
        from segkit_runtime.segmenter import Segmenter

        segment = Segmenter.segment

        def fail_at_a(self: Segmenter, images: Any, progress: Any = None) -> Any:
            if images["T1"].parent.name == "a":
                raise error
            return segment(self, images, progress)

        monkeypatch.setattr(Segmenter, "segment", fail_at_a)
        summary = run(save_folder("a", "b"))
        assert statuses(summary) == ["failed", "done"]
        assert summary.rows[0].error == f"{type(error).__name__}: {error}"


class TestRefused:
    def test_a_folder_with_something_in_it(self, run: Callable, save_folder: Callable, tmp_path: Path) -> None:
        source = save_folder("a")
        run(source)
        with pytest.raises(OutputExists, match=r"expected an empty folder at .*, or none; add --resume"):
            run(source)

    @pytest.mark.parametrize("content", [None, "{}", '{"GeneratedBy": [{"Name": "fmriprep"}]}', "not JSON"])
    def test_resuming_what_is_not_ours(
        self, run: Callable, save_folder: Callable, files_in: Callable, tmp_path: Path, content: str | None
    ) -> None:
        out = tmp_path / "out"
        out.mkdir()
        (out / "thesis.txt").write_text("mine")
        if content is not None:
            (out / "dataset_description.json").write_text(content)
        before = files_in(out)
        with pytest.raises(DataError, match="expected a cohort of segkit to resume in"):
            run(save_folder("a"), resume=True)
        assert files_in(out) == before

    def test_a_second_run_into_one_folder(
        self, run: Callable, save_folder: Callable, bundle: Path, files_in: Callable, tmp_path: Path
    ) -> None:
        source, out = save_folder("a"), tmp_path / "out"
        opened = Bundle.open(bundle)
        run(source)
        before = files_in(out)
        with (
            opened_output(out, find_cohort(source, opened.manifest.modalities), opened.manifest, resume=True),
            pytest.raises(UsageError, match=r"expected .*out to itself, another run writes to it"),
        ):
            run(source, resume=True)
        assert files_in(out) == before
        assert statuses(run(source, resume=True)) == ["kept"]

    def test_a_place_that_is_no_folder(self, run: Callable, save_folder: Callable, tmp_path: Path) -> None:
        (tmp_path / "out").touch()
        with pytest.raises(UsageError, match=r"expected a folder at .*out, found a file"):
            run(save_folder("a"))
        with pytest.raises(UsageError, match=r"expected a folder to make .*x in, .*out is not one"):
            run(save_folder("a"), out=tmp_path / "out" / "x")

    def test_a_table_that_cannot_be_written_is_told(self, run: Callable, save_folder: Callable, tmp_path: Path) -> None:
        source, out = save_folder("a"), tmp_path / "out"
        run(source)
        (out / "cohort.json").unlink()
        (out / "cohort.json").mkdir()
        with pytest.raises(SegkitError, match=r"expected to write .*cohort\.json"):
            run(source, resume=True)


def test_the_page_tells_each_field() -> None:
    page = (Path(__file__).parents[3] / "docs" / "cohorts.md").read_text()
    for name in ("counts", "seconds", "subjects", "intended_use", *(field.name for field in fields(Row))):
        assert f"| `{name}`" in page or f"`{name}` |" in page
    for status in get_args(Status):
        assert f"`{status}`" in page
    for option in ("--cohort", "--pattern", "--entity", "--workers", "--dask", "--resume"):
        assert option in page
        assert option in [name for parameter in segment.params for name in parameter.opts]
