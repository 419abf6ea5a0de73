"""The profile of a bundle: what its network is, and what each runtime makes of it here."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from segkit.errors import SegkitError
from segkit.extras import require
from segkit.registry import Registry
from segkit_benchmarks.measure import Settings, measure_runtime
from segkit_runtime.bundle import Bundle


def profile_bundle(
    registry: Registry,
    folder: Path,
    runtimes: tuple[str, ...],
    settings: Settings,
    on_run: Callable[[str, int], None] = lambda runtime, done: None,
) -> dict[str, Any]:
    """Profile a bundle on this machine.

    Args:
        registry: finds the runtimes.
        folder: the bundle.
        runtimes: names of runtimes; empty for all that are installed.
        settings: how long to measure each.
        on_run: called with the runtime and the number of timed runs done.

    Returns:
        The content of profile.json; a runtime that cannot run has a row with the reason.

    Raises:
        BundleError: the bundle is altered or incomplete.
        MissingExtra: a runtime was named and its module is not installed.
    """
    bundle = Bundle.open(folder)
    manifest = bundle.manifest
    network = manifest.network
    rows = []
    for name in runtimes or [entry.name for entry, status in registry.list("runtime") if status == "ok"]:
        try:
            card = registry.card("runtime", name)
            require(card.module, card.extra, f"the runtime {name}")
        except SegkitError as error:
            if runtimes:
                raise
            rows.append({"runtime": name, "failed": str(error)})
            continue
        rows.append(measure_runtime(registry, folder, name, settings, lambda done, name=name: on_run(name, done)))  # type: ignore[misc]
    return {
        "schema": 1,
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
