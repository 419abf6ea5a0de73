"""What a GPU adds to a measurement: which device, memory by NVML, times by CUDA events. Elsewhere there is none."""

from __future__ import annotations

import os
import statistics
from typing import TYPE_CHECKING, Any

from segkit.extras import is_installed
from segkit_runtime.cuda import why_no_device

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MIB = 2**20


def cuda_device(runtime: str = "torch") -> str | None:
    """The CUDA device that a runtime of this environment can use, or None where it can use none."""
    if runtime == "torch":
        import torch

        return "cuda:0" if torch.cuda.is_available() else None
    if why_no_device() is not None:
        return None
    if runtime == "onnxruntime":
        import onnxruntime

        return "cuda:0" if "CUDAExecutionProvider" in onnxruntime.get_available_providers() else None
    return "cuda:0"


def device_mib() -> float | None:
    """What this process holds on all GPUs, context included, as NVML tells it; None without nvidia-ml-py."""
    if not is_installed("pynvml"):
        return None
    import pynvml

    pynvml.nvmlInit()
    try:
        held = 0
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle):
                held += (process.usedGpuMemory or 0) if process.pid == os.getpid() else 0
        return round(held / _MIB, 1) if held else None  # in a container NVML may know it by another number
    finally:
        pynvml.nvmlShutdown()


def median_device_ms(engine: Any, patch: NDArray[np.float32], runs: int) -> float | None:
    """Median time of the network on the device by CUDA events, copies left out; None where an engine takes none."""
    if not hasattr(engine, "time_parts"):
        return None
    median: float = statistics.median(part.compute_ms for part in engine.time_parts(patch, runs))
    return round(median, 3)
