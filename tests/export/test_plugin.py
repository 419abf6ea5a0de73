from __future__ import annotations

import subprocess
import sys

import click
import pytest
import torch

from segkit import Registry
from segkit_export.tiny_onnx import TINY_ONNX

LISTING = """
import sys
import segkit_export.plugin, segkit_export.cli
heavy = {"torch", "onnx", "onnxscript", "onnxruntime", "openvino", "tensorrt_rtx", "SimpleITK"} & set(sys.modules)
sys.exit(f"imported {sorted(heavy)}" if heavy else 0)
"""


def test_neither_the_plugin_nor_the_command_imports_anything_heavy() -> None:
    result = subprocess.run([sys.executable, "-c", LISTING], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", ["export", "segment"])
def test_each_command_is_found_and_is_a_click_command(registry: Registry, name: str) -> None:
    assert isinstance(registry.build("command", name), click.Command)


@pytest.mark.parametrize("name", ["torch", "onnxruntime", "openvino"])
def test_each_runtime_is_found_under_its_own_name(registry: Registry, name: str) -> None:
    make = registry.build("runtime", name)
    engine = make(torch.nn.Identity() if name == "torch" else TINY_ONNX)
    assert engine.runtime == name
    engine.close()
    assert registry.card("runtime", name).extra in {"train", "onnxruntime", "openvino"}
