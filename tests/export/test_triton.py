from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from onnx import TensorProto, helper
from tritonclient.grpc import model_config_pb2 as triton

from segkit.errors import BundleError, OutputExists, UsageError
from segkit.preprocess import Preprocessing
from segkit_export.graph_edit import add_labels
from segkit_export.triton import left_out, write_triton
from segkit_runtime.bundle import Bundle, write_bundle
from segkit_runtime.manifest import (
    CompiledEngine,
    Inference,
    Label,
    Manifest,
    Model,
    Network,
    Proof,
    Tolerance,
    Weights,
)

PATCH = (16, 24, 32)
LABELS = ["background", 'grey "matter"', "weiße Substanz"]


def make_onnx(*, batch: int | str = 1, sides: tuple[int | str, ...] = PATCH, kind: int = TensorProto.FLOAT) -> bytes:
    shape = [batch, 2, *sides]
    nodes = [
        helper.make_node("ReduceSum", ["image", "axes"], ["total"], keepdims=1),
        helper.make_node("Concat", ["total"] * 3, ["logits"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("image", kind, shape), helper.make_tensor_value_info("axes", 7, [1])],
        [helper.make_tensor_value_info("logits", kind, [batch, 3, *sides])],
        [helper.make_tensor("axes", TensorProto.INT64, [1], [1])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()


def make_engine(runtime: str = "tensorrt", **changes: Any) -> CompiledEngine:
    precision = changes.get("precision", "fp32")
    facts = {
        "file": f"engines/{runtime}-{precision}-{changes.get('version', '11.4.0')}.engine",
        "runtime": runtime,
        "version": "11.4.0",
        "precision": precision,
        "model": "model.onnx",
        "onnx_sha256": "0" * 64,
        "shapes": ([1, 2, *PATCH], [1, 2, *PATCH], [1, 2, *PATCH]),
        "targets": ["sm90"],
        "flags": [],
        "build_seconds": 1.0,
        "activation_bytes": 1,
        "weight_bytes": 1,
        "status": "built, not run",
    }
    return CompiledEngine(**{**facts, **changes})


def make_proof(device: str) -> Proof:
    return Proof(
        runtime="onnxruntime",
        version="1.32.0",
        device=device,
        precision="fp32",
        model="model.onnx",
        patches=1,
        max_abs_logit_difference=0,
        mean_abs_logit_difference=0,
        p999_abs_logit_difference=0,
        max_abs_logit=1,
        label_agreement=1,
        least_dice=1,
        voxels=1,
        volumes=["a head"],
        tolerance=Tolerance(most_logit_difference=None, least_label_agreement=1, most_dice_difference=0),
        proven=True,
    )


def make_bundle(
    tmp_path: Path,
    onnx: bytes | None = None,
    name: str = "vnet",
    engines: tuple[CompiledEngine, ...] = (),
    proofs: tuple[Proof, ...] = (),
) -> Bundle:
    onnx = onnx or make_onnx()
    sha256 = hashlib.sha256(onnx).hexdigest()
    manifest = Manifest(
        name=name,
        created="2026-01-01T00:00:00Z",
        segkit_version="0.1.0",
        modalities=["T1", "T2 «fast»"],
        spacing=None,
        preprocessing=Preprocessing(background="zero"),
        inference=Inference(patch=PATCH, overlap=0.5, blending="gaussian"),
        labels=[Label(code=code, name=label) for code, label in enumerate(LABELS)],
        network=Network(
            model="segkit3d:vnet", version="0", options={}, parameters=0, layers={}, layer_rules={}, macs=0
        ),
        weights=Weights(trained=False),
        models=[Model(file="model.onnx", precision="fp32", opset=20, sha256=sha256)],
        proofs=list(proofs),
        engines=[engine.model_copy(update={"onnx_sha256": sha256}) for engine in engines],
        software={},
    )
    files: dict[str, bytes | Path] = {engine.file: f"engine {engine.file}".encode() for engine in engines}
    return write_bundle(tmp_path / "a.segkit", manifest, {"model.onnx": onnx, **files})


def parse(repository: Path, name: str) -> triton.ModelConfig:
    config = triton.ModelConfig()
    text_format.Parse((repository / name / "config.pbtxt").read_text(encoding="utf-8"), config)
    return config


def test_a_static_onnx_file_is_served_with_all_its_dimensions(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    repository = write_triton(bundle, tmp_path / "triton")
    files = sorted(path.relative_to(repository).as_posix() for path in repository.rglob("*") if path.is_file())
    assert files == ["vnet/1/model.onnx", "vnet/config.pbtxt", "vnet/labels.txt"]
    assert (repository / "vnet/1/model.onnx").read_bytes() == bundle.read("model.onnx")
    assert (repository / "vnet/labels.txt").read_text(encoding="utf-8").splitlines() == LABELS
    expected = triton.ModelConfig(
        name="vnet",
        platform="onnxruntime_onnx",
        backend="onnxruntime",
        default_model_filename="model.onnx",
        max_batch_size=0,
        input=[triton.ModelInput(name="image", data_type=triton.TYPE_FP32, dims=[1, 2, *PATCH])],
        output=[
            triton.ModelOutput(
                name="logits", data_type=triton.TYPE_FP32, dims=[1, 3, *PATCH], label_filename="labels.txt"
            )
        ],
        instance_group=[triton.ModelInstanceGroup(count=1, kind=triton.ModelInstanceGroup.KIND_CPU)],
        parameters={
            key: triton.ModelParameter(string_value=value)
            for key, value in {
                "segkit_bundle": bundle.id,
                "segkit_trained": "false",
                "segkit_modalities": json.dumps(["T1", "T2 «fast»"], ensure_ascii=False),
                "segkit_patch": "[16, 24, 32]",
                "segkit_model_sha256": bundle.checksums["model.onnx"],
            }.items()
        },
    )
    assert parse(repository, "vnet") == expected


@pytest.mark.parametrize("sides", [PATCH, ("x", "y", "z")])
def test_an_open_batch_is_batched_and_an_open_size_is_the_proven_patch(
    tmp_path: Path, sides: tuple[int | str, ...]
) -> None:
    bundle = make_bundle(tmp_path, make_onnx(batch="batch", sides=sides))
    config = parse(write_triton(bundle, tmp_path / "triton"), "vnet")
    assert config.max_batch_size == 8
    assert (list(config.input[0].dims), list(config.output[0].dims)) == ([2, *PATCH], [3, *PATCH])
    assert config.HasField("dynamic_batching")


@pytest.mark.parametrize(
    ("batch", "labels", "mean"), [(1, [1, *PATCH], ([1], False)), ("batch", list(PATCH), ([1], True))]
)
def test_labels_are_served_where_the_file_tells_them(
    tmp_path: Path, batch: int | str, labels: list[int], mean: tuple[list[int], bool]
) -> None:
    bundle = make_bundle(tmp_path, add_labels(make_onnx(batch=batch)))
    config = parse(write_triton(bundle, tmp_path / "repository"), "vnet")
    assert [(output.name, output.data_type) for output in config.output] == [
        ("logits", triton.TYPE_FP32),
        ("labels", triton.TYPE_UINT8),
        ("mean_logit", triton.TYPE_FP32),
    ]
    assert list(config.output[1].dims) == labels
    assert (list(config.output[2].dims), config.output[2].HasField("reshape")) == mean
    assert [output.label_filename for output in config.output] == ["labels.txt", "", ""]


def test_the_types_are_those_of_the_file(tmp_path: Path) -> None:
    config = parse(
        write_triton(make_bundle(tmp_path, make_onnx(kind=TensorProto.FLOAT16)), tmp_path / "triton"), "vnet"
    )
    assert (config.input[0].data_type, config.output[0].data_type) == (triton.TYPE_FP16, triton.TYPE_FP16)


@pytest.mark.parametrize(("device", "kind"), [("cpu", "KIND_CPU"), ("cuda", "KIND_GPU"), ("cuda:0", "KIND_GPU")])
def test_onnx_runs_on_a_gpu_only_where_it_was_proven_on_one(tmp_path: Path, device: str, kind: str) -> None:
    bundle = make_bundle(tmp_path, proofs=(make_proof(device),))
    (group,) = parse(write_triton(bundle, tmp_path / "triton"), "vnet").instance_group
    assert group.kind == triton.ModelInstanceGroup.Kind.Value(kind)


def test_an_engine_of_classic_tensorrt_is_a_model_of_its_own(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, engines=(make_engine(),))
    repository = write_triton(bundle, tmp_path / "triton")
    assert (repository / "vnet_trt/1/model.plan").read_bytes() == b"engine engines/tensorrt-fp32-11.4.0.engine"
    config = parse(repository, "vnet_trt")
    assert (config.name, config.platform, config.backend) == ("vnet_trt", "tensorrt_plan", "tensorrt")
    assert (config.default_model_filename, config.max_batch_size) == ("model.plan", 0)
    assert (list(config.input[0].dims), list(config.output[0].dims)) == ([1, 2, *PATCH], [1, 3, *PATCH])
    assert [(group.count, group.kind) for group in config.instance_group] == [(1, triton.ModelInstanceGroup.KIND_GPU)]
    assert config.parameters["segkit_bundle"].string_value == bundle.id
    assert config.parameters["segkit_tensorrt"].string_value == "11.4.0"
    assert config.parameters["segkit_status"].string_value == "built, not run"


def test_an_engine_with_a_range_of_batches_and_sides_leaves_them_open(tmp_path: Path) -> None:
    shapes = ([1, 2, 16, 16, 16], [2, 2, *PATCH], [4, 2, 32, 32, 16])
    bundle = make_bundle(tmp_path, engines=(make_engine(shapes=shapes),))
    config = parse(write_triton(bundle, tmp_path / "triton"), "vnet_trt")
    assert config.max_batch_size == 4
    assert (list(config.input[0].dims), list(config.output[0].dims)) == ([2, -1, -1, 16], [3, -1, -1, 16])


def test_several_engines_say_their_precision(tmp_path: Path) -> None:
    engines = (make_engine(), make_engine(precision="fp16"), make_engine(precision="fp16", version="10.16"))
    bundle = make_bundle(tmp_path, engines=engines)
    repository = write_triton(bundle, tmp_path / "triton")
    names = sorted(path.name for path in repository.iterdir())
    assert names == ["vnet", "vnet_trt_fp16", "vnet_trt_fp16_2", "vnet_trt_fp32"]
    assert [parse(repository, name).name for name in names] == names


def test_an_rtx_engine_is_left_out_and_said_to_be(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, engines=(make_engine("tensorrt_rtx"),))
    assert [path.name for path in write_triton(bundle, tmp_path / "triton").iterdir()] == ["vnet"]
    (said,) = left_out(bundle)
    assert "engines/tensorrt_rtx-fp32-11.4.0.engine is left out: it is for tensorrt_rtx" in said
    assert left_out(make_bundle(tmp_path / "other", engines=(make_engine(),))) == ()


@pytest.mark.parametrize("name", ["../vnet", "a/b", "my net", ".vnet", "größe"])
def test_a_name_that_is_no_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="expected a network whose name is letters, digits"):
        write_triton(make_bundle(tmp_path, name=name), tmp_path / "triton")
    assert [path.name for path in tmp_path.iterdir()] == ["a.segkit"]


def test_nothing_is_replaced_unasked(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    repository = write_triton(bundle, tmp_path / "triton")
    with pytest.raises(OutputExists, match=r"expected nothing at .*triton, found a folder; add --overwrite"):
        write_triton(bundle, repository)
    (repository / "vnet/labels.txt").unlink()
    write_triton(bundle, repository, overwrite=True)
    assert (repository / "vnet/labels.txt").exists()


@pytest.mark.parametrize("found", ["another model", "a file in it", "a file"])
def test_what_is_not_from_segkit_is_never_replaced(tmp_path: Path, found: str) -> None:
    folder = tmp_path / "triton"
    if found == "a file":
        folder.write_text("mine")
    else:
        (folder / "resnet").mkdir(parents=True)
        path = folder / ("resnet/config.pbtxt" if found == "another model" else "notes.txt")
        path.write_text('name: "resnet"')
    with pytest.raises(UsageError, match="expected a model repository of segkit to overwrite"):
        write_triton(make_bundle(tmp_path), folder, overwrite=True)
    assert folder.read_text() == "mine" if found == "a file" else path.read_text() == 'name: "resnet"'


def test_a_bundle_that_was_altered_meanwhile_leaves_the_old_repository(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, engines=(make_engine(),))
    repository = write_triton(bundle, tmp_path / "triton")
    before = {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()}
    altered = dataclasses.replace(
        bundle, checksums={**bundle.checksums, "engines/tensorrt-fp32-11.4.0.engine": "0" * 64}
    )
    with pytest.raises(BundleError, match=r"tensorrt-fp32-11\.4\.0\.engine"):
        write_triton(altered, repository, overwrite=True)
    assert {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.segkit", "triton"]
