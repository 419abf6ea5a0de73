"""`segkit bench compare`: what changed beyond noise, what did not, what cannot be compared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from segkit.cli import cli
from segkit.errors import DataError, UsageError
from segkit.registry import Registry
from segkit_benchmarks.compare_results import CONFIDENCE, LEAST_CHANGE, Finding, compare_results, load
from segkit_benchmarks.table1_result import Cell, Network, Row, Settings, Table1, Timing, Training


def times(median_ms: float, runs: int = 20, seed: int = 0) -> list[float]:
    """Times that scatter by 3 % around a median."""
    return [float(value) for value in np.random.default_rng(seed).normal(median_ms, 0.03 * median_ms, runs)]


def write(folder: Path, cells: Sequence[Cell], **changes: Any) -> Path:
    """A result file of one network."""
    row = Row(
        model="vnet",
        channels=1,
        classes=4,
        patch=changes.pop("patch", (16, 16, 16)),
        network=Network(
            parameters=10, layers={"leaf_calls": 3}, macs=changes.pop("macs", 99), weights_mib=1, moved_mib=2
        ),
        training=Training(status="measured", device="cpu", timing=Timing.of(changes.pop("steps", times(900)))),
        cells=list(cells),
    )
    settings = Settings(quick=False, patch=None, runs=20, seconds=60, threads=changes.pop("threads", 2), cores=[0, 1])
    table = Table1(
        created="2026-01-01T00:00:00+00:00",
        segkit_version=changes.pop("segkit_version", "1.0"),
        versions={"torch": "2.13.0"},
        machine={"cpu": "Made-up CPU", "cores": 2},
        settings=settings,
        method="made up",
        layer_rules={"leaf_calls": "made up"},
        rows=[row],
    )
    assert not changes
    table.write(folder / "table1.json")
    return folder / "table1.json"


def cell(runtime: str, samples: Sequence[float] = (), peak_mib: float = 100) -> Cell:
    if not samples:
        return Cell(runtime=runtime, precision="fp32", status="failed", reason="out of memory")
    return Cell(
        runtime=runtime, precision="fp32", status="measured", device="cpu", timing=Timing.of(samples), peak_mib=peak_mib
    )


def find(findings: Sequence[Finding], name: str, figure: str) -> Finding:
    return next(finding for finding in findings if (finding.cell, finding.figure) == (name, figure))


def test_only_what_changed_beyond_noise_is_called_changed(tmp_path: Path) -> None:
    a = write(tmp_path / "a", [cell("torch", times(100)), cell("openvino", times(50)), cell("onnxruntime", times(80))])
    faster, slightly = times(40, seed=1), times(51, seed=2)
    b = write(
        tmp_path / "b",
        [cell("torch", times(101, seed=3), 104), cell("openvino", faster, 130), cell("onnxruntime", slightly)],
        steps=times(1100, seed=4),
    )
    differing, findings = compare_results(load(a), load(b))
    assert differing == {}
    torch = find(findings, "vnet: torch fp32", "run, ms")
    assert torch.verdict == "same"
    assert find(findings, "vnet: torch fp32", "peak_mib").verdict == "same"
    openvino = find(findings, "vnet: openvino fp32", "run, ms")
    assert openvino.verdict == "changed"
    assert openvino.ratio == pytest.approx(0.8, abs=0.03)
    assert openvino.ratio_low is not None
    assert openvino.ratio_high is not None
    assert openvino.ratio_low < openvino.ratio < openvino.ratio_high < 1
    assert find(findings, "vnet: openvino fp32", "peak_mib").verdict == "changed"
    assert find(findings, "vnet: training", "step, ms").verdict == "changed"
    assert find(findings, "vnet: network", "macs").verdict == "same"


def test_noise_is_seldom_taken_for_a_change(tmp_path: Path) -> None:
    taken = 0
    for seed in range(30):
        a = write(tmp_path / "a", [cell("torch", times(100, seed=2 * seed))])
        b = write(tmp_path / "b", [cell("torch", times(100, seed=2 * seed + 1))])
        taken += find(compare_results(load(a), load(b))[1], "vnet: torch fp32", "run, ms").verdict == "changed"
    assert taken == 0


def test_a_small_change_is_no_change_however_sure_it_is(tmp_path: Path) -> None:
    a = write(tmp_path / "a", [cell("torch", [100.0] * 20)])
    b = write(tmp_path / "b", [cell("torch", [100.0 * (1 + LEAST_CHANGE / 2)] * 20)])
    assert find(compare_results(load(a), load(b))[1], "vnet: torch fp32", "run, ms").verdict == "same"


def test_missing_cells_failures_and_other_networks_are_told(tmp_path: Path) -> None:
    a = write(tmp_path / "a", [cell("torch", times(100)), cell("openvino", times(50))])
    b = write(tmp_path / "b", [cell("torch"), cell("onnxruntime", times(50))], macs=98)
    findings = compare_results(load(a), load(b))[1]
    status = find(findings, "vnet: torch fp32", "status")
    assert (status.verdict, status.a, status.b) == ("changed", "measured", "failed")
    assert find(findings, "vnet: torch fp32", "run, ms").verdict == "only in A"
    assert find(findings, "vnet: openvino fp32", "-").verdict == "only in A"
    assert find(findings, "vnet: onnxruntime fp32", "-").verdict == "only in B"
    assert find(findings, "vnet: network", "macs").verdict == "changed"


def test_other_work_is_not_compared(tmp_path: Path) -> None:
    a = write(tmp_path / "a", [cell("torch", times(100))])
    b = write(tmp_path / "b", [cell("torch", times(800))], patch=(32, 32, 32))
    findings = compare_results(load(a), load(b))[1]
    assert {finding.verdict for finding in findings} == {"not the same work"}
    assert "32x32x32" in str(findings[0].b)


def test_the_command_tells_conditions_changes_and_its_rule(registry: Registry, tmp_path: Path) -> None:
    a = write(tmp_path / "a", [cell("torch", times(100))])
    b = write(tmp_path / "b", [cell("torch", times(200, seed=1))], threads=1, segkit_version="2.0")
    text = invoke(registry, "bench", "compare", str(a.parent), str(b)).output
    for part in ("version segkit", "setting threads", "vnet: torch fp32", "changed", f"{CONFIDENCE:.0%} bootstrap"):
        assert part in text
    assert "settings differ that change what the figures mean" in text
    assert "macs" not in text
    assert "macs" in invoke(registry, "bench", "compare", str(a), str(b), "--all").output
    report = json.loads(invoke(registry, "bench", "compare", str(a), str(b), "--json").stdout)
    assert report["schema"] == 1
    assert report["conditions"]["setting threads"] == {"a": 2, "b": 1}
    changed = [found for found in report["findings"] if found["verdict"] == "changed"]
    assert [(found["cell"], found["figure"]) for found in changed] == [("vnet: torch fp32", "run, ms")]


def test_profiles_are_compared_too(tmp_path: Path) -> None:
    a = write_profile(tmp_path / "a.profile.json", times(100))
    b = write_profile(tmp_path / "b.profile.json", times(150, seed=1))
    findings = compare_results(load(a), load(b))[1]
    assert find(findings, "tiny: openvino", "run, ms").verdict == "changed"
    assert find(findings, "tiny: torch", "status").verdict == "same"
    old = write_profile(tmp_path / "old.profile.json", None)
    with pytest.raises(DataError, match=r"a profile with its times in .*, found KeyError: 'times_ms'; profile again"):
        load(old)


def test_engines_of_one_runtime_are_told_apart(tmp_path: Path) -> None:
    path = write_profile(tmp_path / "a.profile.json", times(100))
    report = json.loads(path.read_text())
    engine = {**report["runtimes"][0], "runtime": "tensorrt_rtx"}
    report["runtimes"] += [{**engine, "engine": f"unet3d.{name}.engine"} for name in ("fp32", "fp16")]
    path.write_text(json.dumps(report))
    assert {"tiny: unet3d.fp32.engine", "tiny: unet3d.fp16.engine"} <= set(load(path).cells)


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    a = write(tmp_path / "a", [cell("torch", times(100))])
    profile = write_profile(tmp_path / "a.profile.json", times(100))
    with pytest.raises(UsageError, match="two results of one benchmark, got segkit bench table1 and segkit profile"):
        compare_results(load(a), load(profile))
    other = json.loads(a.read_text())
    other["rows"][0]["model"] = "unet3d"
    (tmp_path / "other.json").write_text(json.dumps(other))
    with pytest.raises(UsageError, match="expected results with a cell in common, A has vnet: network"):
        compare_results(load(a), load(tmp_path / "other.json"))
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(DataError, match=r"list\.json is another file; compare table1\.json"):
        load(tmp_path / "list.json")
    (tmp_path / "none.json").write_text("{")
    with pytest.raises(DataError, match="is not JSON"):
        load(tmp_path / "none.json")
    with pytest.raises(DataError, match=r"expected a result file at .*, No such file"):
        load(tmp_path / "gone.json")


def write_profile(path: Path, samples: list[float] | None) -> Path:
    measured = {"runtime": "openvino", "version": "1.0", "precision": "fp32", "p50_ms": 1.0, "peak_mib": 540.0}
    report = {
        "schema": 2,
        "bundle": "tiny",
        "machine": {"cpu": "Made-up CPU", "cores": 2},
        "network": {"model": "unet3d", "patch": [64, 64, 64], "in_channels": 2},
        "runtimes": [
            measured if samples is None else {**measured, "times_ms": samples},
            {"runtime": "torch", "failed": "no module torch"},
        ],
    }
    path.write_text(json.dumps(report))
    return path


def invoke(registry: Registry, *words: str) -> Result:
    return CliRunner().invoke(cli, words, obj=registry, catch_exceptions=False, standalone_mode=False)
