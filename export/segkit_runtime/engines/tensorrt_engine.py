"""A TensorRT engine, of either module, run on a CUDA device without torch.

All memory on the device is this class's own (the engine's weights aside): it is allocated once, for the largest input,
so that a volume that starts does not end for want of memory.
"""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.errors import BundleError, SegkitError, UsageError
from segkit_runtime.cuda import Cuda
from segkit_runtime.engines import LABELS, MEAN_LOGIT, Output, choose_output, require_finite
from segkit_runtime.engines.cache import CacheUse
from segkit_runtime.manifest import CompiledEngine
from segkit_runtime.trt import (
    CLASSIC,
    EXTRAS,
    RTX,
    capability_name,
    complaint,
    is_malformed,
    load_module,
    make_log,
    runs_on,
)

REBUILD = "build it again from the ONNX inside: segkit rebuild BUNDLE"


@dataclass(frozen=True, kw_only=True)
class PartTimes:
    """Where the time of one run went, by events on the stream.

    Attributes:
        copy_in_ms: host to device.
        compute_ms: the network.
        copy_out_ms: device to host.
    """

    copy_in_ms: float
    compute_ms: float
    copy_out_ms: float


class TensorRTEngine:
    """Runs the engine file of a bundle.

    Args:
        plan: content of the engine file. Loading it runs native code: its hash must have been checked.
        built: what the manifest says of it.
        device: "cuda:0", "cuda:1" ...
        threads: CPU threads that compile kernels on the first run, or None for the module's own choice.
        output: "labels" for these where the engine has them.
        runtime_cache: TensorRT for RTX: what `runtime_cache` gave on this GPU before, which spares that compilation.

    Attributes:
        batch: the most patches it takes at once.
        channels: number of channels its input takes.
        activation_bytes: device memory for activations.
        first_run_ms: time of the first run, in which TensorRT for RTX compiles its kernels; None before it.

    Raises:
        MissingExtra: the module or `cuda-bindings` is not installed.
        UsageError: there is no such device.
        BundleError: the engine is another version's or another GPU's, is malformed, or is not what the manifest says.
        SegkitError: the module does not load, or the device lacks memory.
    """

    cache: CacheUse = "off"

    def __init__(
        self,
        plan: bytes,
        built: CompiledEngine,
        *,
        device: str = "cuda:0",
        threads: int | None = None,
        output: Output = "logits",
        runtime_cache: bytes | None = None,
    ) -> None:
        trt = load_module(built.runtime, f"the engine {built.file}")
        self.runtime: str = built.runtime
        self.version = str(trt.__version__)
        self.device = device
        self.precision: str = built.precision
        self._most: tuple[int, ...] = tuple(built.shapes[2])
        self.batch: int = self._most[0]
        self.channels: int | None = self._most[1]
        self.first_run_ms: float | None = None
        self._cuda = Cuda(device, EXTRAS[built.runtime])
        self._log = make_log(trt)
        self._runtime = self._engine = self._context = self._cache = None
        self._source_on_device = 0
        self._on_device: dict[str, int] = {}
        self.output = output
        self._shape: tuple[int, ...] | None = None
        try:
            self._require_here(trt, plan, built)
            self._load(trt, plan, built, threads)
            self._make_context(trt, runtime_cache)
            self._allocate()
        except BaseException:
            self.close()
            raise

    def run(self, patches: NDArray[np.float32]) -> NDArray[Any]:
        """Map patches (B, C, X, Y, Z) to logits (B, K, X, Y, Z), or to labels (B, X, Y, Z).

        The result stays as it is during the next call.

        Raises:
            UsageError: the engine was not built for patches of this shape.
            SegkitError: TensorRT or CUDA fails.
            DataError: the logits behind labels are not finite.
        """
        begin = time.perf_counter()
        source, targets = self._stage(patches)
        self._enqueue(source, targets)
        self._cuda.wait()
        if self.first_run_ms is None:
            self.first_run_ms = (time.perf_counter() - begin) * 1000
        if MEAN_LOGIT in targets:
            require_finite(self.runtime, targets[MEAN_LOGIT])
        return targets[self._wanted[0]]

    def time_parts(self, patches: NDArray[np.float32], runs: int) -> list[PartTimes]:
        """Run the same patches again and again, and take the times on the device.

        Raises:
            UsageError, SegkitError: see `run`.
        """
        source, targets = self._stage(patches)
        marks = [self._enqueue(source, targets, timed=True) for _ in range(runs)]
        self._cuda.wait()
        parts = [[self._cuda.elapsed_ms(a, b) for a, b in itertools.pairwise(row)] for row in marks]
        self._cuda.forget_marks()
        return [PartTimes(copy_in_ms=a, compute_ms=b, copy_out_ms=c) for a, b, c in parts]

    def runtime_cache(self) -> bytes | None:
        """The kernels that TensorRT for RTX compiled so far, for the next start on this GPU; None where it has none."""
        return None if self._cache is None else bytes(self._cache.serialize())

    def keep(self, model_sha256: str) -> None:
        """Keep nothing: the engine is in the bundle."""

    def close(self) -> None:
        """Free the device. Logits that were returned stay readable."""
        self._source = np.empty(0, np.float32)
        self._targets: list[dict[str, NDArray[Any]]] = []
        # Each needs the one after it, and all of them the device.
        self._context = None
        self._cache = None
        self._engine = None
        self._runtime = None
        self._cuda.close()

    def _require_here(self, trt: Any, plan: bytes, built: CompiledEngine) -> None:
        """Refuse an engine that this module or this device would not run, before any of it is loaded."""
        capability = self._cuda.capability
        if built.version != self.version:
            raise BundleError(
                f"expected {built.runtime} {built.version}, which built {built.file}, found {self.version}; an engine "
                "loads in the version that built it",
                hint=REBUILD,
            )
        if not runs_on(built.targets, capability, trt):
            raise BundleError(
                f"expected a GPU of {', '.join(built.targets)}, which {built.file} was built for with {built.runtime}, "
                f"found {capability_name(capability)}",
                hint=_how_to_rebuild(built.runtime, capability, trt),
            )
        if is_malformed(plan, trt):
            raise BundleError(f"expected an engine of {built.runtime} in {built.file}, found other bytes", hint=REBUILD)

    def _load(self, trt: Any, plan: bytes, built: CompiledEngine, threads: int | None) -> None:
        runtime = trt.Runtime(self._log)
        if threads is not None:
            runtime.max_threads = threads
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise BundleError(
                f"expected {built.file} to load, {self.runtime} says: {complaint(self._log)}", hint=REBUILD
            )
        self._runtime, self._engine = runtime, engine
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        outputs = [name for name in names if name not in inputs]
        logits = [name for name in outputs if name not in (LABELS, MEAN_LOGIT)]
        if len(inputs) != 1 or len(logits) != 1:
            raise BundleError(f"expected one input and one output, {built.file} has {', '.join(names)}", hint=REBUILD)
        kinds = {name: trt.DataType.UINT8 if name == LABELS else trt.DataType.FLOAT for name in names}
        other = [name for name, kind in kinds.items() if engine.get_tensor_dtype(name) != kind]
        if other:
            raise BundleError(f"expected float32 in and out, {built.file} has others: {', '.join(other)}", hint=REBUILD)
        self._input, self._outputs = inputs[0], outputs
        self.output = choose_output(self.output, outputs)
        self._wanted = [LABELS, MEAN_LOGIT] if self.output == "labels" else logits
        self._require_shapes(engine, built)

    def _require_shapes(self, engine: Any, built: CompiledEngine) -> None:
        """Hold the manifest's shapes against the engine's; -1 is open in the one and ranges in the other."""
        shape = tuple(engine.get_tensor_shape(self._input))
        expected = [tuple(shape) for shape in built.shapes]
        if -1 in shape:
            found = [tuple(dims) for dims in engine.get_tensor_profile_shape(self._input, 0)]
        else:
            found = [shape] * 3
        if found != expected:
            raise BundleError(f"expected inputs of {expected}, {built.file} takes {found}", hint=REBUILD)

    def _make_context(self, trt: Any, cache: bytes | None) -> None:
        engine: Any = self._engine
        config = engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if hasattr(config, "create_runtime_cache"):
            kernels = config.create_runtime_cache()
            if cache is not None:
                kernels.deserialize(cache)  # one of another driver or GPU is left out, and kernels are compiled anew
            config.set_runtime_cache(kernels)
            self._cache = kernels
        self._context = engine.create_execution_context(config)
        if self._context is None:
            raise SegkitError(f"expected {self.runtime} to prepare a run, it says: {complaint(self._log)}")

    def _allocate(self) -> None:
        engine: Any = self._engine
        context: Any = self._context
        self.activation_bytes = int(engine.device_memory_size_v2)
        context.set_device_memory(self._cuda.allocate(self.activation_bytes), self.activation_bytes)
        most = self._set_shape(self._most)
        self._source = self._cuda.pinned(math.prod(self._most))
        # Two in turn: the answer in the one is looked at while the other is written.
        self._targets = [
            {name: self._cuda.pinned(math.prod(most[name]), _dtype(name)) for name in self._wanted} for _ in range(2)
        ]
        self._source_on_device = self._cuda.allocate(self._source.nbytes)
        context.set_tensor_address(self._input, self._source_on_device)
        for name, shape in most.items():
            self._on_device[name] = self._cuda.allocate(math.prod(shape) * (1 if name == LABELS else 4))
            context.set_tensor_address(name, self._on_device[name])

    def _stage(self, patches: NDArray[np.float32]) -> tuple[NDArray[np.float32], dict[str, NDArray[Any]]]:
        """Put patches into pinned memory; the views of it that hold them and that will hold what is wanted of them."""
        self._cuda.use()  # a device is chosen per thread, and this may be another one
        out = self._set_shape(patches.shape)
        source = self._source[: patches.size].reshape(patches.shape)
        np.copyto(source, patches)
        self._targets.reverse()
        return source, {
            name: target[: math.prod(out[name])].reshape(out[name]) for name, target in self._targets[0].items()
        }

    def _set_shape(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Tell the context the shape of the input, and return those of the outputs."""
        context: Any = self._context
        if shape != self._shape:
            self._shape = None
            if not context.set_input_shape(self._input, shape):
                raise UsageError(f"expected patches of at most {self._most}, got {shape}: {complaint(self._log)}")
            self._shape = shape
        return {name: tuple(context.get_tensor_shape(name)) for name in self._outputs}

    def _enqueue(
        self, source: NDArray[np.float32], targets: dict[str, NDArray[Any]], *, timed: bool = False
    ) -> list[Any]:
        """Enqueue copy, network and copy; the marks around each of the three, if they are timed."""
        context: Any = self._context
        marks = [self._cuda.mark()] if timed else []
        self._cuda.copy_in(self._source_on_device, source)
        marks += [self._cuda.mark()] if timed else []
        if not context.execute_async_v3(self._cuda.stream):
            raise SegkitError(f"expected {self.runtime} to run, it says: {complaint(self._log)}")
        marks += [self._cuda.mark()] if timed else []
        for name, target in targets.items():
            self._cuda.copy_out(target, self._on_device[name])
        marks += [self._cuda.mark()] if timed else []
        return marks


def _dtype(output: str) -> type[np.generic]:
    return np.uint8 if output == LABELS else np.float32


def _how_to_rebuild(runtime: str, capability: tuple[int, int], trt: Any) -> str:
    here = capability_name(capability)
    if not runs_on([here], capability, trt):
        return f"{runtime} has no engines for {here}: segkit export RUN --trt --trt-module {CLASSIC}"
    return f"{REBUILD} --target {here}" if runtime == RTX else f"{REBUILD}, on this machine"
