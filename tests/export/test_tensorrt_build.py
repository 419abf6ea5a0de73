from __future__ import annotations

import hashlib
import importlib
import importlib.util
import subprocess
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from segkit.errors import MissingExtra, SegkitError, UnknownName, UsageError
from segkit_export import tensorrt_build
from segkit_export.errors import ExportFailed
from segkit_export.tensorrt_build import EngineRequest, build_engine, rebuild_request, require_request
from segkit_export.tensorrt_parser import Unsupported, unsupported_nodes
from segkit_export.tensorrt_targets import parse_targets
from segkit_runtime import trt as shared
from segkit_runtime.manifest import CompiledEngine
from segkit_runtime.trt import is_malformed

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="needs tensorrt_rtx: pip install segkit3d[trt]"
)

SHAPE = (1, 1, 4, 4, 4)
TYPES = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


def serialize(nodes: Sequence[onnx.NodeProto], shape: Sequence[Any], out: Sequence[Any], *weights: Any) -> bytes:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, out)],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10).SerializeToString()


def make_graph(*operators: str) -> bytes:
    """A chain of operators without weights; each node is named after its place."""
    names = ["image", *(f"t{i}" for i in range(1, len(operators))), "logits"]
    nodes = [helper.make_node(o, [names[i]], [names[i + 1]], name=f"n{i}") for i, o in enumerate(operators)]
    return serialize(nodes, SHAPE, SHAPE if "Det" not in operators else SHAPE[:3])


def make_conv(precision: str = "fp32", operator: str = "Conv", shape: Sequence[Any] = SHAPE) -> bytes:
    """One convolution of size 2 and stride 2 in a precision, with float32 in and out."""
    weight = helper.make_tensor("w", TYPES[precision], (1, 1, 2, 2, 2), np.ones(8, np.float32))
    nodes = [
        helper.make_node("Cast", ["image"], ["low"], to=TYPES[precision], name="in"),
        helper.make_node(operator, ["low", "w"], ["out"], strides=[2, 2, 2], name="conv"),
        helper.make_node("Cast", ["out"], ["logits"], to=TensorProto.FLOAT, name="back"),
    ]
    return serialize(nodes, shape, [None] * 5, weight)


def make_quantised(low: str) -> bytes:
    """A convolution in int8 between tensors of another precision."""
    scale, zero = helper.make_tensor("s", TYPES[low], (), [0.5]), numpy_helper.from_array(np.int8(0), "z")
    nodes = [
        helper.make_node("Cast", ["image"], ["low"], to=TYPES[low]),
        helper.make_node("QuantizeLinear", ["low", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["x"]),
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["v"]),
        helper.make_node("Conv", ["x", "v"], ["out"], name="conv"),
        helper.make_node("Cast", ["out"], ["logits"], to=TensorProto.FLOAT),
    ]
    weight = numpy_helper.from_array(np.ones((1, 1, 2, 2, 2), np.int8), "w")
    return serialize(nodes, SHAPE, [None] * 5, scale, zero, weight)


@needs_rtx
def test_an_engine_is_built_without_a_gpu_and_says_what_memory_it_needs(unet_onnx: bytes) -> None:
    built = build_engine(unet_onnx)
    assert built.activation_bytes > 0
    parameters = sum(onnx.numpy_helper.to_array(w).nbytes for w in onnx.load_from_string(unet_onnx).graph.initializer)
    assert 0.5 * parameters < built.weight_bytes < 2 * parameters
    assert (built.module, built.targets, built.flags) == ("tensorrt_rtx", ("sm80+",), ("STRONGLY_TYPED",))
    assert (built.precision, built.shapes) == ("fp32", ((1, 1, 16, 16, 16),) * 3)
    assert built.version
    assert built.build_seconds > 0
    assert not is_malformed(built.engine, importlib.import_module(built.module))


@needs_rtx
def test_two_processes_build_the_same_bytes(unet_onnx: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(unet_onnx)
    code = (
        "import hashlib, pathlib, sys; from segkit_export.tensorrt_build import build_engine;"
        "print(hashlib.sha256(build_engine(pathlib.Path(sys.argv[1]).read_bytes()).engine).hexdigest())"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "model.onnx")]
    other = subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONPATH": ":".join(sys.path)})
    assert other.stdout.split() == [hashlib.sha256(build_engine(unet_onnx).engine).hexdigest()]


@pytest.mark.parametrize("spelling", ["SM86", "sm86", "8.6", "sm_86", "86", " Sm8.6 "])
def test_a_target_may_be_spelt_in_several_ways(spelling: str) -> None:
    assert parse_targets([spelling, "8.6"], ["sm80", "sm86"]) == ("sm86",)


@needs_rtx
def test_a_named_target_gives_another_engine() -> None:
    one = build_engine(make_conv(), request=EngineRequest(targets=("8.6",)))
    assert one.targets == ("sm86",)
    assert one.engine != build_engine(make_conv()).engine


@needs_rtx
def test_targets_are_sorted_and_named_once() -> None:
    built = build_engine(
        make_conv("fp16"), request=EngineRequest(targets=("12.0", "8.6", "SM75", "sm86"), precision="fp16")
    )
    assert built.targets == ("sm75", "sm86", "sm120")


@needs_rtx
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"targets": ("sm90",)},
            r"got sm90 \(H100, H200\); needs classic TensorRT: --trt-module tensorrt on a machine",
        ),
        ({"targets": ("10.0",)}, r"got sm100 \(B200\)"),
        ({"targets": ("8.7",)}, r"got sm87 \(Jetson Orin\)"),
        ({"targets": ("sm75",)}, r"expected fp16, or int8 made of fp16, for sm75 \(Turing\), got fp32"),
        ({"targets": ("sm86", "7.5"), "precision": "bf16"}, r"for sm75 \(Turing\), got bf16"),
        ({"targets": ("sm80+", "sm86")}, r"expected sm80\+ alone or named targets, got both: sm80\+, sm86"),
        ({"hardware_compatible": True}, r"expected hardware compatibility for classic TensorRT alone, got it for"),
        ({"timing_cache": b""}, r"expected a timing cache for classic TensorRT alone, got it for tensorrt_rtx"),
    ],
)
def test_what_rtx_cannot_build_is_refused_before_there_is_a_network(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        require_request(EngineRequest(**changes))


@needs_rtx
@pytest.mark.parametrize(
    ("target", "said"),
    [("sm85", "no GPU target 'sm85'; did you mean 'sm8"), ("RTX4090", "no GPU target 'rtx4090'; known: sm120, sm121,")],
)
def test_an_unknown_target_is_told_the_nearest(target: str, said: str) -> None:
    with pytest.raises(UnknownName, match=said):
        require_request(EngineRequest(targets=(target,)))


def test_an_unknown_module_is_told_the_nearest() -> None:
    with pytest.raises(UnknownName, match="no TensorRT module 'tensorrt-rtx'; did you mean 'tensorrt_rtx'"):
        require_request(EngineRequest(module="tensorrt-rtx"))


@needs_rtx
def test_tf32_is_set_only_where_it_is_asked_for() -> None:
    assert build_engine(make_conv(), request=EngineRequest(precision="tf32")).flags == ("STRONGLY_TYPED", "TF32")
    assert build_engine(make_conv()).flags == ("STRONGLY_TYPED",)


@needs_rtx
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_file_in_half_precision_is_built(precision: Any) -> None:
    assert build_engine(make_conv(precision), request=EngineRequest(precision=precision)).precision == precision


@needs_rtx
@pytest.mark.parametrize(("low", "targets"), [("fp32", ()), ("fp16", ("sm75",))])
def test_a_file_in_int8_is_built(low: str, targets: tuple[str, ...]) -> None:
    assert build_engine(make_quantised(low), request=EngineRequest(precision="int8", targets=targets)).engine


@needs_rtx
@pytest.mark.parametrize(
    ("precision", "found", "said"),
    [
        ("fp16", "fp32", "expected an ONNX file in fp16, its layers are in fp32"),
        ("int8", "fp16", "expected an ONNX file in int8, its layers are in fp16"),
        ("fp32", "bf16", "expected an ONNX file in fp32 for fp32, it has layers in bf16"),
        ("tf32", "fp16", "expected an ONNX file in fp32 for tf32, it has layers in fp16"),
    ],
)
def test_a_file_in_another_precision_is_refused(precision: Any, found: str, said: str) -> None:
    with pytest.raises(ExportFailed, match=said):
        build_engine(make_conv(found), request=EngineRequest(precision=precision))


@needs_rtx
def test_an_open_batch_is_built_for_a_range() -> None:
    content = make_conv(shape=["b", 1, "x", "y", "z"])
    shapes = ((1, 1, 8, 8, 8), (1, 1, 16, 16, 16), (4, 1, 32, 16, 16))
    built = build_engine(content, request=EngineRequest(shapes=shapes))
    assert built.shapes == shapes
    fixed = build_engine(content, request=EngineRequest(shapes=(shapes[0],) * 3))
    assert fixed.activation_bytes < built.activation_bytes


@needs_rtx
@pytest.mark.parametrize(
    ("shape", "shapes", "said"),
    [
        (("b", 1, 4, 4, 4), None, r"expected the least, best and largest shape of 'image', .* \(-1, 1, 4, 4, 4\) are"),
        (("b", 1, 4, 4, 4), (SHAPE, SHAPE, (2, 1, 4, 4, 8)), r"expected rising shapes within \(-1, 1, 4, 4, 4\)"),
        (("b", 1, 4, 4, 4), ((2, 1, 4, 4, 4), SHAPE, SHAPE), r"expected rising shapes within"),
        (("b", 1, 4, 4, 4), ((0, 1, 4, 4, 4), SHAPE, SHAPE), r"expected rising shapes within"),
        (SHAPE, (SHAPE, SHAPE, (1, 1, 4, 4)), r"expected rising shapes within"),
        (SHAPE, (SHAPE, SHAPE, (2, 1, 4, 4, 4)), r"expected rising shapes within \(1, 1, 4, 4, 4\)"),
    ],
)
def test_shapes_that_do_not_suit_the_file_are_refused(shape: Any, shapes: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        build_engine(make_conv(shape=shape), request=EngineRequest(shapes=shapes))


@needs_rtx
def test_too_little_workspace_is_an_error_and_enough_is_kept(unet_onnx: bytes) -> None:
    with pytest.raises(ExportFailed, match=r"its builder says: .*workspace.*; allow more than 1024 bytes of workspace"):
        build_engine(unet_onnx, request=EngineRequest(workspace_bytes=1024))
    enough = build_engine(unet_onnx, request=EngineRequest(workspace_bytes=1 << 30))
    assert enough.flags == ("STRONGLY_TYPED", "WORKSPACE=1073741824")


@needs_rtx
def test_a_manifests_entry_says_how_to_build_its_engine_again() -> None:
    content = make_conv(shape=["b", 1, 4, 4, 4])
    request = EngineRequest(
        precision="tf32", targets=("sm86",), workspace_bytes=1 << 30, shapes=(SHAPE, SHAPE, (2, 1, 4, 4, 4))
    )
    built = build_engine(content, request=request)
    entry = CompiledEngine(
        file="engines/a.engine",
        runtime=built.module,
        version=built.version,
        precision=built.precision,
        model="model.onnx",
        onnx_sha256=hashlib.sha256(content).hexdigest(),
        shapes=tuple(list(shape) for shape in built.shapes),
        targets=list(built.targets),
        flags=list(built.flags),
        build_seconds=built.build_seconds,
        activation_bytes=built.activation_bytes,
        weight_bytes=built.weight_bytes,
        status="built, not run",
    )
    assert rebuild_request(entry) == request
    assert build_engine(content, request=rebuild_request(entry)).engine == built.engine


@needs_rtx
def test_progress_rises_and_says_how_much_there_is(unet_onnx: bytes) -> None:
    seen: list[tuple[str, int, int]] = []
    build_engine(unet_onnx, lambda step, done, total: seen.append((step, done, total)))
    assert len(seen) > 20
    assert {step for step, _, _ in seen} == {"build engine"}
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    assert all(done <= total for _, done, total in seen)


@needs_rtx
@pytest.mark.parametrize("after", [1, 10])
def test_an_interrupt_cancels_the_build(unet_onnx: bytes, after: int) -> None:
    calls = 0

    def interrupt(step: str, done: int, total: int) -> None:
        nonlocal calls
        calls += 1
        if calls == after:
            raise KeyboardInterrupt("stop")

    with pytest.raises(KeyboardInterrupt, match="stop"):
        build_engine(unet_onnx, interrupt)
    assert calls == after


@needs_rtx
def test_all_operators_that_cannot_be_built_are_named() -> None:
    content = make_graph("Det", "Relu", "Bernoulli")
    assert [(node.node, node.operator) for node in unsupported_nodes(content)] == [("n0", "Det"), ("n2", "Bernoulli")]
    with pytest.raises(
        ExportFailed,
        match=r"it refuses node 'n0' \(operator Det\), node 'n2' \(operator Bernoulli\); change the network",
    ):
        build_engine(content)


@needs_rtx
def test_nodes_that_parse_and_would_fail_in_the_builder_are_named() -> None:
    up = make_conv("bf16", "ConvTranspose")
    reason = "not in bf16 on any GPU, keep it in fp32"
    assert unsupported_nodes(up) == [Unsupported(node="conv", operator="ConvTranspose", reason=reason)]
    with pytest.raises(ExportFailed, match=rf"refuses node 'conv' \(operator ConvTranspose: {reason}\)"):
        build_engine(up, request=EngineRequest(precision="bf16"))
    with pytest.raises(ExportFailed, match=r"node 'conv' \(operator Conv: only fp16 on sm75, it is in FLOAT\)"):
        build_engine(make_quantised("fp32"), request=EngineRequest(precision="int8", targets=("sm75",)))


@needs_rtx
def test_nothing_is_said_of_a_network_that_can_be_built(unet_onnx: bytes) -> None:
    assert unsupported_nodes(unet_onnx) == []
    assert unsupported_nodes(make_conv("bf16"), targets=("sm86",)) == []


@needs_rtx
@pytest.mark.parametrize(
    ("content", "said"), [(b"no onnx at all", "its parser says: .*parse"), (b"", "its parser says: it has no output")]
)
def test_junk_is_an_error(content: bytes, said: str) -> None:
    with pytest.raises(ExportFailed, match=said):
        build_engine(content)


@needs_rtx
def test_bytes_that_are_no_engine_are_told_from_an_engine() -> None:
    assert is_malformed(b"no engine" * 100, importlib.import_module("tensorrt_rtx"))


def test_a_missing_module_names_the_extra(unet_onnx: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"needs the module 'tensorrt_rtx'.*pip install \"segkit3d\[trt\]\""):
        build_engine(unet_onnx)
    with pytest.raises(MissingExtra, match=r"needs the module 'tensorrt'.*pip install \"segkit3d\[tensorrt\]\""):
        require_request(EngineRequest(module="tensorrt"))


def test_a_folder_without_files_is_no_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: types.SimpleNamespace(origin=None))
    with pytest.raises(MissingExtra, match="'tensorrt_rtx'"):
        require_request(EngineRequest())


def test_a_module_that_does_not_load_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise OSError("libtensorrt_rtx.so.1: cannot open shared object file")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: types.SimpleNamespace(origin="there"))
    monkeypatch.setattr(shared.importlib, "import_module", fail)
    with pytest.raises(SegkitError, match=r"does not: OSError: libtensorrt_rtx\.so\.1.*--force-reinstall"):
        build_engine(b"")


class Stand:
    """An object of TensorRT with some attributes put before its own."""

    def __init__(self, real: Any, **instead: Any) -> None:
        self.__dict__.update(real=real, **instead)

    def __getattr__(self, name: str) -> Any:
        if name.endswith(("compute_capability", "compute_capabilities")):
            raise AttributeError(name)
        return getattr(self.real, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self.__dict__[name] = value
        if name != "hardware_compatibility_level":
            setattr(self.real, name, value)


class SimulatedClassic(types.ModuleType):
    """Classic `tensorrt`, simulated: RTX builds the engine, and what only classic TensorRT has is noted."""

    def __init__(self, real: Any, *, takes_cache: bool = True) -> None:
        super().__init__("tensorrt")
        self.real, self.takes_cache = real, takes_cache
        self.__version__ = "10.16.1.11"
        self.config: Any = None

    def __getattr__(self, name: str) -> Any:
        if name == "ComputeCapability":
            raise AttributeError(name)
        return getattr(self.real, name)

    def Builder(self, log: Any) -> Any:  # noqa: N802 - TensorRT's name
        builder = self.real.Builder(log)
        self.config = Stand(
            builder.create_builder_config(),
            create_timing_cache=lambda content: types.SimpleNamespace(serialize=lambda: content + b"+"),
            set_timing_cache=lambda cache, ignore_mismatch: self.takes_cache and not ignore_mismatch,
        )
        return Stand(
            builder,
            create_builder_config=lambda: self.config,
            build_serialized_network=lambda network, config: builder.build_serialized_network(network, config.real),
        )


@pytest.fixture
def classic(monkeypatch: pytest.MonkeyPatch) -> SimulatedClassic:
    """Classic TensorRT on a machine with an H100, simulated."""
    module = SimulatedClassic(pytest.importorskip("tensorrt_rtx", reason="needs tensorrt_rtx"))
    monkeypatch.setattr(tensorrt_build, "load_module", lambda name, purpose: module)
    monkeypatch.setattr("segkit_export.tensorrt_parser.load_module", lambda name, purpose: module)
    monkeypatch.setattr(tensorrt_build, "device_capability", lambda extra: (9, 0))
    return module


class TestClassicSimulated:
    def test_it_builds_for_the_gpu_that_is_here(self, classic: SimulatedClassic) -> None:
        built = build_engine(make_conv(), request=EngineRequest(module="tensorrt"))
        assert (built.module, built.version, built.targets) == ("tensorrt", "10.16.1.11", ("sm90",))
        assert "hardware_compatibility_level" not in vars(classic.config)
        assert built.timing_cache is None

    def test_it_builds_for_all_gpus_since_ampere_if_asked(self, classic: SimulatedClassic) -> None:
        built = build_engine(make_conv(), request=EngineRequest(module="tensorrt", hardware_compatible=True))
        assert built.targets == ("sm80+",)
        assert classic.config.hardware_compatibility_level is classic.HardwareCompatibilityLevel.AMPERE_PLUS

    def test_it_takes_and_gives_a_timing_cache(self, classic: SimulatedClassic) -> None:
        built = build_engine(make_conv(), request=EngineRequest(module="tensorrt", timing_cache=b"before"))
        assert built.timing_cache == b"before+"

    def test_another_gpus_timing_cache_is_refused(self, classic: SimulatedClassic) -> None:
        classic.takes_cache = False
        with pytest.raises(UsageError, match="expected a timing cache of this GPU and this TensorRT, got another one"):
            build_engine(make_conv(), request=EngineRequest(module="tensorrt", timing_cache=b"other"))

    def test_another_gpu_than_the_one_here_is_refused(self, classic: SimulatedClassic) -> None:
        with pytest.raises(
            UsageError, match=r"expected the target sm90, got sm86: classic .*; run the export on a machine"
        ):
            require_request(EngineRequest(module="tensorrt", targets=("8.6",)))
        require_request(EngineRequest(module="tensorrt", targets=("9.0",)))

    def test_one_engine_for_all_needs_ampere(self, classic: SimulatedClassic, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tensorrt_build, "device_capability", lambda extra: (7, 5))
        with pytest.raises(
            UsageError, match="expected Ampere or newer for an engine that runs on several GPUs, found sm75"
        ):
            require_request(EngineRequest(module="tensorrt", hardware_compatible=True))
