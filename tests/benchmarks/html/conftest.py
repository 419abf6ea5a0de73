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
from segkit.volume import format_size
from segkit_benchmarks import io, training_peers
from segkit_benchmarks.peers.report import floors, program_report, volume_report
from segkit_benchmarks.peers.work import FULL
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
from segkit_benchmarks.training_ours import DEFAULT, Net
from segkit_benchmarks.training_report import patch_report, step_report
from segkit_benchmarks.turns import Result

Segkit = Callable[..., str]

ROOT = Path(__file__).parents[3]

TRAINING = (
    "--model unet3d --dataset fake --option width=2 --option levels=2 --option norm=instance --epochs 2 "
    "--patches-per-epoch 3 --patch 16,16,16 --loss cross-entropy --hold-out 1 --overlap 0.25 --device cpu"
)

RUNTIMES = {"torch": 4.1, "onnxruntime": 1.9, "openvino": 1.0}
"""How much longer each takes than the fastest."""

SIZES = ((128, 128, 64), (32, 32, 32))
"""Of training patches."""

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


SIDES = {
    "segkit, openvino": 1.0,
    "segkit, openvino bf16": 0.4,
    "segkit, onnxruntime": 1.6,
    "MONAI": 5.0,
    "MONAI, bf16": 2.2,
    "torch": 4.0,
    "MedicalZoo": 12.0,
}
"""How many seconds each takes."""


def make_peers() -> dict[str, Any]:
    """What `segkit bench peers` makes of two cases, a start and a run: one side failed, one labels otherwise."""

    def results(*names: str) -> dict[str, Result]:
        rounds = {
            name: [{"seconds": SIDES[name] * by, "patches": 12} for by in ((1, 1) if "segkit" in name else (0.8, 1.2))]
            for name in names
        }
        return {
            name: Result(rounds=figures, peak_mib=400 + 100 * SIDES[name], failed=None)
            for name, figures in rounds.items()
        }

    def alike(one: str, other: str) -> float:
        return 0.25 if "MedicalZoo" in (one, other) else 0.9999

    peak = {"fp32": 180.0, "bf16": 700.0}
    net, volumes = FULL.nets[0], []
    for case in net.cases[:2]:
        found = results(*SIDES)
        found["TorchIO"] = Result(failed="killed: <out of memory>")
        left_out = {"nnU-Net": "nnunetv2 is not installed"}
        part = volume_report(found, left_out, net, case, folder=Path("nowhere"), gflop=9.0, peak=peak, voxels=7_077_888)
        for ratio in part["ratios"]:
            ratio["same_labels"] = alike(ratio["ours"], ratio["peer"])
        volumes.append(part)
    programs = ("segkit, openvino", "MONAI", "torch")
    started = results(*programs)
    for result in started.values():
        result.rounds = [{**figures, "peak_mib": 300.0} for figures in result.rounds]
    report: dict[str, Any] = {
        "schema": 1,
        "machine": {"cpu": "Made-up CPU", "cores": 2, "capabilities": ["avx2"], "gemm_gflops_per_second": peak},
        "versions": {"monai": "1"},
        "quick": False,
        "rounds": 2,
        "threads": 2,
        "volumes": volumes,
        "start": program_report("start", started, lambda one, other: None),
        "run": program_report("run", started, alike),
    }
    return {**report, "floors": floors(report)}


def make_training() -> dict[str, Any]:
    """What `segkit bench training` makes of patches and of steps of a network; one side of each failed."""
    large, small = (format_size(size) for size in SIZES)

    def patches(way: str, slower: float) -> Result:
        rounds = [{"first_patch_seconds": 0.05, way: {large: by / slower, small: 40 * by / slower}} for by in (90, 110)]
        return Result(first={"prepare_and_first_patch_seconds": 3.5}, rounds=rounds, peak_mib=300)

    names = {DEFAULT: 1.0, training_peers.MONAI_TUNED: 4.0, training_peers.MEDICALZOO_MAKING: 90.0}
    drawn = {name: patches(name, slower) for name, slower in names.items()}
    drawn[training_peers.NNUNET] = Result(failed="made up")
    stepped = {
        side: Result(rounds=[{"seconds": slower * by} for by in (0.9, 1.0)], peak_mib=900)
        for side, slower in (("segkit bf16", 1.0), ("segkit fp32", 2.0), ("MedicalZoo fp32", 2.5))
    }
    stepped["MONAI fp32"] = Result(failed="killed: out of memory")
    return {
        "schema": 1,
        "machine": {"cpu": "Made-up CPU", "cores": 2, "capabilities": []},
        "versions": {"torch": "2"},
        "repeats": 2,
        "precisions": ["fp32", "bf16"],
        "patches": patch_report(drawn, SIZES, judged=True),
        "steps": step_report(stepped, Net(model="vnet", channels=1, patch=(64, 64, 64)), judged=True),
    }


def make_io(folder: Path) -> dict[str, Any]:
    """What `segkit bench io` makes of two sides and of one that failed."""
    for name in ("image", "labels-segkit", "labels-SimpleITK"):
        (folder / f"{name}.nii.gz").write_bytes(bytes(1500))
    results = {
        "segkit": Result(rounds=[{"read": 10.0, "write": 4.0}] * 2, peak_mib=100),
        "SimpleITK": Result(rounds=[{"read": read, "write": 31.0} for read in (13.0, 15.0)], peak_mib=200),
        "MONAI": Result(failed="ImportError: no"),
    }
    return {**io.make_report(results, folder, judged=True), "size": io.SIZE, "rounds": 2, "repeats": 5, "quick": False}


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
def peers() -> dict[str, Any]:
    """A made-up peers.json."""
    return make_peers()


@pytest.fixture(scope="session")
def results(table1: Table1, peers: dict[str, Any], segkit: Segkit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with results of every kind, and a run that was trained on balls in cubes of 24 voxels."""
    folder = tmp_path_factory.mktemp("everything") / "results"
    folder.mkdir()
    table1.write(folder / "table1.json")
    write_profile(folder / "tiny.profile.json")
    shutil.copy(ROOT / "docs" / "results" / "dsc-quick.json", folder / "dsc.json")
    _write(folder / "peers.json", peers)
    _write(folder / "training.json", make_training())
    _write(folder / "io.json", make_io(tmp_path_factory.mktemp("io")))
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


@pytest.fixture(scope="session")
def page(page_file: Path) -> str:
    """The same as text."""
    return page_file.read_text(encoding="utf-8")
