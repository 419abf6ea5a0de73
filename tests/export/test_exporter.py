from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segkit import Registry
from segkit.cards import Size
from segkit.errors import MissingExtra, OutputExists, SegkitError, UsageError, VerificationFailed
from segkit.run import Run
from segkit_export import exporter, proving, tensorrt_build, verify
from segkit_export.exporter import Exported, Request, TensorRT, export
from segkit_export.onnx_export import Dynamic, to_onnx
from segkit_export.source import BareOptions
from segkit_export.tolerances import Bounds
from segkit_runtime.bundle import Bundle
from segkit_runtime.engines import ONNX_RUNTIMES, missing_runtimes, open_engine
from segkit_runtime.manifest import SCHEMA
from segkit_runtime.processor import cpu_instructions
from segkit_runtime.selfcheck import run_selfcheck

from .conftest import OPTIONS, PATCH
from .test_tensorrt_build import needs_rtx
from .test_verify import scale_an_initializer

_WIDEST = "decoder.0.0.0"
"""The convolution with most weights, which `scale_an_initializer` changes."""


def request(out: Path, **changes: Any) -> Request:
    return Request(**{"name": "unet3d", "out": out, "patch": PATCH, "bare": BareOptions(options=OPTIONS), **changes})


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, registry: Registry) -> Exported:
    out = tmp_path_factory.mktemp("exported") / "unet3d.segkit"
    return export(request(out, tensorrt=TensorRT() if importlib.util.find_spec("tensorrt_rtx") else None), registry)


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trace the same weights once; that two traces give the same bytes is proven elsewhere."""
    monkeypatch.setattr(exporter, "to_onnx", _trace)


def _trace(network: torch.nn.Module, in_channels: int, patch: Size, metadata: dict[str, str], **_: Any) -> bytes:
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
    assert [(model.file, model.precision, model.opset) for model in manifest.models] == [("model.onnx", "fp32", 20)]
    assert {"torch", "onnx", "openvino", "python"} <= manifest.software.keys()
    assert "ntrained" in (bundle.folder / "card.md").read_text()


def test_random_weights_are_proven_on_the_fastest_runtime_alone(exported: Exported) -> None:
    fastest = next(name for name in ONNX_RUNTIMES if name not in missing_runtimes())
    assert [proof.runtime for proof in exported.bundle.manifest.proofs if proof.proven] == [fastest]
    assert exported.warnings == ()
    assert {tuple(proof.cpu_instructions or ()) for proof in exported.bundle.manifest.proofs} == {cpu_instructions()}


def test_a_trained_network_is_proven_on_every_installed_runtime(registry: Registry, run: Run) -> None:
    manifest = export(Request(name=str(run.folder)), registry).bundle.manifest
    assert {proof.runtime for proof in manifest.proofs} == set(ONNX_RUNTIMES) - missing_runtimes().keys()


@needs_rtx
def test_the_engine_is_in_the_bundle_and_said_not_to_have_run(exported: Exported) -> None:
    (engine,) = exported.bundle.manifest.engines
    assert engine.file == "engines/unet3d-tensorrt_rtx-fp32-sm80+.engine"
    assert len(exported.bundle.read(engine.file)) > engine.weight_bytes
    assert engine.status == "built, not run"
    assert engine.model == "model.onnx"
    assert engine.onnx_sha256 == exported.bundle.manifest.models[0].sha256
    assert engine.shapes == ([1, 1, *PATCH],) * 3
    assert engine.activation_bytes > 0
    assert exported.bundle.manifest.software["tensorrt_rtx"] == engine.version


def test_the_onnx_file_says_where_it_comes_from(exported: Exported) -> None:
    import onnx

    model = onnx.load_from_string(exported.bundle.read("model.onnx"))
    props = {prop.key: prop.value for prop in model.metadata_props}
    assert props["segkit.name"] == "unet3d"
    assert props["segkit.version"] == exported.bundle.manifest.segkit_version
    assert props["segkit.schema"] == str(SCHEMA)
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
        "make fp32",
        "compare: load onnxruntime, fp32",
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
    monkeypatch.setattr(exporter, "to_onnx", lambda *args, **_: scale_an_initializer(_trace(*args), 1.05))
    with pytest.raises(
        VerificationFailed,
        match=r"expected \w+ in fp32 to do what torch does .*; the first layer that differs is",
    ):
        export(request(tmp_path / "x.segkit"), registry)
    assert [path.name for path in tmp_path.iterdir()] == ["x.segkit.failed"]
    report = json.loads((tmp_path / "x.segkit.failed" / "failure.json").read_text())
    assert not report["proof"]["proven"]
    assert report["doctor"]["module"] == _WIDEST
    assert (tmp_path / "x.segkit.failed" / report["picture"]).read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("traced")
def test_openvino_outside_the_tolerances_is_told_unless_it_was_asked_for(
    registry: Registry, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = verify.prove

    def doubt(engine: Any, *args: Any, **chosen: Any) -> Any:
        finding = honest(engine, *args, **chosen)
        proof = finding.proof.model_copy(update={"proven": engine.runtime != "openvino"})
        return dataclasses.replace(finding, proof=proof)

    monkeypatch.setattr(verify, "prove", doubt)
    done = export(Request(name=str(run.folder), out=tmp_path / "x.segkit"), registry)
    assert [proof.runtime for proof in Bundle.open(tmp_path / "x.segkit").manifest.proofs] == ["onnxruntime"]
    assert "openvino in fp32 was not proven: expected openvino in fp32 to do what torch does" in done.warnings[0]
    with pytest.raises(VerificationFailed, match="expected openvino in fp32 to do what torch does"):
        export(Request(name=str(run.folder), out=tmp_path / "y.segkit", openvino=True), registry)
    assert not (tmp_path / "y.segkit").exists()


@pytest.mark.usefixtures("traced")
def test_openvino_that_does_not_run_is_told_unless_it_was_asked_for(
    registry: Registry, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = proving.open_engine

    def fail(runtime: str, model: bytes, **chosen: Any) -> Any:
        if runtime == "openvino":
            raise SegkitError("expected OpenVINO to compute in fp32, it computes in bf16")
        return honest(runtime, model, **chosen)

    monkeypatch.setattr(proving, "open_engine", fail)
    done = export(Request(name=str(run.folder), out=tmp_path / "x.segkit"), registry)
    assert done.warnings == (
        "openvino in fp32 was not proven: expected OpenVINO to compute in fp32, it computes in bf16",
    )
    assert [proof.runtime for proof in done.bundle.manifest.proofs] == ["onnxruntime"]
    with pytest.raises(SegkitError, match="it computes in bf16"):
        export(Request(name=str(run.folder), out=tmp_path / "y.segkit", openvino=True), registry)


@pytest.mark.parametrize(
    ("module", "changes", "extra"),
    [
        ("tensorrt_rtx", {"tensorrt": TensorRT()}, "trt"),
        ("openvino", {"openvino": True}, "openvino"),
        ("onnx", {}, "export"),
    ],
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


@pytest.mark.parametrize("at", ["trace to ONNX", "compare: openvino, synthetic head", "build engine", "write bundle"])
@pytest.mark.usefixtures("traced")
def test_an_interrupt_leaves_nothing_behind(registry: Registry, tmp_path: Path, at: str) -> None:
    if at == "build engine" and importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("needs tensorrt_rtx: pip install segkit3d[trt]")

    def interrupt(step: str, done: int, total: int) -> None:
        if step == at:
            raise KeyboardInterrupt(step)

    with pytest.raises(KeyboardInterrupt, match=at):
        export(
            request(tmp_path / "x.segkit", tensorrt=TensorRT() if at == "build engine" else None), registry, interrupt
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("traced")
def test_an_engine_that_cannot_be_built_leaves_no_bundle_without_it(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise SegkitError("no engine")

    monkeypatch.setattr(tensorrt_build, "require_request", lambda *_: None)
    monkeypatch.setattr(tensorrt_build, "build_engine", fail)
    with pytest.raises(SegkitError, match="no engine"):
        export(request(tmp_path / "x.segkit", tensorrt=TensorRT()), registry)
    assert list(tmp_path.iterdir()) == []


@needs_rtx
def test_each_precision_has_its_file_its_proof_and_its_engine(registry: Registry, tmp_path: Path) -> None:
    wanted = request(tmp_path / "x.segkit", precisions=("fp32", "tf32", "fp16", "bf16"), tensorrt=TensorRT())
    manifest = export(wanted, registry).bundle.manifest
    assert [model.file for model in manifest.models] == ["model.onnx", "model.fp16.onnx", "model.bf16.onnx"]
    emulated = {proof.precision: proof for proof in manifest.proofs if proof.arithmetic == "emulated"}
    assert {precision: proof.model for precision, proof in emulated.items()} == {
        "fp16": "model.fp16.onnx",
        "bf16": "model.bf16.onnx",
    }
    assert all(0 < proof.mean_abs_logit_difference < 0.1 for proof in emulated.values())
    built = {engine.precision: engine for engine in manifest.engines}
    assert {precision: engine.model for precision, engine in built.items()} == {
        "fp32": "model.onnx",
        "tf32": "model.onnx",
        "fp16": "model.fp16.onnx",
        "bf16": "model.bf16.onnx",
    }
    assert "TF32" in built["tf32"].flags
    assert "TF32" not in built["fp32"].flags
    assert built["fp16"].weight_bytes < 0.7 * built["fp32"].weight_bytes


@pytest.mark.usefixtures("traced")
def test_what_fails_in_less_precision_is_explained_and_mended_only_on_request(
    registry: Registry, tmp_path: Path
) -> None:
    """No label may change: some do in bf16, unless the layers that matter stay in fp32."""
    strict = Bounds(least_label_agreement=1.0)
    wanted = request(tmp_path / "x.segkit", precisions=("bf16",), bounds=strict)
    with pytest.raises(
        VerificationFailed, match=r"expected onnxruntime \(emulated\) in bf16 .*; the error is carried by"
    ):
        export(wanted, registry)
    assert not (tmp_path / "x.segkit").exists()
    report = json.loads((tmp_path / "x.segkit.failed" / "failure.json").read_text())
    assert report["proof"]["precision"] == "bf16"
    assert report["doctor"]["carriers"]
    forgiving = dataclasses.replace(wanted, bounds=Bounds(least_label_agreement=0.9), mend=True)
    done = export(forgiving, registry)
    assert done.bundle.manifest.models[1].islands == []
    assert not (tmp_path / "x.segkit.failed").exists()


@pytest.mark.usefixtures("traced")
def test_the_doctor_is_asked_about_int8_too_where_a_network_with_all_kept_in_fp32_has_nothing_to_quantise(
    registry: Registry, tmp_path: Path
) -> None:
    wanted = request(
        tmp_path / "x.segkit",
        precisions=("int8",),
        bounds=Bounds(least_label_agreement=0.9999),
        tensorrt=TensorRT(),
    )
    with pytest.raises(VerificationFailed, match=r"expected onnxruntime \(emulated\) in int8 .*"):
        export(wanted, registry)
    doctor = json.loads((tmp_path / "x.segkit.failed" / "failure.json").read_text())["doctor"]
    assert doctor["islands"]
    assert doctor["mended_error"] < doctor["error"]


@pytest.mark.usefixtures("traced")
def test_mending_keeps_the_modules_that_the_doctor_names_in_fp32(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from segkit_export import precision_doctor

    honest = verify.prove

    def doubt_without_islands(engine: Any, *args: Any, **chosen: Any) -> Any:
        finding = honest(engine, *args, **chosen)
        held = chosen["precision"] != "bf16" or chosen["arithmetic"] != "emulated" or bool(diagnosed)
        return dataclasses.replace(finding, proof=finding.proof.model_copy(update={"proven": held}))

    diagnosed: list[object] = []

    def diagnose(*args: Any, **chosen: Any) -> Any:
        diagnosed.append(args)
        return precision_doctor.Diagnosis(
            carriers=(precision_doctor.Carrier(module="head", share=1.0),),
            islands=("head",),
            error=1.0,
            mended_error=0.0,
            runs=1,
        )

    monkeypatch.setattr(verify, "prove", doubt_without_islands)
    monkeypatch.setattr(precision_doctor, "find_islands", diagnose)
    done = export(request(tmp_path / "x.segkit", precisions=("bf16",), mend=True), registry)
    (half,) = [model for model in done.bundle.manifest.models if model.precision == "bf16"]
    assert half.islands == ["head"]
    assert any("kept in fp32, since they carried too much error: head" in warning for warning in done.warnings)


@pytest.mark.usefixtures("traced")
def test_auto_keeps_the_fastest_that_is_proven_on_each_runtime(registry: Registry, run: Run, tmp_path: Path) -> None:
    manifest = export(
        Request(name=str(run.folder), out=tmp_path / "x.segkit", precisions=None), registry
    ).bundle.manifest
    native = [proof for proof in manifest.proofs if proof.arithmetic == "native"]
    for runtime in {proof.runtime for proof in native}:
        own = [proof for proof in native if proof.runtime == runtime]
        assert any(proof.precision == "fp32" for proof in own)
        assert len(own) <= 2
        assert all(proof.proven for proof in own)
    assert {proof.model for proof in manifest.proofs} == {model.file for model in manifest.models}


def test_tf32_is_tensorrts_alone(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected --trt with the precision tf32, which only TensorRT has; add --trt"):
        export(request(tmp_path / "x.segkit", precisions=("tf32",)), registry)


@pytest.mark.parametrize("dynamic", ["batch", "size"])
def test_an_open_shape_runs_at_other_batches_and_sizes(registry: Registry, tmp_path: Path, dynamic: Dynamic) -> None:
    options = {**OPTIONS, "norm": "instance"}
    wanted = request(tmp_path / "x.segkit", dynamic=dynamic, bare=BareOptions(options=options))
    bundle = export(wanted, registry).bundle
    engine = open_engine("onnxruntime", bundle.read("model.onnx"))
    patch = PATCH if dynamic == "batch" else (PATCH[0] + 8, PATCH[1], PATCH[2] + 16)
    images = np.random.default_rng(0).standard_normal((3, 1, *patch)).astype(np.float32)
    together = engine.run(images)
    assert together.shape == (3, 4, *patch)
    for one, logits in zip(images, together, strict=True):
        assert np.abs(engine.run(one[None])[0] - logits).max() < 1e-4


def test_the_self_check_is_a_patch_with_torchs_own_labels(exported: Exported) -> None:
    bundle = exported.bundle
    assert bundle.manifest.selfcheck is not None
    labels = np.load(bundle.folder / bundle.manifest.selfcheck.labels, allow_pickle=False)
    assert labels.shape == PATCH
    assert len(np.unique(labels)) > 1
    for proof in bundle.manifest.proofs:
        run_selfcheck(bundle, open_engine(proof.runtime, bundle.read(proof.model)), proof)
