"""`segkit bench exports`, and the committed page that is made of its result."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from segkit import Registry
from segkit.errors import UsageError
from segkit_benchmarks.exports import exports, render

ROOT = Path(__file__).parents[2]


def run(registry: Registry, out: Path, *arguments: str) -> list[dict[str, object]]:
    command = ["fake-net-that-is-not-there", "unet3d:fp32,bf16", "--patch", "16,16,16", "--out", str(out), *arguments]
    answer = CliRunner().invoke(exports, [*command, "--json"], obj=registry, catch_exceptions=False)
    assert answer.exit_code == 0, answer.output
    return list(json.loads(answer.stdout)["rows"])


def test_every_cell_has_figures_or_a_reason_and_a_second_call_does_nothing(registry: Registry, tmp_path: Path) -> None:
    rows = run(registry, tmp_path)
    missing, *others = rows
    assert (missing["status"], missing["runtime"]) == ("failed", "-")
    assert "no run folder or model" in str(missing["reason"])
    cells = {(row["runtime"], row["precision"]): row for row in others}
    assert {("onnxruntime", "fp32"), ("onnxruntime, emulated", "bf16"), ("tensorrt_rtx", "bf16")} <= cells.keys()
    assert cells["onnxruntime", "fp32"]["status"] == "proven"
    for row in others:
        assert row["trained"] is False
        assert row.get("reason") or row.get("label_agreement") or row.get("activation_mib")
    page = (tmp_path / "exports.md").read_text()
    assert page == render(json.loads((tmp_path / "exports.json").read_text()))
    before = (tmp_path / "exports.json").stat().st_mtime_ns
    assert run(registry, tmp_path) == rows
    assert (tmp_path / "exports.json").stat().st_mtime_ns == before


def test_auto_is_no_row_of_a_table(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected precisions by name, got auto"):
        CliRunner().invoke(
            exports, ["unet3d", "--precision", "auto", "--out", str(tmp_path)], obj=registry, catch_exceptions=False
        )


def test_the_committed_page_is_that_of_the_committed_result() -> None:
    report = json.loads((ROOT / "docs/results/exports.json").read_text())
    assert (ROOT / "docs/exports.md").read_text() == render(report)
    assert all("reason" in row or row["status"] in ("proven", "built, not run", "not proven") for row in report["rows"])
