"""OpenVINO as an engine: the fastest on CPUs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segkit.errors import SegkitError

_NAMES = {"f32": "fp32", "float32": "fp32", "f16": "fp16", "float16": "fp16", "bf16": "bf16", "bfloat16": "bf16"}


class OpenVinoEngine:
    """Runs an ONNX model on the CPU in fp32.

    The precision is asked for and read back: on CPUs with AMX, OpenVINO computes in bf16 unless it is told otherwise.

    Args:
        model: content of the ONNX file; one input, whose first output is the logits.
        threads: CPU threads, or None for one per core.

    Raises:
        SegkitError: it would compute in another precision than fp32.
    """

    runtime = "openvino"
    device = "cpu"
    batch = 1

    def __init__(self, model: bytes, *, threads: int | None = None) -> None:
        import openvino

        config: dict[str, object] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        if threads is not None:
            config["INFERENCE_NUM_THREADS"] = threads
        core = openvino.Core()
        network = core.compile_model(core.read_model(model), "CPU", config)
        found = network.get_property("INFERENCE_PRECISION_HINT").to_string()
        self.precision = _NAMES.get(found, found)
        if self.precision != "fp32":
            raise SegkitError(f"expected OpenVINO to compute in fp32, it computes in {self.precision}")
        self.version = str(openvino.get_version()).split("-", maxsplit=1)[0]
        (source,) = network.inputs
        channels = source.get_partial_shape()[1]
        self.channels: int | None = channels.get_length() if channels.is_static else None
        self._request = network.create_infer_request()

    def run(self, patches: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map patches (B, C, X, Y, Z) to logits (B, K, X, Y, Z), which the next call overwrites."""
        outputs = self._request.infer([np.ascontiguousarray(patches)], share_inputs=True, share_outputs=True)
        logits: NDArray[np.float32] = outputs[0]
        return logits

    def close(self) -> None:
        """Free the compiled network."""
        self._request = None
