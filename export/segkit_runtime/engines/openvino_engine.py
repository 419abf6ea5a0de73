"""OpenVINO as an engine: the fastest on CPUs."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from segkit.errors import UsageError
from segkit_runtime.engines import require_as_asked
from segkit_runtime.manifest import Precision

if TYPE_CHECKING:
    import openvino

_HINT = "INFERENCE_PRECISION_HINT"
_HINTS: dict[Precision, str] = {"fp32": "f32", "fp16": "f16", "bf16": "bf16", "int8": "f32"}
"""What is asked for in each precision; int8 is in the file, and the hint is for the rest of it."""
_NAMES = {"f32": "fp32", "f16": "fp16", "bf16": "bf16", "i8": "int8", "u8": "int8"}
_CONVOLUTIONS = ("Convolution", "GroupConvolution", "Deconvolution", "MatMul", "FullyConnected")


class OpenVinoEngine:
    """Runs an ONNX model on the CPU.

    The precision is asked for and then looked up in the compiled graph, since OpenVINO takes the nearest that the CPU
    can do without a word: bf16 where fp32 was not asked for on CPUs with AMX, fp32 for bf16 on CPUs without AVX-512.

    Args:
        model: content of the ONNX file; one input, whose first output is the logits.
        precision: what it is to compute in; int8 needs a quantised model.
        device: "cpu".
        threads: CPU threads, or None for one per core.

    Attributes:
        precision: what most of the convolutions are computed in; where there are none, what OpenVINO says.

    Raises:
        UsageError: another device, or a precision that OpenVINO does not have.
        SegkitError: this CPU computes in another precision; where that shows before compiling, nothing is compiled.
    """

    runtime = "openvino"
    device = "cpu"
    batch = 1

    def __init__(
        self, model: bytes, *, precision: Precision = "fp32", device: str = "cpu", threads: int | None = None
    ) -> None:
        import openvino

        if device != "cpu" or precision not in _HINTS:
            raise UsageError(
                f"expected openvino on the cpu in {', '.join(_HINTS)}, got {device} in {precision}",
                hint="choose another runtime",
            )
        config: dict[str, object] = {_HINT: _HINTS[precision], "PERFORMANCE_HINT": "LATENCY"}
        if threads is not None:
            config["INFERENCE_NUM_THREADS"] = threads
        core = openvino.Core()
        core.set_property("CPU", {_HINT: _HINTS[precision]})
        _require_hint(core.get_property("CPU", _HINT), precision)
        network = core.compile_model(core.read_model(model), "CPU", config)
        _require_hint(network.get_property(_HINT), precision)
        self.precision = _computed_in(network)
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


def _require_hint(found: openvino.Type, precision: Precision) -> None:
    """Refuse what OpenVINO made of the hint, if that is another precision."""
    name = found.to_string()
    if name != _HINTS[precision]:
        require_as_asked("openvino", "cpu", precision, _NAMES.get(name, name))


def _computed_in(network: openvino.CompiledModel) -> str:
    """What most of the convolutions of a compiled network are computed in."""
    notes = [node.get_rt_info() for node in network.get_runtime_model().get_ordered_ops()]
    found = Counter(
        note["runtimePrecision"].astype(str) for note in notes if note["layerType"].astype(str) in _CONVOLUTIONS
    )
    name: str = found.most_common(1)[0][0] if found else network.get_property(_HINT).to_string()
    return _NAMES.get(name, name)
