"""Measuring one engine in a process of its own, so that no other library's memory or threads are in its figures."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from segkit.children import start_child
from segkit.memory import peak_mib
from segkit.registry import Registry

if TYPE_CHECKING:
    from segkit.inference import Engine
    from segkit_runtime.bundle import Bundle

LEAST_RUNS = 5
"""Timed runs that are made even when the time is up."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How long to measure.

    Attributes:
        runs: timed runs, after one that is reported apart.
        seconds: time after which no further run is begun, once there are `LEAST_RUNS`.
        threads: CPU threads, or None for the runtime's own choice.
    """

    runs: int = 30
    seconds: float = 20.0
    threads: int | None = None


def measure_runtime(
    registry: Registry,
    bundle: Path,
    runtime: str,
    settings: Settings,
    on_run: Callable[[int], None] = lambda done: None,
    *,
    engine: str | None = None,
) -> dict[str, Any]:
    """Measure one runtime on the network of a bundle, batch 1, the bundle's own patch.

    Args:
        registry: finds the runtime; the process gets its entries and switches.
        bundle: the bundle's folder.
        runtime: name of a runtime plugin, or of the runtime of `engine`.
        settings: how long to measure.
        on_run: called with the number of timed runs done.
        engine: file of a compiled engine of the bundle, which runs on the first CUDA device; None for the network.

    Returns:
        The row of profile.json, or `{"runtime", "failed"}` with the reason.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    registry = Registry(registry.entries, registry.switches)  # without what it has loaded
    process = context.Process(target=_child, args=(there, registry, bundle, runtime, engine, settings), daemon=True)
    start_child(process)
    there.close()
    try:
        while True:
            message = here.recv()
            if isinstance(message, dict):
                return {"runtime": runtime, **message}
            on_run(message)
    except EOFError:
        process.join()
        return {"runtime": runtime, "failed": f"its process ended with code {process.exitcode}"}
    finally:
        process.terminate()
        process.join()


def _child(
    pipe: Connection, registry: Registry, bundle: Path, runtime: str, engine: str | None, settings: Settings
) -> None:
    try:
        pipe.send(_measure(registry, bundle, runtime, engine, settings, pipe.send))
    except Exception as error:
        pipe.send({"failed": f"{type(error).__name__}: {error}"})


def _measure(
    registry: Registry,
    folder: Path,
    runtime: str,
    file: str | None,
    settings: Settings,
    on_run: Callable[[int], None],
) -> dict[str, Any]:
    from segkit_runtime.bundle import Bundle

    bundle = Bundle.open(folder)
    manifest = bundle.manifest
    began = time.perf_counter()
    if file is None:
        engine = _open(registry, bundle, runtime, settings.threads)
    else:
        engine = _open_compiled(bundle, file, settings.threads)
    load_seconds = time.perf_counter() - began
    rng = np.random.default_rng(0)
    patch = rng.standard_normal((1, manifest.channels, *manifest.inference.patch), dtype=np.float32)
    latencies = []
    began = time.perf_counter()
    for done in range(settings.runs + 1):
        start = time.perf_counter()
        engine.run(patch)
        latencies.append((time.perf_counter() - start) * 1000)
        on_run(done)
        if done >= LEAST_RUNS and time.perf_counter() - began > settings.seconds:
            break
    first, timed = latencies[0], np.array(latencies[1:])
    p50, p95, p99 = (float(v) for v in np.percentile(timed, (50, 95, 99)))
    return {
        "version": engine.version,
        "device": engine.device,
        "precision": engine.precision,
        "load_seconds": round(load_seconds, 3),
        "first_run_ms": round(first, 2),
        "runs": len(timed),
        "p50_ms": round(p50, 2),
        "p95_ms": round(p95, 2),
        "p99_ms": round(p99, 2),
        "times_ms": [round(float(time_ms), 3) for time_ms in timed],
        "voxels_per_second": round(float(np.prod(manifest.inference.patch)) / p50 * 1000),
        "gflops_per_second": round(2 * manifest.network.macs / p50 / 1e6, 1),
        "peak_mib": peak_mib(),
    }


def _open(registry: Registry, bundle: Bundle, runtime: str, threads: int | None) -> Engine:
    """Open an engine of the bundle through the registry.

    A bundle carries no torch weights; the network is built anew with random ones, which changes no latency.
    """
    manifest = bundle.manifest
    model: object
    options: dict[str, object] = {"threads": threads}
    if registry.card("runtime", runtime).takes == "network":
        import torch

        model = registry.build_model(
            manifest.network.model, manifest.channels, len(manifest.labels), manifest.network.options
        )
        options["device"] = "cuda" if torch.cuda.is_available() else "cpu"
    else:
        model = bundle.read("model.onnx")
    engine: Engine = registry.build("runtime", runtime)(model, **options)
    return engine


def _open_compiled(bundle: Bundle, file: str, threads: int | None) -> Engine:
    """Open a compiled engine of the bundle on the first CUDA device."""
    from segkit_runtime.engines import open_engine

    built = next(engine for engine in bundle.manifest.engines if engine.file == file)
    return open_engine(
        built.runtime, bundle.read(file), precision=built.precision, device="cuda:0", threads=threads, built=built
    )
