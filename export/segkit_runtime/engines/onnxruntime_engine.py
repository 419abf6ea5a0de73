"""onnxruntime as an engine: the runtime that runs everywhere."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segkit.errors import SegkitError

_FATAL = 4


class OnnxRuntimeEngine:
    """Runs an ONNX model on the CPU in fp32.

    Args:
        model: content of the ONNX file; one input, whose first output is the logits.
        threads: threads of an operator, or None for one per core.

    Raises:
        SegkitError: the session does not run where it was asked to.
    """

    runtime = "onnxruntime"
    device = "cpu"
    batch = 1
    precision = "fp32"

    def __init__(self, model: bytes, *, threads: int | None = None) -> None:
        import onnxruntime

        # What goes wrong is raised; onnxruntime's own lines on standard error would only repeat it.
        onnxruntime.set_default_logger_severity(_FATAL)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _FATAL
        if threads is not None:
            options.intra_op_num_threads = threads
        asked = ["CPUExecutionProvider"]
        self._session = onnxruntime.InferenceSession(model, options, providers=asked)
        active = self._session.get_providers()
        if active != asked:
            raise SegkitError(f"expected onnxruntime on {asked[0]}, it runs on {', '.join(active)}")
        self.version = str(onnxruntime.__version__)
        (source,) = self._session.get_inputs()
        self._input = source.name
        self._output = self._session.get_outputs()[0].name
        channels = source.shape[1]
        self.channels = channels if isinstance(channels, int) else None

    def run(self, patches: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map patches (B, C, X, Y, Z) to logits (B, K, X, Y, Z)."""
        (logits,) = self._session.run([self._output], {self._input: np.ascontiguousarray(patches)})
        result: NDArray[np.float32] = logits
        return result

    def close(self) -> None:
        """Free the session."""
        self._session = None
