"""The profile of a bundle: what its network is, and what each runtime makes of it here."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from segkit.errors import SegkitError, UsageError
from segkit.extras import require
from segkit.registry import Registry
from segkit_benchmarks.measure import Settings, measure_runtime
from segkit_runtime.bundle import Bundle
from segkit_runtime.engines import ENGINES
from segkit_runtime.manifest import Manifest


def profile_bundle(
    registry: Registry,
    folder: Path,
    runtimes: tuple[str, ...],
    settings: Settings,
    on_run: Callable[[str, int], None] = lambda runtime, done: None,
) -> dict[str, Any]:
    """Profile a bundle on this machine: every runtime, and every compiled engine that the bundle has.

    Args:
        registry: finds the runtimes.
        folder: the bundle.
        runtimes: names of runtimes, TensorRT's too; empty for all that are installed.
        settings: how long to measure each.
        on_run: called with the runtime and the number of timed runs done.

    Returns:
        The content of profile.json; a runtime that cannot run has a row with the reason.

    Raises:
        BundleError: the bundle is altered or incomplete.
        MissingExtra: a runtime was named and its module is not installed.
        UsageError: a runtime of compiled engines was named and the bundle has no engine of it.
    """
    bundle = Bundle.open(folder)
    manifest = bundle.manifest
    network = manifest.network
    _require_engines(runtimes, manifest)
    rows = []
    for name in runtimes or [entry.name for entry, status in registry.list("runtime") if status == "ok"]:
        if name in _COMPILED:
            continue
        try:
            card = registry.card("runtime", name)
            require(card.module, card.extra, f"the runtime {name}")
        except SegkitError as error:
            if runtimes:
                raise
            rows.append({"runtime": name, "failed": str(error)})
            continue
        rows.append(measure_runtime(registry, folder, name, settings, lambda done, name=name: on_run(name, done)))  # type: ignore[misc]
    for engine in manifest.engines:
        if engine.runtime in (runtimes or _COMPILED):
            row = measure_runtime(
                registry,
                folder,
                engine.runtime,
                settings,
                lambda done, name=engine.runtime: on_run(name, done),  # type: ignore[misc]
                engine=engine.file,
            )
            rows.append({**row, "engine": engine.file})
    return {
        "schema": 2,
        "bundle": manifest.name,
        "bundle_id": bundle.id,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": describe_machine(),
        "network": {
            "model": network.model,
            "parameters": network.parameters,
            "layers": {
                rule: {"count": count, "rule": network.layer_rules[rule]} for rule, count in network.layers.items()
            },
            "macs": network.macs,
            "patch": list(manifest.inference.patch),
            "in_channels": manifest.channels,
        },
        "onnx_mib": round((folder / "model.onnx").stat().st_size / 2**20, 2),
        "runtimes": rows,
        "engines": [
            {
                "file": engine.file,
                "runtime": engine.runtime,
                "version": engine.version,
                "precision": engine.precision,
                "targets": engine.targets,
                "status": engine.status,
                "file_mib": round((folder / engine.file).stat().st_size / 2**20, 2),
                "build_seconds": engine.build_seconds,
                "activation_mib": round(engine.activation_bytes / 2**20, 2),
                "weights_mib": round(engine.weight_bytes / 2**20, 2),
            }
            for engine in manifest.engines
        ],
        "method": "batch 1, the bundle's patch, random input; first run apart; each runtime in a process of its own; "
        "peak_mib: largest resident memory of that process, libraries included; torch has random weights",
    }


_COMPILED = tuple(name for name, kind in ENGINES.items() if kind.takes == "engine")


def _require_engines(runtimes: tuple[str, ...], manifest: Manifest) -> None:
    there = {engine.runtime for engine in manifest.engines}
    for name in runtimes:
        if name in _COMPILED and name not in there:
            raise UsageError(
                f"expected a bundle with an engine of {name}, this one has {', '.join(sorted(there)) or 'no engines'}",
                hint="build one: segkit export RUN --trt",
            )


def describe_machine() -> dict[str, Any]:
    """The machine in words, without its name."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    except OSError:
        pass
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
