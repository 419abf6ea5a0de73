"""`segkit bench exports`, and the committed page that is made of its result."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import onnx
import pytest
import torch
from click.testing import CliRunner

from segkit import Registry
from segkit.errors import UsageError
from segkit_benchmarks.exports import RESULT, exports, render
from segkit_benchmarks.rewrites import RESULT as REWRITES
from segkit_benchmarks.rewrites import export_each, measure_rewrites
from segkit_export.tolerances import TOLERANCES
from segkit_runtime.manifest import Tolerance

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


def test_what_fails_is_proven_again_with_the_layers_in_fp32_that_carry_the_error(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def emulated(out: Path, *more: str) -> list[dict[str, object]]:
        command = ["unet3d:bf16", "--patch", "16,16,16", "--out", str(out), "--json", *more]
        answer = CliRunner().invoke(exports, command, obj=registry, catch_exceptions=False)
        return [row for row in json.loads(answer.stdout)["rows"] if row["runtime"] == "onnxruntime, emulated"]

    (usual,) = emulated(tmp_path / "usual")
    largest = float(str(usual["max_abs_logit_difference"]))
    assert float(str(usual["max_abs_logit"])) < 10  # else the bound is one of their share
    strict = Tolerance(most_logit_difference=0.9 * largest, least_label_agreement=0.95, most_dice_difference=1)
    monkeypatch.setitem(TOLERANCES, "bf16", strict)
    failed, mended = emulated(tmp_path / "strict", "--mend")
    assert (failed["status"], mended["status"]) == ("not proven", "proven")
    assert failed["max_abs_logit_difference"] == usual["max_abs_logit_difference"]
    kept = mended["kept_in_fp32"]
    assert isinstance(kept, list)
    assert f"with {', '.join(kept)} in fp32: same labels" in (tmp_path / "strict" / "exports.md").read_text()


def test_auto_is_no_row_of_a_table(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected precisions by name, got auto"):
        CliRunner().invoke(
            exports, ["unet3d", "--precision", "auto", "--out", str(tmp_path)], obj=registry, catch_exceptions=False
        )


def test_nothing_to_do_is_refused(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected runs or models, got none; example: segkit bench exports monai-unet"):
        CliRunner().invoke(exports, ["--out", str(tmp_path)], obj=registry, catch_exceptions=False)


def test_each_piece_of_work_on_the_graph_is_measured_with_it_and_without(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"batch": ("unet3d", {"width": 2, "levels": 2}), "instance": ("unet3d", {"width": 2, "norm": "instance"})}
    monkeypatch.setattr("segkit_benchmarks.exports.measure_rewrites", partial(measure_rewrites, networks=small))
    shutil.copy(ROOT / "docs/results/exports.json", tmp_path)
    command = ["--rewrites", "2", "--patch", "16,16,16", "--out", str(tmp_path), "--json"]
    answer = CliRunner().invoke(exports, command, obj=registry, catch_exceptions=False)
    report = json.loads(answer.stdout)
    assert (report["rounds"], report["patch"]) == (2, [16, 16, 16])
    pieces = {"largest class in the graph", "notes and paths stripped", "weights in the file"}
    for network, own in (("batch", "batch norms folded"), ("instance", "instance norms written out")):
        for runtime in ("openvino", "onnxruntime"):
            rows = {r["rewrite"]: r for r in report["rows"] if (r["network"], r["runtime"]) == (network, runtime)}
            assert rows.keys() == pieces | {own}
            assert all(row["ms"] > 0 and row["without_ms"] > 0 and row["ratio"] > 0 for row in rows.values())
            assert rows.pop("weights in the file")["error"] is None
            assert all(row["error"] < 1e-3 > row["without_error"] for row in rows.values())
            assert rows["notes and paths stripped"]["without_kib"] > rows["notes and paths stripped"]["kib"]
    assert (tmp_path / "exports.json").read_bytes() == (ROOT / "docs/results/exports.json").read_bytes()
    page = (tmp_path / "exports.md").read_text()
    assert page == render(json.loads((tmp_path / "exports.json").read_text()), report)
    assert "| batch | batch norms folded | openvino |" in page
    table = CliRunner().invoke(exports, command[:-1], obj=registry, catch_exceptions=False).stdout
    assert "instance norms written out" in table
    assert str(tmp_path / "rewrites.json") in table


def test_each_file_lacks_one_piece_of_the_work_and_no_other() -> None:
    convolution, norm = torch.nn.Conv3d(1, 4, 3, padding=1), torch.nn.BatchNorm3d(4)
    network = torch.nn.Sequential(convolution, norm, torch.nn.Dropout3d(), torch.nn.Conv3d(4, 3, 1))
    files = export_each(network.eval(), (8, 8, 8))
    operators = {name: {node.op_type for node in onnx.load_model_from_string(files[name]).graph.node} for name in files}
    assert [name for name in files if "Dropout" in operators[name]] == ["dropout"]
    assert [name for name in files if "BatchNormalization" in operators[name]] == ["fold"]
    assert [name for name in files if "ArgMax" not in operators[name]] == ["labels"]


def test_the_committed_page_is_that_of_the_committed_results() -> None:
    report, rewrites = (json.loads((ROOT / "docs/results" / name).read_text()) for name in (RESULT, REWRITES))
    assert (ROOT / "docs/exports.md").read_text() == render(report, rewrites)
    assert all("reason" in row or row["status"] in ("proven", "built, not run", "not proven") for row in report["rows"])
