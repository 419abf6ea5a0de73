"""From ONNX bytes to a TensorRT engine, on a machine that need not have a GPU.

TensorRT for RTX (module `tensorrt_rtx`) builds on the CPU, and its engine is compiled for the GPU on first use there.
Classic `tensorrt` has the same Python names but for the compute capabilities, so one adapter takes the module's name.
"""

from __future__ import annotations

import importlib
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from segkit.extras import require
from segkit_export.errors import ExportFailed
from segkit_export.progress import Progress, silent

RTX = "tensorrt_rtx"
PRECISION = "fp32"

_EXTRA = "trt"
_MEMORY = re.compile(r"Total (Activation|Weights) Memory: *(\d+)")
_STEP = "build engine"


@dataclass(frozen=True, kw_only=True)
class BuiltEngine:
    """An engine and what its builder said of it.

    Attributes:
        engine: the engine file.
        module: the module that built it and alone can load it.
        version: its version.
        targets: compute capabilities it was built for; "sm80+" is Ampere and everything newer that the module knows.
        flags: flags of the network and the builder that were set.
        activation_bytes: device memory for activations.
        weight_bytes: device memory for weights.
        build_seconds: how long the build took.
    """

    engine: bytes
    module: str
    version: str
    targets: tuple[str, ...]
    flags: tuple[str, ...]
    activation_bytes: int
    weight_bytes: int
    build_seconds: float


def require_module(module: str = RTX) -> None:
    """Refuse early where the module is not installed.

    Raises:
        MissingExtra: it is not.
    """
    require(module, _EXTRA, "a TensorRT engine (--trt)")


def build_engine(
    onnx: bytes, progress: Progress = silent, *, module: str = RTX, targets: Sequence[str] = ()
) -> BuiltEngine:
    """Build an fp32 engine. It cannot be run here, so nothing is said about its speed or its numbers.

    TF32, which TensorRT sets by default, is cleared: it rounds the factors of a product to 10 bits, and then the engine
    would not compute in what it is called.

    Args:
        onnx: the network, with static shapes and inline weights.
        progress: called as the build goes on; an exception that it raises (Ctrl-C among them) cancels the build.
        module: `tensorrt_rtx`, or `tensorrt` where that and a GPU are.
        targets: names of compute capabilities such as "SM86"; none means one portable engine for Ampere and newer.

    Raises:
        MissingExtra: the module is not installed.
        ExportFailed: the module cannot be loaded, the ONNX has an operator that its parser refuses, or the build fails.
    """
    require_module(module)
    trt = _load(module)
    log = _logger(trt)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    _parse(trt, network, log, onnx)
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    built_for = _set_targets(trt, config, targets)
    monitor = _monitor(trt, progress)
    config.progress_monitor = monitor
    begin = time.perf_counter()
    plan = builder.build_serialized_network(network, config)
    seconds = time.perf_counter() - begin
    if monitor.raised is not None:
        raise monitor.raised
    if plan is None:
        raise ExportFailed(f"expected an engine from {module}, its builder says: {_complaint(log)}")
    engine = bytes(plan)
    if is_malformed(engine, module):
        raise ExportFailed(f"expected an engine from {module}, it calls its own {len(engine)} bytes malformed")
    memory = _memory(log, module)
    return BuiltEngine(
        engine=engine,
        module=module,
        version=str(trt.__version__),
        targets=built_for,
        flags=(
            "STRONGLY_TYPED",
            *(name for name, flag in trt.BuilderFlag.__members__.items() if config.get_flag(flag)),
        ),
        activation_bytes=memory["Activation"],
        weight_bytes=memory["Weights"],
        build_seconds=seconds,
    )


def is_malformed(engine: bytes, module: str = RTX) -> bool:
    """Whether bytes are no engine at all: the one thing that can be told of an engine without a GPU.

    Always False where the module cannot tell (classic `tensorrt`).
    """
    trt = _load(module)
    runtime = trt.Runtime(_logger(trt))
    if not hasattr(runtime, "get_engine_validity"):
        return False
    _, diagnostics = runtime.get_engine_validity(engine)
    return bool(diagnostics & int(trt.EngineInvalidityDiagnostics.MALFORMED_ENGINE))


def _load(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except (ImportError, OSError, RuntimeError) as error:
        raise ExportFailed(
            f"expected the module {module!r} to load, it does not: {type(error).__name__}: {error}",
            hint=f'install it again: pip install --force-reinstall "segkit3d[{_EXTRA}]"',
        ) from error


def _parse(trt: Any, network: Any, log: Any, onnx: bytes) -> None:
    parser = trt.OnnxParser(network, log)
    parsed = parser.parse(onnx)
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    nodes = [
        f"node {error.node_name()!r} (operator {error.node_operator()})" for error in errors if error.node_operator()
    ]
    if nodes:
        raise ExportFailed(
            f"expected operators that {trt.__name__} {trt.__version__} can build, it refuses {', '.join(nodes)}",
            hint="change the network, or export without --trt",
        )
    if not parsed or not network.num_outputs:
        said = "; ".join(error.desc() for error in errors) or "it has no output"
        raise ExportFailed(f"expected ONNX that {trt.__name__} can read, its parser says: {said}")


def _set_targets(trt: Any, config: Any, targets: Sequence[str]) -> tuple[str, ...]:
    """Name the compute capabilities to the builder and return them as the manifest writes them."""
    if not hasattr(config, "set_compute_capability"):
        return ("this GPU",)
    if not targets:
        return ("sm80+",)
    config.num_compute_capabilities = len(targets)
    for index, name in enumerate(targets):
        config.set_compute_capability(trt.ComputeCapability.__members__[name], index)
    return tuple(name.lower() for name in targets)


def _logger(trt: Any) -> Any:
    class Records(trt.ILogger):  # type: ignore[misc]
        """Keeps every line: what the engine needs in memory is said nowhere else without a GPU."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[tuple[str, str]] = []

        def log(self, severity: Any, text: str) -> None:
            self.lines.append((severity.name, text))

    return Records()


def _complaint(log: Any) -> str:
    errors = [text for severity, text in log.lines if severity in ("ERROR", "INTERNAL_ERROR")]
    return " ".join("; ".join(errors).split()) or "nothing"


def _memory(log: Any, module: str) -> dict[str, int]:
    found = {match[1]: int(match[2]) for _, text in log.lines if (match := _MEMORY.search(text))}
    missing = [name for name in ("Activation", "Weights") if name not in found]
    if missing:
        raise ExportFailed(f"expected {module} to log its total {' and '.join(missing).lower()} memory, it did not")
    return found


def _monitor(trt: Any, progress: Progress) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Hands the builder's steps on; an exception may not cross C++, so it is kept and the build is told to stop."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.raised: BaseException | None = None
            self._done = self._total = 0

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self._total += steps
            self._report()

        def step_complete(self, phase: str, step: int) -> bool:
            self._done += 1
            return self._report()

        def phase_finish(self, phase: str) -> None:
            pass

        def _report(self) -> bool:
            if self.raised is None:
                try:
                    progress(_STEP, min(self._done, self._total), self._total)
                except BaseException as error:
                    self.raised = error
            return self.raised is None

    return Monitor()
