from __future__ import annotations

import importlib.util
import json
import os

import pytest
import torch

from segkit_export.memory_report import plan, print_plan
from segkit_export.memory_runtimes import RuntimeMemory, engine_memory, measured_memory

PATCH = (16, 16, 16)

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="needs tensorrt_rtx: pip install segkit3d[trt]"
)


@needs_rtx
def test_an_engine_is_built_for_its_memory(unet_onnx: bytes) -> None:
    row = engine_memory(unet_onnx)
    assert (row.runtime, row.basis) == ("tensorrt_rtx", "built")
    assert row.weight_bytes
    assert row.activation_bytes
    assert row.total_bytes == row.weight_bytes + row.activation_bytes


def test_a_runtime_is_measured_in_its_own_process(unet_onnx: bytes) -> None:
    row = measured_memory("onnxruntime", unet_onnx, (1, 1, *PATCH))
    if not os.access("/proc/self/clear_refs", os.W_OK):
        assert (row.basis, row.note) == ("unknown", "this system does not tell the memory of a process")
        return
    assert (row.runtime, row.basis) == ("onnxruntime", "measured")
    assert row.total_bytes is not None
    assert len(unet_onnx) < row.total_bytes < 100 * 2**20  # far below what the library itself takes


def test_what_cannot_be_measured_says_why(unet_onnx: bytes) -> None:
    wrong = measured_memory("onnxruntime", unet_onnx, (1, 2, *PATCH))
    assert (wrong.basis, wrong.total_bytes) == ("unknown", None)
    assert "Got: 2 Expected: 1" in wrong.note
    assert "expected an ONNX model" in measured_memory("onnxruntime", b"junk", (1, 1, *PATCH)).note


def test_what_cannot_be_built_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    row = engine_memory(b"")
    assert (row.basis, row.total_bytes) == ("unknown", None)
    assert 'pip install "segkit3d[trt]"' in row.note


def test_a_plan_is_a_table_and_json(unet: torch.nn.Module, capsys: pytest.CaptureFixture[str]) -> None:
    made = plan(unet, 1, PATCH, 2, "sgd", runtimes=("onnxruntime",))
    (eager, ort) = made.inference
    assert (eager.runtime, eager.basis, ort.runtime) == ("torch", "predicted", "onnxruntime")
    assert eager.weight_bytes == made.training.weights
    answer = json.loads(json.dumps(made.to_json()))
    assert answer["training_bytes"]["total"] == made.training.total == sum(vars(made.training).values())
    assert answer["training_is"].startswith("a lower bound")
    assert (answer["patch"], answer["batch"], answer["optimizer"]) == ([16, 16, 16], 2, "sgd")
    print_plan(made)
    out = capsys.readouterr().out
    assert "Training on 2 x 1 x 16 x 16 x 16 voxels a step, fp32, sgd" in out
    assert "A lower bound: tensors alone" in out
    for word in ("activations", "temporaries", "at least", "torch", "onnxruntime", "predicted"):
        assert word in out


def test_a_runtime_that_is_missing_stays_in_the_table(
    unet: torch.nn.Module, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = RuntimeMemory(runtime="openvino", basis="unknown", note="needs the module 'openvino'")
    monkeypatch.setattr("segkit_export.memory_report.measured_memory", lambda *_: missing)
    print_plan(plan(unet, 1, PATCH, runtimes=("openvino",)))
    assert "needs the module 'openvino'" in capsys.readouterr().out
