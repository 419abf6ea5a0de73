"""A folder of made-up results, with every shape that a result file can take, and the page that is made of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from segkit import Registry
from segkit.cli import cli
from segkit.fakes import fake_registry, make_subjects
from segkit.registry import Switches
from segkit_benchmarks.table1_nets import choose_nets
from segkit_benchmarks.table1_result import (
    Accuracy,
    Cell,
    Network,
    PredictedTraining,
    Settings,
    Table1,
    Timing,
    Training,
)

Segkit = Callable[..., str]

ROOT = Path(__file__).parents[3]

TRAINING = (
    "--model unet3d --dataset fake --option width=2 --option levels=2 --option norm=instance --epochs 2 "
    "--patches-per-epoch 3 --patch 16,16,16 --loss cross-entropy --hold-out 1 --overlap 0.25 --device cpu"
)

RUNTIMES = {"torch": 4.1, "onnxruntime": 1.9, "openvino": 1.0}
"""How much longer each takes than the fastest."""

LAYER_RULES = {"leaf modules": "calls of modules that have none", "all modules": "calls of all but containers"}


def make_table1(registry: Registry) -> Table1:
    """A table of the thesis' networks: one cell failed, one engine was built and not run, one training died."""
    table = Table1(
        created="2026-01-02T03:04:05Z",
        finished="2026-01-02T04:04:05Z",
        segkit_version="0",
        versions={"torch": "2"},
        machine={"cpu": "Made-up <CPU> & Co", "cores": 2},
        peaks={"cpu": {"gemm_gflops_per_second": 180.0, "copy_gb_per_second": 14.0}},
        settings=Settings(quick=False, patch=None, runs=20, seconds=20, threads=2, cores=[0, 1]),
        method="made up",
        layer_rules=LAYER_RULES,
    )
    for number, net in enumerate(choose_nets(registry, (), None, False), start=1):
        row = net.row()
        macs = int(net.voxels * 3e5 * number)
        rule = row.printed.layer_rule if row.printed else "leaf modules"
        row.network = Network(
            parameters=5_000_000 * number,
            layers=dict.fromkeys({rule, *LAYER_RULES}, 30 + number),
            macs=macs,
            weights_mib=20.0 * number,
            moved_mib=40.0 + 30.0 * number,
        )
        parts = {"weights": 20.0, "gradients": 20.0, "activations": 210.0, "optimizer": 20.0, "temporaries": 60.0}
        for patch in dict.fromkeys([net.patch, *net.patches]):
            row.predicted.append(
                PredictedTraining(
                    patch=patch,
                    **{f"{name}_mib": number * size for name, size in parts.items()},
                    patches_mib=4.0,
                    total_mib=330.0 * number + 4,
                    expected_mib=400.0 * number,
                )
            )
        row.training = Training(
            status="measured",
            device="cpu",
            timing=Timing.of([900.0 * number + shift for shift in range(5)]),
            steps=60_000,
            hours=15.0 * number,
            measured_mib=350.0 * number,
            measured_is="growth of the process",
        )
        for runtime, slower in RUNTIMES.items():
            median = 60.0 * number * slower
            row.put(_measured(runtime, median, macs, 600.0 + 90 * number + 80 * slower))
        row.put(
            Cell(
                runtime="tensorrt_rtx",
                precision="fp32",
                status="built, not run",
                reason="no GPU here",
                build_seconds=1.5,
                file_mib=21.0 * number,
                predicted_activation_mib=48.0,
                predicted_weights_mib=20.0 * number,
            )
        )
        table.rows.append(row)
    table.rows[1].put(Cell(runtime="torch", precision="fp32", status="failed", reason="killed: out of memory"))
    table.rows[2].training = Training(status="failed", reason="its process ended with code -9")
    return table


def _measured(runtime: str, median_ms: float, macs: int, peak_mib: float) -> Cell:
    speed = 2 * macs / median_ms / 1e6 / 400
    return Cell(
        runtime=runtime,
        precision="fp32",
        status="measured",
        version="1.0",
        device="cpu",
        build_seconds=1.25,
        file_mib=30.0,
        load_seconds=0.4,
        first_run_ms=2 * median_ms,
        timing=Timing.of([median_ms + shift for shift in (-2.0, -1.0, 0.0, 1.0, 6.0)]),
        patches_per_second=1000 / median_ms,
        voxels_per_second=1e6,
        gflops_per_second=speed,
        gemm_share=speed / 180,
        peak_mib=peak_mib,
        accuracy=Accuracy(max_abs_logit_difference=1.5e-5, max_abs_logit=5, label_agreement=0.999998, basis="noise"),
    )


def write_profile(path: Path) -> None:
    """A profile with a runtime that is not installed."""
    measured = {
        "runtime": "openvino",
        "version": "1.0",
        "device": "CPU",
        "precision": "fp32",
        "load_seconds": 0.2,
        "first_run_ms": 130.0,
        "runs": 30,
        "p50_ms": 120.0,
        "p95_ms": 130.0,
        "p99_ms": 140.0,
        "gflops_per_second": 90.0,
        "peak_mib": 540.0,
    }
    _write(
        path,
        {
            "bundle": "tiny",
            "machine": {"cpu": "Made-up CPU", "cores": 2},
            "network": {"model": "unet3d", "parameters": 99000, "macs": 10**9, "patch": [64, 64, 64], "in_channels": 2},
            "onnx_mib": 1.2,
            "runtimes": [measured, {"runtime": "torch", "failed": "no module torch"}],
            "method": "made up",
        },
    )


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content))


@pytest.fixture(scope="session")
def registry() -> Registry:
    """What segkit brings, and the fakes: their data set is small."""
    return Registry([*Registry.from_environment(Switches(builtin_only=True)).entries, *fake_registry().entries])


@pytest.fixture(scope="session")
def segkit(registry: Registry) -> Segkit:
    """Runs a command and returns what it prints."""

    def run(*arguments: str | Path) -> str:
        words = [str(argument) for argument in arguments]
        return CliRunner().invoke(cli, words, obj=registry, catch_exceptions=False, standalone_mode=False).stdout

    return run


@pytest.fixture(scope="session")
def table1(registry: Registry) -> Table1:
    """A made-up table1.json."""
    return make_table1(registry)


@pytest.fixture(scope="session")
def results(table1: Table1, segkit: Segkit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with results of every kind, and a run that was trained on balls in cubes of 24 voxels."""
    folder = tmp_path_factory.mktemp("everything") / "results"
    folder.mkdir()
    table1.write(folder / "table1.json")
    write_profile(folder / "tiny.profile.json")
    shutil.copy(ROOT / "docs" / "results" / "dsc-quick.json", folder / "dsc-quick.json")
    proofs = json.loads((ROOT / "docs" / "results" / "exports.json").read_text())
    _write(folder / "exports.json", {**proofs, "rows": proofs["rows"][:30]})
    make_subjects(folder / "data", "ball", 3, 0, lambda _: None)
    segkit("train", "--data", folder / "data", "--out", folder / "run", *TRAINING.split())
    segkit("evaluate", folder / "run", "--device", "cpu")
    return folder


@pytest.fixture(scope="session")
def niivue() -> Path:
    """NiiVue's package as `npm ci` installs it."""
    folder = ROOT / "node_modules" / "@niivue" / "niivue"
    if not folder.is_dir():
        pytest.skip("needs NiiVue, which is not installed; run: npm ci --ignore-scripts")
    return folder


@pytest.fixture(scope="session")
def page_file(results: Path, segkit: Segkit, niivue: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of all of it, with its viewer."""
    out = tmp_path_factory.mktemp("page") / "report.html"
    segkit("report", results, "--html", "--niivue", niivue, "--out", out, "--device", "cpu")
    return out
