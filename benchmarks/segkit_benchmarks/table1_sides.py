"""Training steps and runs of `segkit bench table1`, each for a process of its own: the sides that take turns.

A side prepares, hands over what that took, and then measures one round after each turn.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from segkit.errors import SegkitError
from segkit.registry import Registry
from segkit_benchmarks.gpu import cuda_device, device_mib, median_device_ms
from segkit_benchmarks.machine import pin
from segkit_benchmarks.table1_files import engine_name, logits_path, random_patch
from segkit_benchmarks.table1_nets import Net, Way, build
from segkit_benchmarks.turns import Turn

if TYPE_CHECKING:
    import torch

    from segkit.inference import Engine
    from segkit_runtime.manifest import CompiledEngine, Precision

WARM_UP_RUNS, WARM_UP_SECONDS = 3, 1.0
"""Before anything is timed: so many runs, or as many as fit; the first counts, and is reported apart."""

_MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How much is measured, and on what.

    Attributes:
        runs: timed runs at most.
        seconds: for them; each round has a run even when they are up.
        rounds: of all sides in turn, over which the timed runs are spread.
        cores: that the process is bound to.
    """

    runs: int
    seconds: float
    rounds: int
    cores: list[int]

    @property
    def threads(self) -> int:
        """One for each core."""
        return len(self.cores)


def train(turn: Turn, registry: Registry, net: Net, pace: Pace) -> None:
    """Take training steps: memory of the first two, then times. Batch 1, fp32, SGD with momentum, cross-entropy."""
    pin(pace.cores)
    import torch

    from segkit.memory import keep_freed_memory, peak_growth_bytes

    device = cuda_device() or "cpu"
    layer = torch.nn.Conv3d(net.channels, net.classes, 1).to(device)
    _step(layer, net.channels, (2, 2, 2))()  # what torch loads on first use is no memory of the network
    network = build(registry, net).to(device).train()
    step = _step(network, net.channels, net.patch)
    figures: dict[str, Any] = {"device": device}
    if device == "cpu":
        tensors = (*network.parameters(), *network.buffers())
        held = sum(tensor.numel() * tensor.element_size() for tensor in tensors) + net.voxels * (4 * net.channels + 8)
        grown = peak_growth_bytes(lambda: [step(), step()])
        figures["measured_mib"] = None if grown is None else round((grown + held) / _MIB, 1)
        figures["measured_is"] = "CPU: growth of a process over two steps, and what it held before: weights and patch"
        keep_freed_memory()  # as segkit train does
    else:
        torch.backends.cudnn.allow_tf32 = False  # fp32 is meant
        step()
        step()
        figures["measured_mib"] = round(torch.cuda.max_memory_reserved() / _MIB, 1)
        figures["measured_is"] = "CUDA: what torch's allocator reserved, the context left out"
    turn(figures)
    _measure(turn, step, pace)


def _step(network: torch.nn.Module, channels: int, patch: tuple[int, int, int]) -> Callable[[], object]:
    import torch

    device = next(network.parameters()).device
    images = torch.randn(1, channels, *patch, device=device)
    target = torch.zeros(1, *patch, dtype=torch.int64, device=device)
    optimizer = torch.optim.SGD(network.parameters(), 1e-3, momentum=0.5, weight_decay=1e-8)

    def step() -> float:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(images), target)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.item()  # waits for the device

    return step


def infer(turn: Turn, registry: Registry, net: Net, way: Way, folder: Path, pace: Pace) -> None:
    """Load a network, run it, write its logits beside its file; then time it."""
    pin(pace.cores)
    began = time.perf_counter()
    engine = _open(registry, net, way, folder, pace.threads)
    load_seconds = time.perf_counter() - began
    patch = random_patch(net)
    began = time.perf_counter()
    logits = engine.run(patch)
    first = time.perf_counter() - began
    np.save(logits_path(folder, way), logits)
    runs = 1
    while runs < WARM_UP_RUNS and time.perf_counter() - began < WARM_UP_SECONDS:
        engine.run(patch)
        runs += 1
    figures: dict[str, Any] = {
        "version": engine.version,
        "device": engine.device,
        "precision": engine.precision,
        "load_seconds": round(load_seconds, 3),
        "first_run_ms": round(first * 1000, 2),
    }
    if engine.device != "cpu":
        figures |= {"device_mib": device_mib(), "device_ms": median_device_ms(engine, patch, pace.runs)}
    turn(figures)
    _measure(turn, lambda: engine.run(patch), pace)


def _open(registry: Registry, net: Net, way: Way, folder: Path, threads: int) -> Engine:
    from segkit_runtime.engines import ENGINES, open_engine
    from segkit_runtime.manifest import CompiledEngine

    precision = cast("Precision", way.precision)
    if way.runtime in ENGINES:
        built: CompiledEngine | None = None
        device = "cpu" if way.runtime == "openvino" else cuda_device(way.runtime) or "cpu"
        path = folder / f"{way.file}.onnx"
        if ENGINES[way.runtime].takes == "engine":
            path = folder / engine_name(way.runtime, way.precision)
            built = CompiledEngine.model_validate_json(path.with_name(f"{path.name}.json").read_bytes())
        return open_engine(
            way.runtime, path.read_bytes(), precision=precision, device=device, threads=threads, built=built
        )
    factory = registry.build("runtime", way.runtime)
    options: Mapping[str, Any] = {"threads": threads}
    if registry.card("runtime", way.runtime).takes == "network":
        engine = factory(build(registry, net), device=cuda_device() or "cpu", **options)
    else:
        engine = factory((folder / f"{way.file}.onnx").read_bytes(), **options)
    if engine.precision != way.precision:
        raise SegkitError(f"expected {way.runtime} to compute in {way.precision}, it does in {engine.precision} alone")
    return cast("Engine", engine)


def _measure(turn: Turn, work: Callable[[], object], pace: Pace) -> None:
    """Hand over times round by round, for ever; each has its share of the runs or of the time, one at least."""
    runs, rounds = pace.runs, pace.rounds
    while True:
        times: list[float] = []
        share = math.ceil(runs / max(rounds, 1))
        while not times or (len(times) < share and sum(times) < pace.seconds * 1000 / pace.rounds):
            began = time.perf_counter()
            work()
            times.append((time.perf_counter() - began) * 1000)
        turn({"times_ms": times})
        runs, rounds = runs - len(times), rounds - 1
