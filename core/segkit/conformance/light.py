"""Light plugins: what importing a plugin module brings along, seen from a fresh interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from segkit.conformance.check import Candidate, NotApplicable, Rule
from segkit.errors import PluginError

HEAVY = (
    "torch",
    "monai",
    "onnx",
    "onnxruntime",
    "openvino",
    "tensorrt",
    "tensorrt_rtx",
    "SimpleITK",
    "matplotlib",
    "scipy",
)
"""What no plugin module may import at its top: every listing would wait for it."""

BUDGET_MS = 500
"""The longest that a plugin module may take to import, beyond segkit itself."""

_TRIES = 3
"""A slow disk is no fault of the plugin: the fastest import counts."""

_TIMEOUT_SECONDS = 60

_PROBE = '''
import importlib, json, os, sys, time
import segkit.loader, segkit.hookspecs, segkit.registry
asked = json.loads(sys.argv[1])
there = heavy_among(asked["heavy"])

def spent_seconds():
    """Time that passed, without that in which other processes had the processor, where the system tells."""
    try:
        waited = int(open("/proc/self/schedstat").read().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        waited = 0.0
    return time.perf_counter() - waited

began = spent_seconds()
module = importlib.import_module(asked["module"])
if asked["hooks"]:
    for hook in [v for v in vars(module).values() if callable(v) and getattr(v, "segkit_impl", None)]:
        hook()
spent_ms = (spent_seconds() - began) * 1000
loaded = heavy_among(asked["heavy"])
print("\\n" + json.dumps({"there": there, "loaded": loaded, "spent_ms": spent_ms}), flush=True)
os._exit(0)  # whatever threads and exit handlers the plugin has left
'''


_PREAMBLE = """
import sys

def heavy_among(names):
    found = sys.modules.keys() & set(names)
    # nibabel only asks whether scipy is there, which takes milliseconds; what costs are scipy's parts.
    if not any(name.startswith("scipy.") and name[6] != "_" and name != "scipy.version" for name in sys.modules):
        found -= {"scipy"}
    return sorted(found)
"""


def run_probe(code: str, asked: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """Run code in a fresh interpreter that finds the modules that this one finds; it may call `heavy_among`.

    Returns:
        The JSON of its last line, or None where there is none; and what it said in the end, if it failed.
    """
    path = [entry or str(Path.cwd()) for entry in sys.path]
    done = subprocess.run(
        [sys.executable, "-P", "-c", _PREAMBLE + code, json.dumps(asked)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        timeout=_TIMEOUT_SECONDS,
    )
    try:
        return dict(json.loads(done.stdout.splitlines()[-1])), ""
    except (IndexError, TypeError, ValueError):
        return None, (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]


def _is_light(candidate: Candidate) -> str:
    spent_ms: list[float] = []
    for _ in range(_TRIES):
        spent_ms.append(_import_ms(candidate))
        if spent_ms[-1] <= BUDGET_MS:
            return f"imported in {spent_ms[-1]:.0f} ms"
    raise PluginError(
        f"expected the module {candidate.plugin} to import in {BUDGET_MS} ms, it took {min(spent_ms):.0f} ms",
        hint=f"see what takes so long: python -X importtime -c 'import {candidate.plugin}'",
    )


def _import_ms(candidate: Candidate) -> float:
    """How long the plugin module takes to import and its hooks to answer.

    Raises:
        PluginError: it cannot be imported, or brings something heavy along.
        NotApplicable: something heavy is there before it.
    """
    asked = {"module": candidate.plugin, "hooks": candidate.names_plugin, "heavy": HEAVY}
    try:
        answer, said = run_probe(_PROBE, asked)
    except subprocess.TimeoutExpired:
        answer, said = None, f"nothing after {_TIMEOUT_SECONDS} s"
    if answer is None:
        raise PluginError(
            f"expected the module {candidate.plugin} to import, got {said}",
            hint=f"run: python -c 'import {candidate.plugin}'",
        )
    if answer["there"]:
        raise NotApplicable(
            f"this Python imports {', '.join(answer['there'])} as it starts (sitecustomize or a .pth file), so what "
            "the plugin imports cannot be told"
        )
    if answer["loaded"]:
        raise PluginError(
            f"expected the module {candidate.plugin} to import nothing heavy, got {', '.join(answer['loaded'])}",
            hint="name what is built as a string on the card, and import what it needs in that string's module",
        )
    return float(answer["spent_ms"])


LIGHT = Rule("light", "a plugin module that imports nothing heavy", _is_light)
