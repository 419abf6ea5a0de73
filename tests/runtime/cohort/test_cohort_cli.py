"""`segkit segment --cohort`, as it is typed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from segkit.cli import main
from segkit.errors import MissingExtra, SegkitError, UsageError
from segkit_runtime.cli import segment
from segkit_runtime.cohort.subjects import CohortDefects


@pytest.fixture
def call(bundle: Path, tmp_path: Path) -> Callable[..., Result]:
    """Runs the command into `out` with more arguments; an error of segkit is raised."""

    def run(*more: object) -> Result:
        arguments = [str(part) for part in (bundle, "--out", tmp_path / "out", "--threads", 1, *more)]
        return CliRunner().invoke(segment, arguments, catch_exceptions=False)

    return run


class TestDone:
    def test_it_prints_a_table_of_the_heads(self, call: Callable, save_folder: Callable, tmp_path: Path) -> None:
        result = call("--cohort", save_folder("a", "b"))
        assert result.exit_code == 0
        lines = [line.split() for line in result.stdout.splitlines()]
        assert lines[0][:2] == ["subject", "status"]
        assert [line[:2] for line in lines[1:3]] == [["a", "done"], ["b", "done"]]
        assert "0.64" in lines[1]
        assert "2 heads in" in result.stdout
        assert f"labels and cohort.csv in {tmp_path / 'out'}" in result.stdout

    def test_json_is_cohort_json_and_nothing_else(self, call: Callable, save_folder: Callable, tmp_path: Path) -> None:
        printed = json.loads(call("--cohort", save_folder("a"), "--json").stdout)
        written = json.loads((tmp_path / "out" / "cohort.json").read_text())
        assert printed == written | {"seconds": printed["seconds"]}

    def test_png_without_a_name_draws_each_head(self, call: Callable, save_folder: Callable, tmp_path: Path) -> None:
        call("--cohort", save_folder("a"), "--png")
        assert (tmp_path / "out/sub-a/figures/sub-a_desc-segkit_dseg.png").exists()

    def test_patterns_entities_and_processes(self, call: Callable, save_folder: Callable, tmp_path: Path) -> None:
        patterns = [text for name in ("T1", "T2") for text in ("--pattern", f"{name}={{subject}}/{name}.nii.gz")]
        result = call("--cohort", save_folder("a", "b"), *patterns, "--workers", 2, "--json")
        assert json.loads(result.stdout)["counts"]["done"] == 2

    def test_a_head_that_failed_is_said_at_the_end_with_exit_code_1(
        self, bundle: Path, save_folder: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
    ) -> None:
        source = save_folder("a", "b")
        (source / "a" / "T1.nii.gz").write_bytes(b"")
        with pytest.raises(SystemExit, match="1"):
            main(["segment", str(bundle), "--cohort", str(source), "--out", str(tmp_path / "out"), "--json"])
        captured = capsys.readouterr()
        assert json.loads(captured.out)["counts"] == {"done": 1, "kept": 0, "failed": 1, "pending": 0}
        first, last = captured.err.splitlines()
        assert first.startswith("a: expected")
        assert last == (
            "error: expected labels of all 2 heads, 1 failed: a; "
            f"see {tmp_path / 'out' / 'cohort.csv'}, mend them, and add --resume"
        )

    def test_every_defect_is_a_line(
        self, bundle: Path, save_folder: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
    ) -> None:
        source = save_folder("a", "b")
        for name in ("a", "b"):
            (source / name / "T2.nii.gz").unlink()
        with pytest.raises(SystemExit, match="2"):
            main(["segment", str(bundle), "--cohort", str(source), "--out", str(tmp_path / "out")])
        first, second = (f"subject {name}, T2: no file {source / name}/T2.nii.gz" for name in ("a", "b"))
        assert capsys.readouterr().err.splitlines() == [
            f"defect: {first}",
            f"defect: {second}",
            f"error: expected a cohort without defects in {source}, found 2 defects, the first: {first}; "
            "mend them all first",
        ]
        assert not (tmp_path / "out").exists()

    def test_help_has_a_section_for_each_way(self) -> None:
        text = CliRunner().invoke(segment, ["--help"]).output
        titles = ["One head:", "Many heads:", "How it runs:", "Options:"]
        assert [line for line in text.splitlines() if line in titles] == titles
        options = [option.opts[0] for option in segment.params if option.opts[0].startswith("--")]
        lines = [line.split()[0].rstrip(",") for line in text.splitlines() if line.startswith("  -")]
        assert sorted(lines) == sorted([*options, "--help" if "--help" in lines else "-h"])
        assert text.index("Many heads:") < text.index("--cohort") < text.index("How it runs:") < text.index("--runtime")


class TestRefused:
    @pytest.mark.parametrize(
        ("more", "says"),
        [
            (["--modality", "T1=a.nii"], "expected --modality without --cohort only; the cohort names the images"),
            (["--overwrite"], "expected --overwrite without --cohort only; take --resume, or another --out"),
            (["--png", "a.png"], "expected --png without a name, got 'a.png'; the pictures of a cohort"),
            (["--workers", 2, "--dask", "tcp://x:1"], "expected --workers or --dask, got both"),
            (["--pattern", "T1"], r"expected --pattern NAME=PATH, got 'T1'; example: --pattern T1='\{subject\}/T1"),
            (["--entity", "run=1", "--entity", "run=2"], "expected each entity once, got run twice"),
            (["--entity", "run=1"], "expected --entity with a BIDS data set"),
            (["--budget", "much"], "expected .*much"),
        ],
    )
    def test_options_that_do_not_go_with_a_cohort(
        self, call: Callable, save_folder: Callable, tmp_path: Path, more: list[object], says: str
    ) -> None:
        with pytest.raises(UsageError, match=says):
            call("--cohort", save_folder("a"), *more)
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        "more", [["--resume"], ["--workers", 2], ["--dask", "x"], ["--pattern", "T1=x"], ["--entity", "run=1"]]
    )
    def test_options_of_a_cohort_for_one_head(self, call: Callable, tmp_path: Path, more: list[object]) -> None:
        with pytest.raises(UsageError, match=f"expected {more[0]} with --cohort only; one head has none"):
            call("--modality", "T1=a.nii", *more)

    def test_a_picture_of_one_head_without_a_name(self, call: Callable) -> None:
        with pytest.raises(UsageError, match="expected --png FILE, got no name"):
            call("--modality", "T1=a.nii", "--png")

    def test_pictures_without_matplotlib(
        self, call: Callable, save_folder: Callable, without_module: Callable[[str], None], tmp_path: Path
    ) -> None:
        without_module("matplotlib")
        with pytest.raises(MissingExtra, match="--png needs the module 'matplotlib'"):
            call("--cohort", save_folder("a"), "--png")
        assert not (tmp_path / "out").exists()

    def test_a_cohort_with_one_defect_is_one_line(self, call: Callable, save_folder: Callable) -> None:
        source = save_folder("a")
        (source / "a" / "T2.nii.gz").unlink()
        with pytest.raises(CohortDefects, match=r"found 1 defect: subject a, T2: no file .*; mend them all first"):
            call("--cohort", source)

    def test_a_failed_head_is_an_error_of_the_command(self, call: Callable, save_folder: Callable) -> None:
        source = save_folder("a")
        (source / "a" / "T2.nii.gz").write_bytes(b"")
        with pytest.raises(SegkitError, match="expected labels of all 1 heads, 1 failed: a") as caught:
            call("--cohort", source)
        assert caught.value.exit_code == 1
