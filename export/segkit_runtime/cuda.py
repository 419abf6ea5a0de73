"""One CUDA device and one stream, through NVIDIA's `cuda-bindings`: memory, copies, events. No torch.

The bindings carry CUDA's runtime inside and look for the driver only when they are called, so they import anywhere.
"""

from __future__ import annotations

import importlib
import re
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.errors import MissingExtra, SegkitError, UsageError

_BINDINGS = "cuda.bindings.runtime"


class Cuda:
    """A device, and a stream on it that all its work goes through.

    Args:
        device: "cuda:0", "cuda:1" ...
        extra: the extra of segkit3d that brings `cuda-bindings`.

    Attributes:
        capability: the device's compute capability, for example (8, 6).
        stream: the stream's handle.

    Raises:
        MissingExtra: `cuda-bindings` is not installed.
        UsageError: there is no such device.
    """

    def __init__(self, device: str = "cuda:0", extra: str = "trt") -> None:
        self._cuda = _load(extra)
        self._pointers: list[int] = []
        self._events: list[Any] = []
        self._index = _index(device, self._cuda)
        kinds = self._cuda.cudaDeviceAttr
        major, minor = (
            self._call("cudaDeviceGetAttribute", kind, self._index)
            for kind in (kinds.cudaDevAttrComputeCapabilityMajor, kinds.cudaDevAttrComputeCapabilityMinor)
        )
        self.capability: tuple[int, int] = (int(major), int(minor))
        self.use()
        self._stream: Any = self._call("cudaStreamCreate")

    @property
    def stream(self) -> int:
        """The stream's handle, as TensorRT takes it."""
        return int(self._stream)

    def use(self) -> None:
        """Make the device the one of this thread."""
        self._call("cudaSetDevice", self._index)

    def allocate(self, size: int) -> int:
        """Device memory of `size` bytes, freed by `close`; its address."""
        address = int(self._call("cudaMalloc", max(size, 1)))
        self._pointers.append(address)
        return address

    def pinned(self, count: int, dtype: type[np.generic] = np.float32) -> NDArray[Any]:
        """An array of `count` numbers in page-locked host memory, freed with the last view of it."""
        kind = np.dtype(dtype)
        address = int(self._call("cudaMallocHost", max(count, 1) * kind.itemsize))
        return np.asarray(_Pinned(self._cuda, address, count, kind.str))

    def copy_in(self, target: int, source: NDArray[Any]) -> None:
        """Enqueue a copy of a pinned, contiguous array to device memory."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", target, source.ctypes.data, source.nbytes, kind, self._stream)

    def copy_out(self, target: NDArray[Any], source: int) -> None:
        """Enqueue a copy of device memory to a pinned, contiguous array."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", target.ctypes.data, source, target.nbytes, kind, self._stream)

    def wait(self) -> None:
        """Wait until all that was enqueued is done."""
        self._call("cudaStreamSynchronize", self._stream)

    def mark(self) -> Any:
        """Enqueue an event: the time at which the stream comes to it."""
        event = self._call("cudaEventCreate")
        self._events.append(event)
        self._call("cudaEventRecord", event, self._stream)
        return event

    def elapsed_ms(self, begin: Any, end: Any) -> float:
        """Milliseconds between two marks that the stream has passed."""
        return float(self._call("cudaEventElapsedTime", begin, end))

    def forget_marks(self) -> None:
        """Free the events of all marks."""
        while self._events:
            self._call("cudaEventDestroy", self._events.pop())

    def close(self) -> None:
        """Free the device memory, the events and the stream. A second call does nothing.

        What CUDA answers is not looked at: an error of the stream's work was raised where it was waited for, and after
        such an error nothing can be freed before the process ends.
        """
        if self._stream is None:
            return
        self._cuda.cudaSetDevice(self._index)
        self._cuda.cudaStreamSynchronize(self._stream)
        for free, things in ((self._cuda.cudaEventDestroy, self._events), (self._cuda.cudaFree, self._pointers)):
            while things:
                free(things.pop())
        self._cuda.cudaStreamDestroy(self._stream)
        self._stream = None

    def _call(self, name: str, *arguments: Any) -> Any:
        """Call a function of CUDA and return its value, if it has one.

        Raises:
            SegkitError: it fails.
        """
        error, *values = getattr(self._cuda, name)(*arguments)
        if error != self._cuda.cudaError_t.cudaSuccess:
            hint = "free memory of the device, or take fewer patches at once" if name.startswith("cudaMalloc") else ""
            raise SegkitError(f"expected {name} to succeed, CUDA says: {_explain(self._cuda, error)}", hint=hint)
        return values[0] if values else None


def why_no_device(extra: str = "trt") -> str | None:
    """Why no CUDA device can be used here, or None where one can."""
    try:
        cuda = _load(extra)
    except SegkitError as missing:
        return str(missing)
    error, count = cuda.cudaGetDeviceCount()
    if error != cuda.cudaError_t.cudaSuccess:
        return _explain(cuda, error)
    return None if count else "CUDA counts none"


def device_capability(device: str = "cuda:0", extra: str = "trt") -> tuple[int, int]:
    """The compute capability of a device, for example (8, 6).

    Raises:
        MissingExtra, UsageError: see `Cuda`.
    """
    cuda = Cuda(device, extra)
    cuda.close()
    return cuda.capability


class _Pinned:
    """Page-locked memory as numpy takes it: an array keeps this object, and the memory lasts as long as any view."""

    def __init__(self, cuda: Any, address: int, count: int, typestr: str) -> None:
        self.__array_interface__ = {"version": 3, "data": (address, False), "shape": (count,), "typestr": typestr}
        weakref.finalize(self, cuda.cudaFreeHost, address)


def _load(extra: str) -> Any:
    try:
        return importlib.import_module(_BINDINGS)
    except ModuleNotFoundError as error:
        raise MissingExtra(_BINDINGS, extra, "running or building on a CUDA device") from error
    except (ImportError, OSError, RuntimeError) as error:
        raise SegkitError(
            f"expected the module {_BINDINGS!r} to load, it does not: {type(error).__name__}: {error}",
            hint="run: pip install --force-reinstall cuda-bindings",
        ) from error


def _index(device: str, cuda: Any) -> int:
    if not re.fullmatch(r"cuda:\d{1,3}", device):
        raise UsageError(f"expected a device such as cuda:0, got {device!r}")
    index = int(device[5:])
    error, count = cuda.cudaGetDeviceCount()
    if error != cuda.cudaError_t.cudaSuccess:
        raise UsageError(
            f"expected a CUDA device, found none: {_explain(cuda, error)}",
            hint="install or update NVIDIA's driver, or use onnxruntime or openvino on the CPU",
        )
    if index >= count:
        raise UsageError(f"expected the device {device}, found {count} CUDA devices")
    return index


def _explain(cuda: Any, error: Any) -> str:
    (_, name), (_, text) = cuda.cudaGetErrorName(error), cuda.cudaGetErrorString(error)
    return f"{name.decode()}: {text.decode()}"
