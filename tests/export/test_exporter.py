from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from segkit import Registry
from segkit.cards import Size
from segkit.errors import MissingExtra, OutputExists, SegkitError, UsageError, VerificationFailed
from segkit.run import Run
from segkit_export import exporter, tensorrt_build
from segkit_export.exporter import Exported, Request, export
from segkit_export.onnx_export import to_onnx
from segkit_export.source import BareOptions
from segkit_runtime.bundle import Bundle
from segkit_runtime.engines import ENGINES, missing_runtimes

from .conftest import OPTIONS, PATCH
from .test_tensorrt_build import needs_rtx
from .test_verify import scale_an_initializer


def request(out: Path, **changes: Any) -> Request:
    return Request(**{"name": "unet3d", "out": out, "patch": PATCH, "bare": BareOptions(options=OPTIONS), **changes})


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, registry: Registry) -> Exported:
    out = tmp_path_factory.mktemp("exported") / "unet3d.segkit"
    return export(request(out, tensorrt=importlib.util.find_spec("tensorrt_rtx") is not None), registry)


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trace the same weights once; that two traces give the same bytes is proven elsewhere."""
    monkeypatch.setattr(exporter, "to_onnx", _trace)


def _trace(network: torch.nn.Module, in_channels: int, patch: Size, metadata: dict[str, str]) -> bytes:
    key = b"".join(weights.numpy().tobytes() for weights in network.state_dict().values())
    if key not in _TRACED:
        _TRACED[key] = to_onnx(network, in_channels, patch, metadata)
    return _TRACED[key]


_TRACED: dict[bytes, bytes] = {}


def test_a_bundle_opens_and_says_that_it_is_untrained(exported: Exported) -> None:
    bundle = Bundle.open(exported.bundle.folder)
    assert bundle == exported.bundle
    manifest = bundle.manifest
    assert not manifest.weights.trained
    assert (manifest.name, manifest.modalities, manifest.inference.patch) == ("unet3d", ["image"], PATCH)
    assert manifest.opset == 20
    assert {"torch", "onnx", "onnxruntime", "python"} <= manifest.software.keys()
    assert "ntrained" in (bundle.folder / "card.md").read_text()


def test_every_installed_runtime_is_proven(exported: Exported) -> None:
    installed = ENGINES.keys() - missing_runtimes().keys()
    assert {proof.runtime for proof in exported.bundle.manifest.proofs if proof.proven} == installed
    assert exported.warnings == ()


@needs_rtx
def test_the_engine_is_in_the_bundle_and_said_not_to_have_run(exported: Exported) -> None:
    (engine,) = exported.bundle.manifest.engines
    assert engine.file == "engines/unet3d-tensorrt_rtx-sm80+.engine"
    assert len(exported.bundle.read(engine.file)) > engine.weight_bytes
    assert engine.status == "built, not run"
    assert engine.onnx_sha256 == exported.bundle.manifest.onnx_sha256
    assert engine.activation_bytes > 0
    assert exported.bundle.manifest.software["tensorrt_rtx"] == engine.version


def test_the_onnx_file_says_where_it_comes_from(exported: Exported) -> None:
    import onnx

    model = onnx.load_from_string(exported.bundle.read("model.onnx"))
    props = {prop.key: prop.value for prop in model.metadata_props}
    assert props["segkit.name"] == "unet3d"
    assert props["segkit.version"] == exported.bundle.manifest.segkit_version
    assert props["segkit.schema"] == "2"
    assert props["segkit.trained"] == "false"


def test_a_run_is_compared_on_its_held_out_subject(registry: Registry, run: Run) -> None:
    seen: list[str] = []
    exported = export(Request(name=str(run.folder)), registry, lambda step, done, total: seen.append(step))
    manifest = Bundle.open(run.folder / "unet3d.segkit").manifest
    assert manifest == exported.bundle.manifest
    assert manifest.weights.trained
    assert manifest.proofs[0].volumes == ["phantom sub-003"]
    assert manifest.proofs[0].voxels > 10_000
    order = [step for step in dict.fromkeys(seen) if "openvino" not in step]
    assert order == [
        "build network",
        "trace to ONNX",
        "compare: torch, phantom sub-003",
        "compare: load onnxruntime",
        "compare: onnxruntime, phantom sub-003",
        "write bundle",
    ]


def test_what_is_there_is_refused_before_any_work(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "x.segkit").mkdir()
    seen: list[str] = []
    with pytest.raises(OutputExists, match=r"expected nothing at .*x\.segkit, found a (file|folder); add --overwrite"):
        export(request(tmp_path / "x.segkit"), registry, lambda step, done, total: seen.append(step))
    assert seen == []


@pytest.mark.usefixtures("traced")
def test_overwrite_replaces_a_bundle_and_nothing_else(registry: Registry, tmp_path: Path) -> None:
    out = tmp_path / "x.segkit"
    export(request(out), registry)
    again = export(request(out, overwrite=True, bare=BareOptions(classes=3, options=OPTIONS)), registry)
    assert len(Bundle.open(out).manifest.labels) == len(again.bundle.manifest.labels) == 3
    other = tmp_path / "thesis"
    other.mkdir()
    with pytest.raises(UsageError, match=r"expected a bundle to overwrite at .*thesis, found something else"):
        export(request(other, overwrite=True), registry)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["thesis", "x.segkit"]


def test_a_file_where_a_folder_should_be_is_refused(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"expected a folder to write in, .*file is not"):
        export(request(tmp_path / "file" / "x.segkit"), registry)


def test_an_export_that_is_not_the_network_is_not_written(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "to_onnx", lambda *args: scale_an_initializer(_trace(*args), 1.05))
    with pytest.raises(VerificationFailed, match="expected onnxruntime to differ from torch by less than"):
        export(request(tmp_path / "x.segkit"), registry)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("traced")
def test_openvino_outside_the_tolerances_is_told_unless_it_was_asked_for(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = exporter._prove_one

    def doubt(runtime: str, *args: Any) -> Any:
        return honest(runtime, *args).model_copy(update={"proven": runtime != "openvino"})

    monkeypatch.setattr(exporter, "_prove_one", doubt)
    done = export(request(tmp_path / "x.segkit"), registry)
    assert [proof.proven for proof in Bundle.open(tmp_path / "x.segkit").manifest.proofs] == [True, False]
    assert "openvino was not proven: it differs by up to" in done.warnings[0]
    with pytest.raises(VerificationFailed, match="expected openvino to differ from torch by less than"):
        export(request(tmp_path / "y.segkit", openvino=True), registry)
    assert not (tmp_path / "y.segkit").exists()


@pytest.mark.usefixtures("traced")
def test_openvino_that_does_not_run_is_told_unless_it_was_asked_for(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = exporter.open_engine

    def fail(runtime: str, model: bytes) -> Any:
        if runtime == "openvino":
            raise SegkitError("expected OpenVINO to compute in fp32, it computes in bf16")
        return honest(runtime, model)

    monkeypatch.setattr(exporter, "open_engine", fail)
    done = export(request(tmp_path / "x.segkit"), registry)
    assert done.warnings == ("openvino was not proven: expected OpenVINO to compute in fp32, it computes in bf16",)
    assert [proof.runtime for proof in done.bundle.manifest.proofs] == ["onnxruntime"]
    with pytest.raises(SegkitError, match="it computes in bf16"):
        export(request(tmp_path / "y.segkit", openvino=True), registry)


@pytest.mark.parametrize(
    ("module", "changes", "extra"),
    [("tensorrt_rtx", {"tensorrt": True}, "trt"), ("openvino", {"openvino": True}, "openvino"), ("onnx", {}, "export")],
)
def test_a_missing_package_is_named_before_any_work(
    registry: Registry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    changes: dict[str, Any],
    extra: str,
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == module else find(name))
    seen: list[str] = []
    with pytest.raises(MissingExtra, match=rf"'{module}', which is not installed.*segkit3d\[{extra}\]"):
        export(request(tmp_path / "x.segkit", **changes), registry, lambda step, done, total: seen.append(step))
    assert seen == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "at", ["trace to ONNX", "compare: onnxruntime, synthetic head", "build engine", "write bundle"]
)
@pytest.mark.usefixtures("traced")
def test_an_interrupt_leaves_nothing_behind(registry: Registry, tmp_path: Path, at: str) -> None:
    if at == "build engine" and importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("needs tensorrt_rtx: pip install segkit3d[trt]")

    def interrupt(step: str, done: int, total: int) -> None:
        if step == at:
            raise KeyboardInterrupt(step)

    with pytest.raises(KeyboardInterrupt, match=at):
        export(request(tmp_path / "x.segkit", tensorrt=at == "build engine"), registry, interrupt)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("traced")
def test_an_engine_that_cannot_be_built_leaves_no_bundle_without_it(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise SegkitError("no engine")

    monkeypatch.setattr(tensorrt_build, "require_module", lambda *_: None)
    monkeypatch.setattr(tensorrt_build, "build_engine", fail)
    with pytest.raises(SegkitError, match="no engine"):
        export(request(tmp_path / "x.segkit", tensorrt=True), registry)
    assert list(tmp_path.iterdir()) == []
