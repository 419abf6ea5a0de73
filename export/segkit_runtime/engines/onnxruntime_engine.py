"""onnxruntime as an engine: the runtime that runs everywhere."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.errors import SegkitError, UsageError
from segkit_runtime.engines import LABELS, MEAN_LOGIT, Output, choose_output, first_line, require_finite
from segkit_runtime.engines.cache import CacheUse
from segkit_runtime.manifest import Precision

_FATAL = 4
_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_PRECISIONS = {"cpu": ("fp32", "int8"), "cuda": ("fp32", "tf32", "fp16", "bf16")}
"""What its convolutions are computed in. On a CPU a file in fp16 is turned back to fp32 as it loads, weights, tensors
and all; on CUDA a quantised one is."""


class OnnxRuntimeEngine:
    """Runs an ONNX model, in the precision of the file, on the CPU or on a CUDA device.

    onnxruntime goes on with the CPU, and says so in its log at most, where CUDA was asked for and cannot be had. Here
    that is an error: falling back is switched off, and the providers of the session are compared with the asked one.

    Args:
        model: content of the ONNX file; one input, whose first output is the logits.
        precision: what the file is in. "tf32" takes an fp32 file and lets CUDA round its products.
        device: "cpu", or "cuda:0", "cuda:1" ...
        threads: threads of an operator, or None for one per core.
        output: "labels" for these where the file has them.

    Raises:
        UsageError: onnxruntime does not compute in this precision there, or was built without CUDA.
        SegkitError: the session does not run where it was asked to.
    """

    runtime = "onnxruntime"
    batch = 1
    cache: CacheUse = "off"

    def __init__(
        self,
        model: bytes,
        *,
        precision: Precision = "fp32",
        device: str = "cpu",
        threads: int | None = None,
        output: Output = "logits",
    ) -> None:
        import onnxruntime

        # What goes wrong is raised; onnxruntime's own lines on standard error would only repeat it.
        onnxruntime.set_default_logger_severity(_FATAL)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _FATAL
        # A pattern is one block for all that the first run allocated: two thirds more memory for a 3D U-Net on a CPU,
        # and not a millisecond less.
        options.enable_mem_pattern = False
        if threads is not None:
            options.intra_op_num_threads = threads
        where = device.partition(":")[0]
        if precision not in _PRECISIONS[where]:
            raise UsageError(
                f"expected onnxruntime on {device} in {', '.join(_PRECISIONS[where])}, got {precision}, which it does "
                "not compute in there",
                hint="choose another precision or another runtime",
            )
        if where == "cpu":
            # enable_fallback: else a failure is tried again on the CPU, both here and in the middle of a volume.
            self._session = onnxruntime.InferenceSession(model, options, providers=[_CPU], enable_fallback=0)
        else:
            self._session = _open_on_cuda(onnxruntime, model, options, device, precision)
        # The session would keep the file's content for as long as it lives, to start again on another provider.
        self._session._model_bytes = None
        active, asked = self._session.get_providers(), _CPU if device == "cpu" else _CUDA
        if active[:1] != [asked] or set(active) - {asked, _CPU}:
            raise SegkitError(f"expected onnxruntime on {asked}, it runs on {', '.join(active)}")
        self.device = device
        self.precision: str = precision
        self.version = str(onnxruntime.__version__)
        (source,) = self._session.get_inputs()
        self._input = source.name
        names = [found.name for found in self._session.get_outputs()]
        self.output = choose_output(output, names)
        self._wanted = [LABELS, MEAN_LOGIT] if self.output == "labels" else names[:1]
        channels = source.shape[1]
        self.channels = channels if isinstance(channels, int) else None

    def run(self, patches: NDArray[np.float32]) -> NDArray[Any]:
        """Map patches (B, C, X, Y, Z) to logits (B, K, X, Y, Z), or to labels (B, X, Y, Z).

        Raises:
            DataError: the logits behind labels are not finite.
        """
        answer, *mean_logit = self._session.run(self._wanted, {self._input: np.ascontiguousarray(patches)})
        for mean in mean_logit:
            require_finite(self.runtime, mean)
        result: NDArray[Any] = answer
        return result

    def keep(self, model_sha256: str) -> None:
        """Keep nothing: onnxruntime compiles nothing that could be."""

    def close(self) -> None:
        """Free the session."""
        self._session = None


def _open_on_cuda(onnxruntime: Any, model: bytes, options: Any, device: str, precision: Precision) -> Any:
    """A session on a CUDA device, of which no node runs on the CPU."""
    if _CUDA not in onnxruntime.get_available_providers():
        raise UsageError(
            f"expected onnxruntime with CUDA for {device}, the one that is installed has none",
            hint='run: pip uninstall onnxruntime; pip install "segkit3d[gpu]"',
        )
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    chosen = {"device_id": device.removeprefix("cuda:"), "use_tf32": "1" if precision == "tf32" else "0"}
    try:
        return onnxruntime.InferenceSession(model, options, providers=[(_CUDA, chosen)], enable_fallback=0)
    except Exception as error:
        raise SegkitError(
            f"expected onnxruntime on {device}, it says: {first_line(error)}",
            hint='install a driver, and the CUDA libraries: pip install "onnxruntime-gpu[cuda,cudnn]"',
        ) from error
