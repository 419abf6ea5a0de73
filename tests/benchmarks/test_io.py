"""`segkit bench io`: every side reads the same voxels and writes the same labels, and ratios are judged by floors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from click.testing import CliRunner

from segkit_benchmarks import io
from segkit_benchmarks.turns import Figures, Result

SIZE = (12, 10, 8)


class Over(Exception):
    """A side has had its rounds."""


@pytest.fixture
def head(tmp_path: Path) -> tuple[np.ndarray, np.ndarray]:
    image, labels = io.made_up_head(SIZE)
    nib.Nifti1Image(image, np.diag([-1.0, 1, 1, 1])).to_filename(tmp_path / "image.nii.gz")
    return image, labels


@pytest.mark.parametrize("name", [io.OURS, *io.NAMES])
def test_a_side_reads_the_image_and_writes_the_labels(name: str, head: tuple, tmp_path: Path) -> None:
    image, labels = head
    read, write = io._ACTIONS[name](tmp_path / "image.nii.gz", tmp_path / "labels.nii.gz", labels)
    found = read()
    voxels = np.asarray(sitk.GetArrayFromImage(found) if name == "SimpleITK" else found)
    straight = {"SimpleITK": lambda found: found.T, "MONAI": lambda found: found}.get(name, lambda found: found[::-1])
    np.testing.assert_array_equal(straight(voxels), image)
    write()
    written = nib.load(tmp_path / "labels.nii.gz")
    np.testing.assert_array_equal(np.asarray(written.dataobj), labels)
    assert written.get_data_dtype() == np.uint8
    np.testing.assert_allclose(written.affine, np.diag([-1.0, 1, 1, 1]), atol=1e-6)


def test_a_side_hands_over_a_time_of_each_work_in_each_round(head: tuple, tmp_path: Path) -> None:
    handed: list[Figures] = []

    def turn(figures: Figures) -> None:
        handed.append(figures)
        if len(handed) > 2:
            raise Over

    with pytest.raises(Over, match=r"^$"):
        io._measure(turn, io.OURS, tmp_path, head[1], 2)
    first, *rounds = handed
    assert first == {}
    assert all(figures["read"] > 0 and figures["write"] > 0 for figures in rounds)


def results(ours: tuple[float, float], theirs: tuple[float, float], folder: Path) -> dict[str, Result]:
    for name in ("image", *(f"labels-{side}" for side in (io.OURS, "SimpleITK", "MONAI"))):
        (folder / f"{name}.nii.gz").write_bytes(bytes(1500))
    return {
        io.OURS: Result(rounds=[dict(zip(("read", "write"), ours, strict=True))] * 3, peak_mib=100),
        "SimpleITK": Result(rounds=[dict(zip(("read", "write"), theirs, strict=True))] * 3, peak_mib=200),
        "MONAI": Result(failed="ImportError: no"),
    }


def test_ratios_are_judged_by_their_floors(tmp_path: Path) -> None:
    report = io.make_report(results((10, 4), (14, 8), tmp_path), tmp_path, judged=True)
    mine, sitk, monai = report["rows"]
    assert mine == {"side": "segkit", "read_ms": 10, "write_ms": 4, "labels_kb": 1.5, "peak_mib": 100}
    assert sitk["read_ratio"] == {"median": 1.4, "least": 1.4, "most": 1.4, "floor": 1.5}
    assert sitk["write_ratio"] == {"median": 2, "least": 2, "most": 2, "floor": None}
    assert monai == {"side": "MONAI", "failed": "ImportError: no"}
    assert io._ratio_text(sitk["read_ratio"]) == "1.4 x (1.4 to 1.4), NOT MET: 1.5"
    assert io._ratio_text({**sitk["read_ratio"], "median": 1.6}) == "1.6 x (1.4 to 1.4), met: 1.5"


def test_a_quick_run_is_not_judged(tmp_path: Path) -> None:
    report = io.make_report(results((10, 4), (14, 8), tmp_path), tmp_path, judged=False)
    assert report["rows"][1]["read_ratio"]["floor"] is None


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., str]:
    """The command beside nibabel alone: the others take seconds to import."""
    monkeypatch.setattr(io, "NAMES", {"nibabel": "nibabel"})

    def call(*arguments: str) -> str:
        command = ["--quick", "--rounds", "1", "--repeats", "1", "--out", str(tmp_path / "out"), *arguments]
        return CliRunner().invoke(io.io, command, catch_exceptions=False).stdout

    return call


def test_the_command_prints_a_table_and_keeps_the_figures(run: Callable[..., str], tmp_path: Path) -> None:
    said = run()
    assert "image of 32x24x18 int16" in said
    assert "nibabel" in said
    kept = json.loads((tmp_path / "out" / "io.json").read_text())
    assert [row["side"] for row in kept["rows"]] == ["segkit", "nibabel"]
    assert kept["rows"][1]["read_ratio"]["median"] > 0
    assert kept["size"] == [32, 24, 18]


def test_the_page_beside_the_figures_has_every_side_and_says_that_the_run_was_quick(
    run: Callable[..., str], tmp_path: Path
) -> None:
    run()
    page = (tmp_path / "out" / "io.md").read_text()
    kept = json.loads((tmp_path / "out" / "io.json").read_text())
    assert page == io.render_markdown(kept)
    assert "In the quick form" in page
    assert all(f"| {row['side']} | {row['read_ms']:.1f} |" in page for row in kept["rows"])


def test_the_page_has_verdicts_and_says_why_a_side_was_not_measured(tmp_path: Path) -> None:
    report = io.make_report(results((10, 4), (14, 8), tmp_path), tmp_path, judged=True)
    page = io.render_markdown({**report, "size": io.SIZE, "rounds": 3, "repeats": 5, "quick": False})
    assert "| SimpleITK | 14.0 | 1.4 x (1.4 to 1.4), NOT MET: 1.5 | 8.0 | 2.0 x (2.0 to 2.0) |" in page
    assert "MONAI: not measured: ImportError: no" in page
    assert "quick" not in page


def test_json_is_what_is_kept(run: Callable[..., str], tmp_path: Path) -> None:
    assert json.loads(run("--json")) == json.loads((tmp_path / "out" / "io.json").read_text())
