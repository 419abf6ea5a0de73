"""Every name that the adapter uses of a TensorRT module exists in classic 10.x, in classic 11.x and in RTX.

The names are read from the adapter's source, so that lines which only a GPU could run are held to it too. Each file
calls an object of TensorRT by the same name throughout; a name of TensorRT on any other variable fails the test.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
from pathlib import Path

import pytest

from .test_tensorrt_build import needs_rtx

ROOT = Path(__file__).parents[2] / "export"
SURFACES = {file.stem: json.loads(file.read_text()) for file in Path(__file__).parent.glob("tensorrt_surfaces/*.json")}

VARIABLES = {
    "segkit_runtime/trt.py": {"trt": "module", "runtime": "Runtime"},
    "segkit_runtime/engines/tensorrt_engine.py": {
        "trt": "module",
        "runtime": "Runtime",
        "engine": "ICudaEngine",
        "context": "IExecutionContext",
        "config": "IRuntimeConfig",
        "kernels": "IRuntimeCache",
        "self._cache": "IRuntimeCache",
    },
    "segkit_export/tensorrt_targets.py": {"trt": "module"},
    "segkit_export/tensorrt_parser.py": {
        "trt": "module",
        "builder": "Builder",
        "network": "INetworkDefinition",
        "parser": "OnnxParser",
        "error": "ParserError",
        "layer": "ILayer",
        "tensor": "ITensor",
    },
    "segkit_export/tensorrt_build.py": {
        "trt": "module",
        "builder": "Builder",
        "config": "IBuilderConfig",
        "profile": "IOptimizationProfile",
        "cache": "ITimingCache",
    },
}
"""What each file calls an object of TensorRT, and its class."""

GUARDED = {
    ("module", "ComputeCapability"),
    ("module", "EngineInvalidityDiagnostics"),
    ("EngineInvalidityDiagnostics", "MALFORMED_ENGINE"),
    ("IBuilderConfig", "num_compute_capabilities"),
    ("IBuilderConfig", "set_compute_capability"),
    ("Runtime", "get_engine_validity"),
    ("IRuntimeConfig", "create_runtime_cache"),
    ("IRuntimeConfig", "set_runtime_cache"),
    ("IRuntimeCache", "deserialize"),
    ("IRuntimeCache", "serialize"),
}
"""What RTX alone has; it is used behind one of `GUARDS`, or for the module `tensorrt_rtx` alone."""

GUARDS = {"ComputeCapability", "get_engine_validity", "set_compute_capability", "create_runtime_cache"}

OUR_OWN = {
    *("file", "flags", "log", "module", "name", "nbytes", "node", "parse"),
    *("precision", "reset", "serialize", "shape", "type", "value", "version"),
}
"""Names of TensorRT that our own objects have too."""


def uses(file: str) -> tuple[set[tuple[str, str]], set[str], set[str]]:
    """The (class, name) pairs that a file uses, the names it asks for with hasattr, and names on unknown variables."""
    variables = VARIABLES[file]
    everything = {
        name for surface in SURFACES.values() for kind, names in surface.items() if kind != "version" for name in names
    }
    pairs, guards, unknown = set(), set(), set()
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "hasattr":
            guards.add(ast.literal_eval(node.args[1]))
        if not isinstance(node, ast.Attribute) or node.attr.startswith("__"):
            continue
        base = ast.unparse(node.value)
        if base in variables:
            pairs.add((variables[base], node.attr))
        elif base.startswith("trt.") and base.count(".") == 1:
            pairs.add((base.removeprefix("trt."), node.attr))
        elif node.attr in everything - OUR_OWN:
            unknown.add(f"{base}.{node.attr}")
    return pairs, guards, unknown


ALL_USES = {pair for file in VARIABLES for pair in uses(file)[0]}


def test_there_is_a_list_of_each_module() -> None:
    assert {name: surface["version"].split(".")[0] for name, surface in SURFACES.items()} == {
        "tensorrt-10": "10",
        "tensorrt-11": "11",
        "tensorrt_rtx-1": "1",
    }
    assert len(ALL_USES) > 60


@pytest.mark.parametrize("file", VARIABLES)
def test_no_name_of_tensorrt_escapes(file: str) -> None:
    assert uses(file)[2] == set()


@pytest.mark.parametrize("surface", SURFACES)
def test_every_name_exists_in_each_module(surface: str) -> None:
    lists = SURFACES[surface]
    missing = {(kind, name) for kind, name in ALL_USES if name not in lists.get(kind, ())}
    assert missing == (set() if surface == "tensorrt_rtx-1" else GUARDED)


def test_what_one_module_alone_has_is_asked_for_first() -> None:
    assert set().union(*(uses(file)[1] for file in VARIABLES)) == GUARDS


def test_no_value_of_an_enum_is_written_down() -> None:
    for file in VARIABLES:
        shifts = [n for n in ast.walk(ast.parse((ROOT / file).read_text())) if isinstance(n, ast.BinOp)]
        written = [
            ast.unparse(n)
            for n in shifts
            if isinstance(n.op, ast.LShift) and not ast.unparse(n.right).startswith("int(trt.")
        ]
        assert written == []


@needs_rtx
def test_the_list_of_rtx_is_that_of_the_installed_module() -> None:
    location = Path(__file__).parent / "tensorrt_surfaces" / "list_attributes.py"
    spec = importlib.util.spec_from_file_location("list_attributes", location)
    assert spec is not None
    assert spec.loader is not None
    lister = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(lister)
    installed = lister.list_attributes(importlib.import_module("tensorrt_rtx"))
    kept = {kind: names for kind, names in SURFACES["tensorrt_rtx-1"].items() if kind != "version"}
    assert {kind: sorted(set(kept[kind]) - set(names)) for kind, names in installed.items()} == {
        kind: [] for kind in kept
    }
