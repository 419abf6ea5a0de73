from __future__ import annotations

import importlib.util
import types

import onnx
import pytest
from onnx import TensorProto, helper

from segkit.errors import MissingExtra
from segkit_export import tensorrt_build
from segkit_export.errors import ExportFailed
from segkit_export.tensorrt_build import build_engine, is_malformed

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="needs tensorrt_rtx: pip install segkit3d[trt]"
)


def make_graph(operator: str) -> bytes:
    shape = [1, 1, 4, 4, 4]
    graph = helper.make_graph(
        [helper.make_node(operator, ["image"], ["logits"], name="odd_one")],
        "graph",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape if operator != "Det" else shape[:3])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()


@needs_rtx
def test_an_engine_is_built_without_a_gpu_and_says_what_memory_it_needs(unet_onnx: bytes) -> None:
    built = build_engine(unet_onnx)
    assert built.activation_bytes > 0
    parameters = sum(onnx.numpy_helper.to_array(w).nbytes for w in onnx.load_from_string(unet_onnx).graph.initializer)
    assert 0.5 * parameters < built.weight_bytes < 2 * parameters
    assert (built.module, built.targets, built.flags) == ("tensorrt_rtx", ("sm80+",), ("STRONGLY_TYPED",))
    assert built.version
    assert built.build_seconds > 0
    assert not is_malformed(built.engine)


@needs_rtx
def test_two_builds_give_the_same_bytes(unet_onnx: bytes) -> None:
    assert build_engine(unet_onnx).engine == build_engine(unet_onnx).engine


@needs_rtx
def test_a_named_target_gives_another_engine(unet_onnx: bytes) -> None:
    one = build_engine(unet_onnx, targets=["SM86"])
    assert one.targets == ("sm86",)
    assert one.engine != build_engine(unet_onnx).engine


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
def test_an_operator_that_cannot_be_built_is_named() -> None:
    with pytest.raises(ExportFailed, match=r"it refuses node 'odd_one' \(operator Det\); change the network"):
        build_engine(make_graph("Det"))


@needs_rtx
@pytest.mark.parametrize(
    ("content", "said"), [(b"no onnx at all", "its parser says: .*parse"), (b"", "its parser says: it has no output")]
)
def test_junk_is_an_error(content: bytes, said: str) -> None:
    with pytest.raises(ExportFailed, match=said):
        build_engine(content)


@needs_rtx
def test_bytes_that_are_no_engine_are_told_from_an_engine() -> None:
    assert is_malformed(b"no engine" * 100)


def test_a_missing_module_names_the_extra(unet_onnx: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"needs the module 'tensorrt_rtx'.*pip install \"segkit3d\[trt\]\""):
        build_engine(unet_onnx)


def test_a_folder_without_files_is_no_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: types.SimpleNamespace(origin=None))
    with pytest.raises(MissingExtra, match="'tensorrt_rtx'"):
        tensorrt_build.require_module()


def test_a_module_that_does_not_load_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise OSError("libtensorrt_rtx.so.1: cannot open shared object file")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: types.SimpleNamespace(origin="there"))
    monkeypatch.setattr(tensorrt_build.importlib, "import_module", fail)
    with pytest.raises(ExportFailed, match=r"does not: OSError: libtensorrt_rtx\.so\.1.*--force-reinstall"):
        build_engine(b"")
