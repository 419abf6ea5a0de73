"""A CUDA device and a TensorRT module, both simulated: a network runs in ONNX Runtime, on the host's memory.

What is tested with them is the order of calls, addresses, shapes and sizes, never numbers or speed of a GPU. Work on
the stream is done when somebody waits for it, as late as a real device may do it. The names are those of the real
modules: test_tensorrt_engine.py holds them against the lists of tests/export/tensorrt_surfaces.
"""

from __future__ import annotations

import ctypes
import enum
import sys
import threading
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

MAGIC = b"simulated plan:"
STREAM = 77


class CudaError(enum.IntEnum):
    cudaSuccess = 0  # noqa: N815 - CUDA's name
    cudaErrorMemoryAllocation = 2  # noqa: N815
    cudaErrorInsufficientDriver = 35  # noqa: N815


class SimulatedCuda(ModuleType):
    """`cuda.bindings.runtime` with devices of one kind.

    Attributes:
        capability: of each device.
        devices: how many there are; 0 answers as a machine without a driver.
        free_bytes: what can be allocated.
        memory: what is allocated, by address.
        pinned: likewise, on the host.
        events: events that exist, and the clock at which the stream came to each.
        threads: the threads that chose a device.
    """

    cudaError_t = CudaError  # noqa: N815
    cudaDeviceAttr = SimpleNamespace(  # noqa: N815
        cudaDevAttrComputeCapabilityMajor="major", cudaDevAttrComputeCapabilityMinor="minor"
    )
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice="in", cudaMemcpyDeviceToHost="out")  # noqa: N815

    def __init__(self, capability: tuple[int, int], devices: int = 1) -> None:
        super().__init__("cuda.bindings.runtime")
        self.capability, self.devices = capability, devices
        self.free_bytes = 1 << 30
        self.memory: dict[int, Any] = {}
        self.pinned: dict[int, Any] = {}
        self.events: dict[int, float | None] = {}
        self.streams = 0
        self.threads: list[int] = []
        self.queue: list[Callable[[], None]] = []
        self.clock_ms = 0.0

    def cudaGetDeviceCount(self) -> tuple[CudaError, int | None]:  # noqa: N802
        return (CudaError.cudaSuccess, self.devices) if self.devices else (CudaError.cudaErrorInsufficientDriver, None)

    def cudaGetErrorName(self, error: CudaError) -> tuple[CudaError, bytes]:  # noqa: N802
        return CudaError.cudaSuccess, error.name.encode()

    def cudaGetErrorString(self, error: CudaError) -> tuple[CudaError, bytes]:  # noqa: N802
        return CudaError.cudaSuccess, b"simulated"

    def cudaDeviceGetAttribute(self, kind: str, device: int) -> tuple[CudaError, int]:  # noqa: N802
        return CudaError.cudaSuccess, self.capability[kind == "minor"]

    def cudaSetDevice(self, device: int) -> tuple[CudaError]:  # noqa: N802
        self.threads.append(threading.get_ident())
        return (CudaError.cudaSuccess,)

    def cudaStreamCreate(self) -> tuple[CudaError, int]:  # noqa: N802
        self.streams += 1
        return CudaError.cudaSuccess, STREAM

    def cudaStreamDestroy(self, stream: int) -> tuple[CudaError]:  # noqa: N802
        self.streams -= 1
        return (CudaError.cudaSuccess,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[CudaError]:  # noqa: N802
        assert stream == STREAM
        for work in self.queue:
            work()
        self.queue.clear()
        return (CudaError.cudaSuccess,)

    def cudaMalloc(self, size: int) -> tuple[CudaError, int | None]:  # noqa: N802
        if size > self.free_bytes:
            return CudaError.cudaErrorMemoryAllocation, None
        buffer = (ctypes.c_char * size)()
        self.memory[ctypes.addressof(buffer)] = buffer
        return CudaError.cudaSuccess, ctypes.addressof(buffer)

    def cudaFree(self, address: int) -> tuple[CudaError]:  # noqa: N802
        del self.memory[address]
        return (CudaError.cudaSuccess,)

    def cudaMallocHost(self, size: int) -> tuple[CudaError, int]:  # noqa: N802
        buffer = (ctypes.c_char * size)()
        self.pinned[ctypes.addressof(buffer)] = buffer
        return CudaError.cudaSuccess, ctypes.addressof(buffer)

    def cudaFreeHost(self, address: int) -> tuple[CudaError]:  # noqa: N802
        del self.pinned[address]
        return (CudaError.cudaSuccess,)

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: str, stream: int) -> tuple[CudaError]:  # noqa: N802
        device, host = (target, source) if kind == "in" else (source, target)
        assert stream == STREAM
        assert size <= len(self.memory[device])
        assert host in self.pinned
        self._enqueue(1.0, lambda: ctypes.memmove(target, source, size))
        return (CudaError.cudaSuccess,)

    def cudaEventCreate(self) -> tuple[CudaError, int]:  # noqa: N802
        event = len(self.events) + 1
        self.events[event] = None
        return CudaError.cudaSuccess, event

    def cudaEventRecord(self, event: int, stream: int) -> tuple[CudaError]:  # noqa: N802
        self._enqueue(0.0, lambda: self.events.update({event: self.clock_ms}))
        return (CudaError.cudaSuccess,)

    def cudaEventElapsedTime(self, begin: int, end: int) -> tuple[CudaError, float]:  # noqa: N802
        begun, ended = self.events[begin], self.events[end]
        assert begun is not None
        assert ended is not None
        return CudaError.cudaSuccess, ended - begun

    def cudaEventDestroy(self, event: int) -> tuple[CudaError]:  # noqa: N802
        del self.events[event]
        return (CudaError.cudaSuccess,)

    def _enqueue(self, milliseconds: float, work: Callable[[], object]) -> None:
        def done() -> None:
            self.clock_ms += milliseconds
            work()

        self.queue.append(done)


class DataType(enum.Enum):
    FLOAT = enum.auto()
    HALF = enum.auto()
    UINT8 = enum.auto()


class TensorIOMode(enum.Enum):
    INPUT = enum.auto()
    OUTPUT = enum.auto()


class IRuntimeConfig:
    def __init__(self) -> None:
        self.strategy_: str | None = None

    def set_execution_context_allocation_strategy(self, strategy: str) -> None:
        self.strategy_ = strategy


class IRuntimeCache:
    def __init__(self) -> None:
        self.content_ = b"compiled here"

    def deserialize(self, blob: bytes) -> bool:
        self.content_ = blob
        return True

    def serialize(self) -> bytes:
        return self.content_


class RtxRuntimeConfig(IRuntimeConfig):
    """As TensorRT for RTX has it."""

    def create_runtime_cache(self) -> IRuntimeCache:
        return IRuntimeCache()

    def set_runtime_cache(self, cache: IRuntimeCache) -> bool:
        return True


class ICudaEngine:
    device_memory_size_v2 = 4096

    def __init__(self, module: SimulatedTensorRT, onnx: bytes) -> None:
        self.module_ = module
        self.session_ = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
        self.tensors_ = [*self.session_.get_inputs(), *self.session_.get_outputs()]
        self.num_io_tensors = len(self.tensors_)

    def get_tensor_name(self, index: int) -> str:
        return str(self.tensors_[index].name)

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name == self.tensors_[0].name else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        tensor = next(tensor for tensor in self.tensors_ if tensor.name == name)
        return DataType.UINT8 if tensor.type == "tensor(uint8)" else self.module_.dtype

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        shape = next(tensor.shape for tensor in self.tensors_ if tensor.name == name)
        return tuple(size if isinstance(size, int) else -1 for size in shape)

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        assert profile == 0
        return list(self.module_.shapes)

    def create_runtime_config(self) -> IRuntimeConfig:
        return RtxRuntimeConfig() if self.module_.__name__ == "tensorrt_rtx" else IRuntimeConfig()

    def create_execution_context(self, config: IRuntimeConfig) -> IExecutionContext:
        assert config.strategy_ == "user managed"
        return IExecutionContext(self)


class IExecutionContext:
    def __init__(self, engine: ICudaEngine) -> None:
        self.engine_ = engine
        self.addresses_: dict[str, int] = {}
        self.shape_: tuple[int, ...] = ()
        self.scratch_ = 0

    def set_device_memory(self, memory: int, size: int) -> None:
        assert len(self.engine_.module_.cuda.memory[memory]) >= size >= self.engine_.device_memory_size_v2
        self.scratch_ = memory

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self.engine_.module_.shapes
        fits = len(shape) == 5 and all(a <= b <= c for a, b, c in zip(least, shape, most, strict=True))
        self.shape_ = shape if fits else ()
        return fits

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        declared = self.engine_.get_tensor_shape(name)
        batch, _, *sides = self.shape_
        return {1: (batch,), 4: (batch, *sides)}.get(len(declared), (batch, *declared[1:2], *sides))

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.addresses_[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        module = self.engine_.module_
        assert stream_handle == STREAM
        assert self.scratch_ in module.cuda.memory
        if module.fails_to_run:
            module.log.log(SimpleNamespace(name="ERROR"), "simulated failure")
            return False
        source, *targets = (tensor.name for tensor in self.engine_.tensors_)
        shape, out = self.shape_, {target: self.get_tensor_shape(target) for target in targets}

        def compute() -> None:
            answers = self.engine_.session_.run(targets, {source: self.view_(source, shape)})
            for target, answer in zip(targets, answers, strict=True):
                self.view_(target, out[target])[...] = answer

        module.cuda._enqueue(5.0, compute)
        return True

    def view_(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        buffer = self.engine_.module_.cuda.memory[self.addresses_[name]]
        dtype = np.uint8 if self.engine_.get_tensor_dtype(name) == DataType.UINT8 else np.float32
        return np.frombuffer(buffer, dtype, int(np.prod(shape))).reshape(shape)


class ILogger:
    def log(self, severity: Any, text: str) -> None:
        raise NotImplementedError


class SimulatedTensorRT(ModuleType):
    """`tensorrt_rtx` or `tensorrt`, in which `MAGIC` and an ONNX file are an engine."""

    ILogger = ILogger
    DataType = DataType
    TensorIOMode = TensorIOMode
    ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="user managed")

    def __init__(self, name: str, version: str, cuda: SimulatedCuda, shapes: tuple[tuple[int, ...], ...]) -> None:
        super().__init__(name)
        self.__version__ = version
        self.__spec__ = ModuleSpec(name, None, origin="simulated")
        self.cuda, self.shapes = cuda, shapes
        self.dtype = DataType.FLOAT
        self.fails_to_run = False
        self.loaded = 0
        self.log: Any = None
        self.runtimes: list[Any] = []
        module = self

        class Runtime:
            max_threads = 0

            def __init__(self, log: Any) -> None:
                module.log = log
                module.runtimes.append(self)

            def deserialize_cuda_engine(self, plan: bytes) -> ICudaEngine | None:
                module.loaded += 1
                if not plan.startswith(MAGIC):
                    module.log.log(SimpleNamespace(name="ERROR"), "simulated: no engine")
                    return None
                return ICudaEngine(module, plan.removeprefix(MAGIC))

        class RtxRuntime(Runtime):
            def get_engine_validity(self, plan: bytes) -> tuple[str, int]:
                return "invalid", 0 if plan.startswith(MAGIC) else 32

        self.Runtime = Runtime
        if name == "tensorrt_rtx":
            self.Runtime = RtxRuntime
            self.EngineInvalidityDiagnostics = SimpleNamespace(MALFORMED_ENGINE=32)
            self.ComputeCapability = SimpleNamespace(
                __members__=dict.fromkeys(["SM75", "SM80", "SM86", "SM89", "SM120"])
            )


def install(
    monkeypatch: pytest.MonkeyPatch,
    shapes: tuple[tuple[int, ...], ...],
    *,
    module: str = "tensorrt_rtx",
    version: str = "1.7.1.116",
    capability: tuple[int, int] = (8, 6),
    devices: int = 1,
) -> SimulatedTensorRT:
    """Put both modules where an import finds them."""
    cuda = SimulatedCuda(capability, devices)
    trt = SimulatedTensorRT(module, version, cuda, shapes)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda)
    monkeypatch.setitem(sys.modules, module, trt)
    return trt
