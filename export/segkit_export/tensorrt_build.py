"""From ONNX bytes to a TensorRT engine, on a machine that need not have a GPU.

TensorRT for RTX (module `tensorrt_rtx`) builds on the CPU, and its engine is compiled for the GPU on first use there.
Classic `tensorrt` builds on the GPU it is for. Their names are the same but for a few, which are looked for with
hasattr; tests/export/tensorrt_surfaces holds the names of each.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Any

from segkit.errors import SegkitError, UsageError
from segkit_export.errors import ExportFailed
from segkit_export.progress import Progress, silent
from segkit_export.tensorrt_parser import describe, input_shape, parse, require_precision, unsupported_nodes
from segkit_export.tensorrt_targets import classic_targets, rtx_targets
from segkit_runtime.cuda import device_capability
from segkit_runtime.manifest import CompiledEngine, Precision
from segkit_runtime.trt import CLASSIC, EXTRAS, PORTABLE, RTX, complaint, is_malformed, load_module, make_log

Shape = tuple[int, ...]
Shapes = tuple[Shape, Shape, Shape]

_MEMORY = re.compile(r"Total (Activation|Weights) Memory: *(\d+)")
_STEP = "build engine"
_PURPOSE = "a TensorRT engine (--trt)"


@dataclass(frozen=True, kw_only=True)
class EngineRequest:
    """What engine is to be built of an ONNX file.

    Attributes:
        module: `tensorrt_rtx`, or `tensorrt` where that and a GPU are.
        precision: what the ONNX file computes in; "tf32" is an fp32 file whose products TensorRT may round to TF32.
        targets: compute capabilities such as "sm86"; none means one portable engine for Ampere and newer, or
            for classic TensorRT the GPU of this machine.
        workspace_bytes: the most scratch memory that a kernel may take, or None for TensorRT's own limit.
        shapes: least, best and largest input (B, C, X, Y, Z), where the file leaves dimensions open, else None. The
            engine's activation memory is that of the largest.
        hardware_compatible: classic TensorRT: whether the engine runs on every GPU since Ampere, at some cost of speed.
        timing_cache: classic TensorRT: what an earlier build measured on this GPU, b"" to begin with, or None for none.
    """

    module: str = RTX
    precision: Precision = "fp32"
    targets: tuple[str, ...] = ()
    workspace_bytes: int | None = None
    shapes: Shapes | None = None
    hardware_compatible: bool = False
    timing_cache: bytes | None = None


@dataclass(frozen=True, kw_only=True)
class BuiltEngine:
    """An engine and what its builder said of it.

    Attributes:
        engine: the engine file.
        module: the module that built it and alone can load it.
        version: its version.
        precision: what it computes in.
        shapes: least, best and largest input (B, C, X, Y, Z).
        targets: compute capabilities it was built for; "sm80+" is Ampere and everything newer that the module knows.
        flags: flags of the network and the builder that were set, and "WORKSPACE=bytes" where it was limited.
        activation_bytes: device memory for activations, at the largest input.
        weight_bytes: device memory for weights.
        build_seconds: how long the build took.
        timing_cache: for the next build, if the request brought one.
    """

    engine: bytes
    module: str
    version: str
    precision: Precision
    shapes: Shapes
    targets: tuple[str, ...]
    flags: tuple[str, ...]
    activation_bytes: int
    weight_bytes: int
    build_seconds: float
    timing_cache: bytes | None = None


def require_request(request: EngineRequest) -> tuple[str, ...]:
    """Refuse what cannot be built here whatever the network is, before there is one.

    Returns:
        The targets as the manifest writes them.

    Raises:
        MissingExtra: the module is not installed.
        UnknownName: no such module or target.
        UsageError: the module does not build for the target, or not in this precision; or it lacks what is asked for.
        SegkitError: the module does not load.
    """
    trt = load_module(request.module, _PURPOSE)
    if request.module == RTX and (request.hardware_compatible or request.timing_cache is not None):
        what = "hardware compatibility" if request.hardware_compatible else "a timing cache"
        raise UsageError(
            f"expected {what} for classic TensorRT alone, got it for {RTX}, which has none",
            hint="leave it out: without targets, its engine runs on Ampere and everything newer",
        )
    if request.module == RTX:
        return rtx_targets(trt, request.targets, request.precision)
    capability = device_capability(extra=EXTRAS[request.module])
    return classic_targets(trt, request.targets, capability, hardware_compatible=request.hardware_compatible)


def rebuild_request(entry: CompiledEngine) -> EngineRequest:
    """What to ask for, to build the engine of a manifest's entry again from the ONNX file it names."""
    least, best, most = (tuple(shape) for shape in entry.shapes)
    limits = [flag.partition("=")[2] for flag in entry.flags if flag.startswith("WORKSPACE=")]
    classic = entry.runtime == CLASSIC
    return EngineRequest(
        module=entry.runtime,
        precision=entry.precision,
        targets=() if classic else tuple(entry.targets),
        workspace_bytes=int(limits[0]) if limits else None,
        shapes=(least, best, most),
        hardware_compatible=classic and entry.targets == [PORTABLE],
    )


def build_engine(onnx: bytes, progress: Progress = silent, request: EngineRequest | None = None) -> BuiltEngine:
    """Build an engine. With TensorRT for RTX it need not run here, so nothing is said of its speed or its numbers.

    TF32, which TensorRT sets by default, is set only where it is asked for: it rounds the factors of a product to 10
    bits, and an engine is to compute in what it is called. The same file and request give the same bytes with TensorRT
    for RTX; classic TensorRT chooses kernels by their time, so its bytes may differ.

    Args:
        onnx: the network, with inline weights.
        progress: called as the build goes on; an exception that it raises (Ctrl-C among them) cancels the build.
        request: what is to be built; None means a portable engine in fp32.

    Raises:
        MissingExtra, UnknownName, UsageError, SegkitError: see `require_request`.
        UsageError: the shapes do not suit the file, or the timing cache is another GPU's.
        ExportFailed: the ONNX has nodes that the module cannot build, it is in another precision, or the build fails.
    """
    request = request or EngineRequest()
    targets = require_request(request)
    trt = load_module(request.module, _PURPOSE)
    _refuse_unsupported(trt, onnx, request.module, targets)
    log = make_log(trt)
    builder = trt.Builder(log)
    network, _parser = parse(trt, builder, log, onnx)
    require_precision(network, request.precision)
    config = builder.create_builder_config()
    shapes = _add_profile(builder, network, config, request.shapes)
    _configure(trt, config, request, targets)
    cache = _add_timing_cache(config, request.timing_cache)
    monitor = _monitor(trt, progress)
    config.progress_monitor = monitor
    begin = time.perf_counter()
    plan = builder.build_serialized_network(network, config)
    seconds = time.perf_counter() - begin
    if monitor.raised is not None:
        raise monitor.raised
    if plan is None:
        raise ExportFailed(
            f"expected an engine from {request.module}, its builder says: {complaint(log)}",
            hint=""
            if request.workspace_bytes is None
            else f"allow more than {request.workspace_bytes} bytes of workspace",
        )
    engine = bytes(plan)
    if is_malformed(engine, trt):
        raise ExportFailed(f"expected an engine from {request.module}, it calls its own {len(engine)} bytes malformed")
    memory = _memory(log, request.module)
    return BuiltEngine(
        engine=engine,
        module=request.module,
        version=str(trt.__version__),
        precision=request.precision,
        shapes=shapes,
        targets=targets,
        flags=_flags(trt, config, request),
        activation_bytes=memory["Activation"],
        weight_bytes=memory["Weights"],
        build_seconds=seconds,
        timing_cache=None if cache is None else bytes(cache.serialize()),
    )


def _refuse_unsupported(trt: Any, onnx: bytes, module: str, targets: tuple[str, ...]) -> None:
    unsupported = unsupported_nodes(onnx, module, targets)
    if unsupported:
        raise ExportFailed(
            f"expected operators that {module} {trt.__version__} can build, it refuses "
            + ", ".join(describe(node) for node in unsupported),
            hint="change the network, or export without --trt",
        )


def _add_profile(builder: Any, network: Any, config: Any, shapes: Shapes | None) -> Shapes:
    """Tell the builder which sizes the input may have, and return them."""
    name, found = input_shape(network)
    if shapes is None:
        if -1 in found:
            raise UsageError(
                f"expected the least, best and largest shape of {name!r}, whose dimensions {found} are open at -1",
                hint="give shapes, or export the network with a fixed shape",
            )
        shapes = (found, found, found)
    if any(len(shape) != len(found) for shape in shapes) or not all(
        1 <= least <= best <= most and size in (-1, most) and (size == -1 or least == most)
        for least, best, most, size in zip(*shapes, found, strict=True)
    ):
        raise UsageError(f"expected rising shapes within {found} for {name!r} (-1 is open), got {shapes}")
    profile = builder.create_optimization_profile()
    profile.set_shape(name, *shapes)
    config.add_optimization_profile(profile)
    return shapes


def _configure(trt: Any, config: Any, request: EngineRequest, targets: tuple[str, ...]) -> None:
    if request.precision == "tf32":
        config.set_flag(trt.BuilderFlag.TF32)
    else:
        config.clear_flag(trt.BuilderFlag.TF32)
    if request.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request.workspace_bytes)
    if request.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if hasattr(config, "set_compute_capability") and targets != (PORTABLE,):
        config.num_compute_capabilities = len(targets)
        for index, name in enumerate(targets):
            config.set_compute_capability(trt.ComputeCapability.__members__[name.upper()], index)


def _add_timing_cache(config: Any, content: bytes | None) -> Any:
    if content is None:
        return None
    cache = config.create_timing_cache(content)
    if cache is None or not config.set_timing_cache(cache, False):
        raise UsageError(
            "expected a timing cache of this GPU and this TensorRT, got another one",
            hint="leave it out: the build makes a new one",
        )
    return cache


def _flags(trt: Any, config: Any, request: EngineRequest) -> tuple[str, ...]:
    limit = [] if request.workspace_bytes is None else [f"WORKSPACE={request.workspace_bytes}"]
    names = sorted(name for name, flag in trt.BuilderFlag.__members__.items() if config.get_flag(flag))
    return ("STRONGLY_TYPED", *names, *limit)


def _memory(log: Any, module: str) -> dict[str, int]:
    found = {match[1]: int(match[2]) for _, text in log.lines if (match := _MEMORY.search(text))}
    missing = [name for name in ("Activation", "Weights") if name not in found]
    if missing:
        raise SegkitError(f"expected {module} to log its total {' and '.join(missing).lower()} memory, it did not")
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
