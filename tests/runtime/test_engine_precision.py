"""What an engine computes in and where: as it was asked to, or not at all."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from segkit.errors import BundleError, MissingExtra, SegkitError, UnknownName, UsageError
from segkit_runtime.engines import ONNX_RUNTIMES, open_engine

FLAGS = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
NEEDS = {"bf16": "avx512_bf16", "fp16": "avx512_fp16"}
"""The instructions that a CPU needs to compute in a precision."""


def make_quantised() -> bytes:
    """Two convolutions of 16 channels, whose inputs and weights are in int8.

    Weights keep to 7 bits: with 8, the sum of two products overflows on CPUs without VNNI, and OpenVINO lets it.
    """
    rng = np.random.default_rng(4)
    weights = rng.integers(-63, 64, (16, 16, 3, 3, 3)).astype(np.int8)
    constants = [
        numpy_helper.from_array(np.array(0.02, np.float32), "scale"),
        numpy_helper.from_array(np.array(0, np.int8), "zero"),
        numpy_helper.from_array(weights, "weights"),
    ]
    nodes = [helper.make_node("DequantizeLinear", ["weights", "scale", "zero"], ["w"])]
    source = "image"
    for number in range(2):
        q, dq = f"q{number}", f"dq{number}"
        target = "logits" if number else "middle"
        nodes += [
            helper.make_node("QuantizeLinear", [source, "scale", "zero"], [q]),
            helper.make_node("DequantizeLinear", [q, "scale", "zero"], [dq]),
            helper.make_node("Conv", [dq, "w"], [target], pads=[1] * 6),
        ]
        source = target
    shape = ["b", 16, "x", "y", "z"]
    graph = helper.make_graph(
        nodes,
        "quantised",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def open_with(isa: str, model: bytes, folder: Path, *precisions: str) -> list[str]:
    """What comes of each precision where OpenVINO takes this CPU for one with fewer instructions."""
    (folder / "model.onnx").write_bytes(model)
    code = (
        "import pathlib, sys; from segkit.errors import SegkitError; from segkit_runtime.engines import open_engine\n"
        "model = pathlib.Path('model.onnx').read_bytes()\n"
        "for precision in sys.argv[1:]:\n"
        "    try: print(open_engine('openvino', model, precision=precision).precision)\n"
        "    except SegkitError as error: print(error)"
    )
    command = [sys.executable, "-c", code, *precisions]
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": isa}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return result.stdout.splitlines()


class TestOpenVino:
    @pytest.mark.parametrize("precision", ["bf16", "fp16"])
    def test_it_computes_in_a_precision_that_the_cpu_has(self, make_onnx: Callable, precision: str) -> None:
        if NEEDS[precision] not in FLAGS:
            pytest.skip(f"needs a CPU with {NEEDS[precision]}")
        patches = np.random.default_rng(0).uniform(0, 30, (1, 2, 8, 8, 8)).astype(np.float32)
        with contextlib.closing(open_engine("openvino", make_onnx(), precision=precision)) as engine:
            assert engine.precision == precision
            logits = engine.run(patches)
        assert logits.dtype == np.float32
        off = np.abs(logits[0, 1] - patches[0, 0]).max()
        assert 1e-5 < off < (0.07 if precision == "bf16" else 0.009)

    def test_precisions_that_the_cpu_lacks_are_refused(self, make_onnx: Callable, tmp_path: Path) -> None:
        fp32, bf16, fp16 = open_with("AVX2", make_onnx(), tmp_path, "fp32", "bf16", "fp16")
        assert fp32 == "fp32"
        assert bf16.startswith("expected openvino to compute in bf16, this CPU makes it fp32; choose another precision")
        assert fp16.startswith("expected openvino to compute in fp16, this CPU makes it fp32; choose another precision")

    def test_what_shows_before_compiling_is_refused_before_compiling(
        self, make_onnx: Callable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import openvino

        def fail(*arguments: object) -> None:
            raise AssertionError("expected nothing to be compiled")

        monkeypatch.setattr(openvino.Core, "compile_model", fail)
        monkeypatch.setattr(openvino.Core, "get_property", lambda *arguments: openvino.Type.f32)
        with pytest.raises(SegkitError, match="expected openvino to compute in bf16, this CPU makes it fp32"):
            open_engine("openvino", make_onnx(), precision="bf16")

    def test_the_hint_is_read_back_from_the_compiled_network(
        self, make_onnx: Callable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import openvino

        monkeypatch.setattr(openvino.CompiledModel, "get_property", lambda *arguments: openvino.Type.bf16)
        with pytest.raises(SegkitError, match="expected openvino to compute in fp32, this CPU makes it bf16"):
            open_engine("openvino", make_onnx())

    def test_what_the_convolutions_run_in_counts_and_not_the_hint(
        self, make_onnx: Callable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import openvino

        real = openvino.Core.compile_model

        def compile_in_fp32(core: openvino.Core, network: object, device: str, config: dict) -> object:
            compiled = real(core, network, device, {**config, "INFERENCE_PRECISION_HINT": "f32"})
            monkeypatch.setattr(openvino.CompiledModel, "get_property", lambda *arguments: openvino.Type.bf16)
            return compiled

        monkeypatch.setattr(openvino.Core, "get_property", lambda *arguments: openvino.Type.bf16)
        monkeypatch.setattr(openvino.Core, "compile_model", compile_in_fp32)
        with pytest.raises(SegkitError, match="expected openvino to compute in bf16, this CPU makes it fp32"):
            open_engine("openvino", make_onnx(), precision="bf16")

    def test_a_quantised_file_runs_in_int8_and_no_other_does(self, make_onnx: Callable) -> None:
        with contextlib.closing(open_engine("openvino", make_quantised(), precision="int8")) as engine:
            assert engine.precision == "int8"
        with pytest.raises(SegkitError, match="expected openvino to compute in fp32, this CPU makes it int8"):
            open_engine("openvino", make_quantised())
        with pytest.raises(SegkitError, match="expected openvino to compute in int8, this CPU makes it fp32"):
            open_engine("openvino", make_onnx(), precision="int8")

    @pytest.mark.parametrize("asked", [{"precision": "tf32"}, {"device": "cuda:0"}])
    def test_what_it_does_not_have_is_refused(self, make_onnx: Callable, asked: dict) -> None:
        with pytest.raises(UsageError, match="expected openvino on the cpu in fp32, fp16, bf16, int8, got"):
            open_engine("openvino", make_onnx(), **asked)


class TestOnnxRuntime:
    @pytest.mark.parametrize("precision", ["fp16", "bf16", "tf32"])
    def test_what_the_cpu_would_compute_in_fp32_is_refused(self, make_onnx: Callable, precision: str) -> None:
        with pytest.raises(UsageError, match=f"expected onnxruntime on cpu in fp32, int8, got {precision}, which it"):
            open_engine("onnxruntime", make_onnx(), precision=precision)

    def test_a_file_in_fp16_is_computed_in_fp32_on_the_cpu(self, tmp_path: Path) -> None:
        """Why fp16 is refused there: the tensor between two nodes is not rounded."""
        nodes = [
            helper.make_node("Cast", ["image"], ["half"], to=TensorProto.FLOAT16),
            helper.make_node("Conv", ["half", "third"], ["scaled"]),
            helper.make_node("Conv", ["scaled", "three"], ["back"]),
            helper.make_node("Cast", ["back"], ["logits"], to=TensorProto.FLOAT),
        ]
        shape = ["b", 1, "x", "y", "z"]
        graph = helper.make_graph(
            nodes,
            "half",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
            [
                numpy_helper.from_array(np.full((1, 1, 1, 1, 1), value, np.float16), name)
                for name, value in (("third", 1 / 3), ("three", 3))
            ],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        image = np.linspace(1, 2, 4**3, dtype=np.float32).reshape(1, 1, 4, 4, 4)
        with contextlib.closing(open_engine("onnxruntime", model.SerializeToString())) as engine:
            logits = engine.run(image)
        third = np.float32(np.float16(1 / 3))
        np.testing.assert_allclose(logits, image * third * 3, rtol=1e-6)

    def test_a_quantised_file_runs(self) -> None:
        patches = np.random.default_rng(0).uniform(0, 1, (1, 16, 4, 4, 4)).astype(np.float32)
        with (
            contextlib.closing(open_engine("onnxruntime", make_quantised(), precision="int8")) as one,
            contextlib.closing(open_engine("openvino", make_quantised(), precision="int8")) as other,
        ):
            assert one.precision == "int8"
            np.testing.assert_allclose(one.run(patches), other.run(patches), atol=0.2)

    def test_cuda_asked_of_a_build_without_it_names_the_extra(self, make_onnx: Callable) -> None:
        with pytest.raises(UsageError, match=r'with CUDA for cuda:0, .* has none; run: .* "segkit3d\[gpu\]"'):
            open_engine("onnxruntime", make_onnx(), device="cuda:0")

    @pytest.mark.filterwarnings("ignore:Specified provider 'CUDAExecutionProvider':UserWarning")
    def test_cuda_that_turns_out_to_be_the_cpu_is_refused(
        self, make_onnx: Callable, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
    ) -> None:
        """As onnxruntime-gpu does without a driver: it lists CUDA, and would run on the CPU."""
        import onnxruntime

        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
        with pytest.raises(SegkitError, match=r"expected onnxruntime on cuda:0, it says: .*fallback to CPU.*\[cuda,"):
            open_engine("onnxruntime", make_onnx(), device="cuda:0")
        assert capfd.readouterr() == ("", "")

    @pytest.mark.filterwarnings("ignore:Specified provider 'CUDAExecutionProvider':UserWarning")
    def test_the_sessions_own_providers_are_compared(
        self, make_onnx: Callable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import onnxruntime

        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
        monkeypatch.setattr(onnxruntime.SessionOptions, "add_session_config_entry", lambda *arguments: None)
        with pytest.raises(SegkitError, match="expected onnxruntime on CUDAExecutionProvider, it runs on CPUExec"):
            open_engine("onnxruntime", make_onnx(), device="cuda:0")

    def test_another_provider_on_the_cpu_is_refused(self, make_onnx: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
        import onnxruntime

        monkeypatch.setattr(onnxruntime.InferenceSession, "get_providers", lambda self: ["DmlExecutionProvider"])
        with pytest.raises(SegkitError, match="expected onnxruntime on CPUExecutionProvider, it runs on Dml"):
            open_engine("onnxruntime", make_onnx())


@pytest.mark.parametrize("runtime", ["tensorrt", "tensorrt_rtx"])
class TestTensorRT:
    def test_an_onnx_file_is_no_engine(
        self, runtime: str, make_onnx: Callable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("segkit_runtime.engines.is_installed", lambda module: True)
        with pytest.raises(UsageError, match=f"expected a compiled engine for {runtime}, got an ONNX file"):
            open_engine(runtime, make_onnx(), device="cuda:0")

    def test_a_module_that_is_not_installed_names_its_extra(
        self, runtime: str, make_onnx: Callable, without_module: Callable
    ) -> None:
        without_module(runtime)
        with pytest.raises(MissingExtra, match=rf"needs the module '{runtime}'.*pip install \"segkit3d\[t"):
            open_engine(runtime, make_onnx(), device="cuda:0")


@pytest.mark.parametrize("runtime", ONNX_RUNTIMES)
def test_an_unknown_precision_names_the_nearest(make_onnx: Callable, runtime: str) -> None:
    with pytest.raises(UnknownName, match="no precision 'fp61'; did you mean 'fp16'"):
        open_engine(runtime, make_onnx(), precision="fp61")


@pytest.mark.parametrize("runtime", ONNX_RUNTIMES)
def test_a_file_that_cannot_be_loaded_is_refused_in_every_precision(runtime: str) -> None:
    with pytest.raises(BundleError, match="expected an ONNX model with one graph"):
        open_engine(runtime, b"junk", precision="int8")
