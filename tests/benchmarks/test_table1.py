"""`segkit bench table1`: every cell has figures or a reason, a run goes on where it stopped, the page is the file's."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from segkit.cli import cli
from segkit.errors import DataError, OutputExists, UnknownName, UsageError
from segkit.installed import Entry
from segkit.preprocess import Preprocessing
from segkit.registry import Registry, Switches
from segkit_benchmarks import thesis
from segkit_benchmarks.machine import machine_facts, usable_cores
from segkit_benchmarks.table1_nets import RUNTIMES, choose_nets, ways
from segkit_benchmarks.table1_render import render_csv, render_markdown
from segkit_benchmarks.table1_result import Row, Table1, Timing
from segkit_runtime.bundle import write_bundle
from segkit_runtime.cuda import why_no_device
from segkit_runtime.manifest import Inference, Label, Manifest, Model, Proof, Tolerance, Weights
from segkit_runtime.manifest import Network as NetworkOfBundle

ROOT = Path(__file__).parents[2]

FRAIL = '''
import os, signal
import torch
from segkit import ModelCard, hookimpl

@hookimpl
def segkit_models():
    return [ModelCard(name="frail", factory="frail_net:Frail", summary="dies", patch=(8, 8, 8))]

class Frail(torch.nn.Conv3d):
    """Traced and predicted like any other, but killed in training, and at odds with torch's own runs."""

    def __init__(self, in_channels, classes):
        super().__init__(in_channels, classes, 1)

    def forward(self, images):
        if type(images) is torch.Tensor and images.device.type != "meta" and images.shape[-1] == 8:
            if self.training:
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("no forward pass today")
        return super().forward(images)
'''

COMMAND = "bench table1 --models fake --patch 8,8,8 --runs 6 --seconds 0.2 --precision fp32,bf16 --out"


@dataclass(frozen=True)
class Made:
    """A run of the command, and all that it takes to run it again."""

    registry: Registry
    out: Path
    table: Table1


def invoke(registry: Registry, *words: str) -> Result:
    return CliRunner().invoke(cli, words, obj=registry, catch_exceptions=False, standalone_mode=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """The table of two tiny networks, one of which fails wherever it can."""
    folder = tmp_path_factory.mktemp("table1")
    (folder / "frail_net.py").write_text(FRAIL)
    builtin = Registry.from_environment(Switches(builtin_only=True))
    nets = [Entry("model", "fake", "segkit.fakes", "segkit-fakes", "1"), Entry("model", "frail", "frail_net", "x", "1")]
    registry = Registry([*builtin.entries, *nets])
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        invoke(registry, *COMMAND.split(), str(folder / "out"))
        more = COMMAND.replace("fake", "frail").replace("fp32,bf16", "fp32")
        done = invoke(registry, *more.split(), str(folder / "out"), "--runtimes", "torch", "--resume", "--json")
        table = Table1.read(folder / "out" / "table1.json")
        assert json.loads(done.stdout) == table.to_json()
        yield Made(registry, folder / "out", table)


def row_of(table: Table1, model: str) -> Row:
    row = table.row(model)
    assert row is not None
    return row


def test_a_network_is_measured_on_every_runtime(made: Made) -> None:
    row = row_of(made.table, "fake")
    assert row.network is not None
    assert (row.network.parameters, row.network.macs) == (8, 8**3 * 4)
    assert set(row.network.layers) == set(made.table.layer_rules)
    moved = 4 * (8 + 8**3 * (1 + 4))
    assert row.network.moved_mib == pytest.approx(moved / 2**20, abs=0.01)
    for runtime in ("torch", "onnxruntime", "openvino"):
        cell = row.cell(runtime, "fp32")
        assert cell is not None
        assert (cell.status, cell.reason, cell.device) == ("measured", None, "cpu")
        timing = cell.timing
        assert timing is not None
        assert 5 <= timing.runs == len(timing.times_ms) <= 6
        assert 0 < timing.p50_low_ms <= timing.p50_ms <= timing.p50_high_ms
        assert timing.p50_ms <= timing.p95_ms <= timing.p99_ms
        assert cell.patches_per_second == pytest.approx(1000 / timing.p50_ms, rel=0.01, abs=0.001)
        assert cell.voxels_per_second == pytest.approx(8**3 * 1000 / timing.p50_ms, rel=0.01)
        assert (cell.peak_mib or 0) > 20
        if runtime != "torch":
            assert (cell.file_mib or 0) >= 0
            assert cell.accuracy is not None
            assert cell.accuracy.max_abs_logit_difference < 1e-5
            assert cell.accuracy.label_agreement > 0.999
    assert made.table.peaks["cpu"]["gemm_gflops_per_second"] > 1
    assert made.table.peaks["cpu"]["copy_gb_per_second"] > 0.1


def test_an_engine_is_built_and_its_memory_predicted(made: Made) -> None:
    for precision in ("fp32", "bf16"):
        cell = row_of(made.table, "fake").cell("tensorrt_rtx", precision)
        assert cell is not None
        if why_no_device():
            assert cell.status == "built, not run"
            assert cell.reason is not None
            assert cell.reason.startswith("no CUDA device: ")
        assert (cell.file_mib or 0) > 0
        assert cell.predicted_activation_mib is not None
        assert cell.predicted_weights_mib is not None
        assert (cell.build_seconds or 0) > 0


def test_training_is_predicted_and_measured(made: Made) -> None:
    row = row_of(made.table, "fake")
    assert [found.patch for found in row.predicted] == [(8, 8, 8)]
    assert row.training is not None
    assert row.training.status == "measured"
    assert row.training.timing is not None
    assert row.training.timing.runs >= 5
    assert row.training.hours is None  # no network of the thesis at its patch
    assert row.training.measured_is is not None
    assert row.training.measured_is.startswith("CPU: ")


def test_a_cell_that_dies_says_why_and_the_rest_goes_on(made: Made) -> None:
    row = row_of(made.table, "frail")
    assert row.training is not None
    assert row.training.status == "failed"
    assert "ended by SIGKILL" in str(row.training.reason)
    torch = row.cell("torch", "fp32")
    assert torch is not None
    assert (torch.status, torch.reason) == ("failed", "RuntimeError: no forward pass today")


def test_no_cell_is_without_figures_or_a_reason(made: Made) -> None:
    asked = [(way.runtime, way.precision) for way in ways(RUNTIMES, ("fp32", "bf16"))]
    assert [(cell.runtime, cell.precision) for cell in row_of(made.table, "fake").cells] == asked
    for cell in [cell for row in made.table.rows for cell in row.cells]:
        assert (cell.status == "measured") == (cell.timing is not None)
        assert cell.status == "measured" or cell.reason
    bf16 = row_of(made.table, "fake").cell("onnxruntime", "bf16")
    assert bf16 is not None
    assert "got bf16, which it does not compute in there" in str(bf16.reason)
    assert made.table.finished is not None


def test_the_page_and_the_sheet_are_those_of_the_file(made: Made) -> None:
    page = (made.out / "table1.md").read_text()
    assert page == render_markdown(made.table)
    for text in ("fake", "no forward pass today", "GEMM peak", "governor", "load average", "threads on cores"):
        assert text in page
    sheet = (made.out / "table1.csv").read_text()
    assert sheet == render_csv(made.table)
    lines = list(csv.DictReader(io.StringIO(sheet)))
    assert [(line["model"], line["runtime"], line["precision"]) for line in lines] == [
        (row.model, cell.runtime, cell.precision) for row in made.table.rows for cell in row.cells
    ]
    first = row_of(made.table, "fake").cells[0]
    assert first.timing is not None
    assert float(lines[0]["p50_ms"]) == first.timing.p50_ms


def test_a_result_is_not_measured_over_unasked(made: Made) -> None:
    before = (made.out / "table1.json").read_bytes()
    with pytest.raises(UsageError, match=r"expected --resume or --overwrite, got both"):
        invoke(made.registry, *COMMAND.split(), str(made.out), "--resume", "--overwrite")
    with pytest.raises(OutputExists, match=r"table1.json exists; go on with --resume, or .* --overwrite"):
        invoke(made.registry, *COMMAND.split(), str(made.out))
    with pytest.raises(UsageError, match=r"expected the settings that .* was measured with"):
        invoke(made.registry, *COMMAND.replace("--runs 6", "--runs 7").split(), str(made.out), "--resume")
    assert (made.out / "table1.json").read_bytes() == before


def test_going_on_measures_what_is_missing_alone(made: Made, tmp_path: Path) -> None:
    cut = made.table.model_copy(deep=True)
    fake = row_of(cut, "fake")
    kept = fake.cell("onnxruntime", "fp32")
    fake.cells = [cell for cell in fake.cells if (cell.runtime, cell.precision) == ("onnxruntime", "fp32")]
    cut.rows = [fake]
    cut.write(tmp_path / "table1.json")
    command = COMMAND.replace("fp32,bf16", "fp32")
    trained = write_trained_bundle(tmp_path / "fake.segkit")
    more = ["--resume", "--runtimes", "onnxruntime,openvino", "--bundle", str(trained)]
    invoke(made.registry, *command.split(), str(tmp_path), *more)
    after = row_of(Table1.read(tmp_path / "table1.json"), "fake")
    assert after.cell("onnxruntime", "fp32") == kept
    assert after.training == fake.training
    assert [(cell.runtime, cell.status) for cell in after.cells] == [
        ("onnxruntime", "measured"),
        ("openvino", "measured"),
    ]
    accuracy = after.cells[1].accuracy
    assert accuracy is not None
    assert (accuracy.label_agreement, accuracy.dice_difference) == (0.9999, 0.0004)
    assert accuracy.basis == "trained weights, fake.segkit, on a made-up head"


def write_trained_bundle(folder: Path, *, trained: bool = True) -> Path:
    """A bundle that says how far OpenVINO is from torch with its weights."""
    proof = Proof(
        runtime="openvino",
        version="1",
        device="cpu",
        precision="fp32",
        model="model.onnx",
        patches=1,
        max_abs_logit_difference=1e-5,
        mean_abs_logit_difference=1e-6,
        p999_abs_logit_difference=1e-5,
        max_abs_logit=9.0,
        label_agreement=0.9999,
        least_dice=0.999,
        dice_difference=0.0004,
        voxels=1000,
        volumes=["a made-up head"],
        tolerance=Tolerance(most_logit_difference=1e-3, least_label_agreement=0.999, most_dice_difference=1e-3),
        proven=True,
    )
    manifest = Manifest(
        name="fake",
        created="2026-01-01T00:00:00Z",
        segkit_version="0.1.0",
        modalities=["T1"],
        spacing=None,
        preprocessing=Preprocessing(background="zero"),
        inference=Inference(patch=(8, 8, 8), overlap=0.5, blending="gaussian"),
        labels=[Label(code=0, name="background"), Label(code=1, name="ball")],
        network=NetworkOfBundle(
            model="fake", version="1", options={}, parameters=8, layers={"all": 1}, layer_rules={"all": "all"}, macs=1
        ),
        weights=Weights(trained=trained),
        models=[Model(file="model.onnx", precision="fp32", opset=20, sha256=hashlib.sha256(b"onnx").hexdigest())],
        proofs=[proof],
        engines=[],
        software={},
    )
    return write_bundle(folder, manifest, {"model.onnx": b"onnx"}).folder


def test_a_bundle_of_random_weights_has_no_accuracy_to_tell(registry: Registry, tmp_path: Path) -> None:
    bundle = write_trained_bundle(tmp_path / "fake.segkit", trained=False)
    with pytest.raises(UsageError, match=r"expected a bundle of trained weights, those of .*fake\.segkit are random"):
        invoke(registry, "bench", "table1", "--bundle", str(bundle), "--out", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.gpu
def test_a_gpu_adds_its_own_figures(registry: Registry, tmp_path: Path) -> None:
    words = "bench table1 --models densenet3d --runtimes torch,tensorrt_rtx --runs 10 --seconds 5 --json --out"
    row = row_of(Table1.model_validate_json(invoke(registry, *words.split(), str(tmp_path)).stdout), "densenet3d")
    assert row.training is not None
    assert row.training.device == "cuda:0"
    assert (row.training.measured_mib or 0) > 100
    for cell in row.cells:
        assert (cell.status, cell.device) == ("measured", "cuda:0")
        assert cell.gemm_share
    engine = row.cell("tensorrt_rtx", "fp32")
    assert engine is not None
    assert (engine.device_ms or 0) > 0
    assert engine.accuracy is not None
    assert engine.accuracy.label_agreement > 0.99


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        ("--models vnett", UnknownName, "no model 'vnett'; did you mean 'vnet'"),
        ("--runtimes tensorflow", UnknownName, "no runtime 'tensorflow'"),
        ("--precision auto", UsageError, "expected precisions by name, got auto"),
        ("--models vnet --patch 20,16,16", UsageError, "multiple"),
        ("--threads 4096", UsageError, "expected at most [0-9]+ threads"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is(
    registry: Registry, tmp_path: Path, words: str, error: type[UsageError], message: str
) -> None:
    with pytest.raises(error, match=message):
        invoke(registry, "bench", "table1", "--out", str(tmp_path / "out"), *words.split())
    assert not (tmp_path / "out").exists()


def test_the_networks_are_those_of_the_thesis_at_its_patches(registry: Registry) -> None:
    nets = choose_nets(registry, (), None, quick=False)
    assert [(net.model, net.channels, net.patch) for net in nets] == [
        ("vnet", 1, (128, 128, 64)),
        ("vnet-light", 1, (128, 128, 64)),
        ("unet3d", 2, (128, 128, 64)),
        ("unet3d-residual", 2, (128, 128, 64)),
        ("densenet3d", 2, (28, 28, 28)),
        ("densenet3d-2stream-late", 2, (28, 28, 28)),
        ("densenet3d-2stream-early", 2, (28, 28, 28)),
        ("densenet3d-3stream-early", 3, (28, 28, 28)),
    ]
    quick = choose_nets(registry, ("vnet", "densenet3d"), None, quick=True)
    assert [net.patch for net in quick] == [(64, 64, 32), (28, 28, 28)]
    rows = [net.row() for net in nets]
    assert [row.printed and row.printed.layers for row in rows] == [113, 84, 95, 95, 34, 67, 40, 43]
    assert all({"memory", "hours"} <= row.reasons.keys() for row in rows)


def test_parameters_that_are_not_the_printed_ones_have_a_reason(registry: Registry) -> None:
    for net in choose_nets(registry, (), None, quick=False):
        network = registry.build_model(net.model, net.channels, net.classes)
        printed = net.row().printed
        assert printed is not None
        ours = sum(parameter.numel() for parameter in network.parameters()) / 1e6
        assert abs(ours / printed.parameters_million - 1) < 0.05 or "parameters" in thesis.REASONS[net.model]


def test_another_file_is_no_result(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected a result of segkit bench table1 at .*, No such file"):
        Table1.read(tmp_path / "table1.json")
    (tmp_path / "table1.json").write_text('{"schema": 2}')
    with pytest.raises(DataError, match=r"schema 1, in .*, found at schema: .*; measure again"):
        Table1.read(tmp_path / "table1.json")


def test_the_machine_is_described() -> None:
    facts = machine_facts()
    assert {"cpu", "cores", "memory_mib", "capabilities", "governor", "system", "python"} <= facts.keys()
    assert facts["governor"]
    cores = usable_cores()
    assert len(set(cores)) == len(cores) > 0


def test_times_are_summed_up() -> None:
    timing = Timing.of([float(value) for value in range(1, 21)])
    assert (timing.runs, timing.p50_ms, timing.p95_ms) == (20, 10.5, 19.05)
    assert timing.p50_low_ms < timing.p50_ms < timing.p50_high_ms


def test_the_committed_page_is_that_of_the_committed_result() -> None:
    table = Table1.read(ROOT / "docs/results/table1.json")
    assert (ROOT / "docs/table1.md").read_text() == render_markdown(table)
    assert not table.settings.quick
    assert table.finished is not None
    assert {model for row in thesis.ROWS for model in row.models} <= {row.model for row in table.rows}
    for row in table.rows:
        assert {"torch", "onnxruntime", "openvino", "tensorrt_rtx"} <= {cell.runtime for cell in row.cells}
        assert all(cell.status != "failed" for cell in row.cells)
