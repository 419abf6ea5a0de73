"""OpenVINO as an engine: the fastest on CPUs."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segkit.errors import UsageError
from segkit_runtime.engines import LABELS, MEAN_LOGIT, Output, choose_output, require_as_asked, require_finite
from segkit_runtime.engines.cache import CacheUse, entry_key, read_entry, write_entry
from segkit_runtime.engines.openvino_module import import_openvino, openvino_core
from segkit_runtime.manifest import Precision
from segkit_runtime.processor import usable_processors

if TYPE_CHECKING:
    import openvino

_HINT = "INFERENCE_PRECISION_HINT"
_HINTS: dict[Precision, str] = {"fp32": "f32", "fp16": "f16", "bf16": "bf16", "int8": "f32"}
"""What is asked for in each precision; int8 is in the file, and the hint is for the rest of it."""
_NAMES = {"f32": "fp32", "f16": "fp16", "bf16": "bf16", "i8": "int8", "u8": "int8"}
_ASKING = threading.Lock()
"""Held between the setting of a property of the Core and its reading."""
_CONVOLUTIONS = ("Convolution", "GroupConvolution", "Deconvolution", "MatMul", "FullyConnected")


def compile_onnx(
    model: bytes,
    *,
    precision: Precision = "fp32",
    device: str = "cpu",
    threads: int | None = None,
    output: Output = "logits",
) -> OpenVinoEngine:
    """Compile an ONNX model.

    The precision is asked for and then looked up in the compiled graph, since OpenVINO takes the nearest that the CPU
    can do without a word: bf16 where fp32 was not asked for on CPUs with AMX, fp32 for bf16 on CPUs without AVX-512.

    Args:
        model: content of the ONNX file; one input, whose first output is the logits.
        precision: what it is to compute in; int8 needs a quantised model.
        device: "cpu".
        threads: CPU threads, or None for one per core.
        output: "labels" for these where the file has them.

    Raises:
        UsageError: another device, or a precision that OpenVINO does not have.
        SegkitError: this CPU computes in another precision; where that shows before compiling, nothing is compiled.
    """
    core, config = _prepare(precision, device, threads)
    graph = core.read_model(model)
    _keep_output(graph, output)
    return OpenVinoEngine(core.compile_model(graph, "CPU", config), precision, output, _facts(config, output))


def reopen(
    model_sha256: str, *, precision: Precision, device: str, threads: int | None, output: Output
) -> OpenVinoEngine | None:
    """What `OpenVinoEngine.keep` kept of a model, or None where there is none that this OpenVINO can read.

    It is mapped into memory, and not read.

    Raises:
        UsageError, SegkitError: see `compile_onnx`.
    """
    core, config = _prepare(precision, device, threads)
    facts = _facts(config, output)
    entry = read_entry(entry_key(model_sha256, facts))
    if entry is None:
        return None
    try:
        network = core.import_model(import_openvino().Tensor(entry, shared_memory=True), "CPU", config)
    except RuntimeError:
        return None
    return OpenVinoEngine(network, precision, output, facts, entry)


class OpenVinoEngine:
    """Runs a compiled network on the CPU.

    Args:
        network: what OpenVINO compiled.
        precision: what it was asked to compute in.
        output: what it was asked to give.
        facts: what it depends on, its model and the processor aside.
        entry: of the cache, that it was read from; it looks there for its weights.

    Attributes:
        cache: whether the compiled network came from the user's cache or was put there.
        precision: what most of the convolutions are computed in; where there are none, what OpenVINO says.
    """

    runtime = "openvino"
    device = "cpu"
    batch = 1

    def __init__(
        self,
        network: openvino.CompiledModel,
        precision: Precision,
        output: Output,
        facts: Mapping[str, object],
        entry: NDArray[np.uint8] | None = None,
    ) -> None:
        _require_hint(network.get_property(_HINT), precision)
        self.output = choose_output(output, [name for found in network.outputs for name in found.get_names()])
        self.cache: CacheUse = "off" if entry is None else "hit"
        self.precision = _computed_in(network)
        self.version = str(facts["openvino"]).split("-", maxsplit=1)[0]
        (source,) = network.inputs
        channels = source.get_partial_shape()[1]
        self.channels: int | None = channels.get_length() if channels.is_static else None
        self._network: openvino.CompiledModel | None = network
        self._facts = facts
        # Two in turn: the answer of the one is looked at while the other runs.
        self._requests = itertools.cycle([network.create_infer_request() for _ in range(2)])
        self._entry = entry  # the last, so that it outlives the others where nobody calls `close`

    def run(self, patches: NDArray[np.float32]) -> NDArray[Any]:
        """Map patches (B, C, X, Y, Z) to logits (B, K, X, Y, Z), or to labels (B, X, Y, Z).

        The result stays as it is during the next call.

        Raises:
            DataError: the logits behind labels are not finite.
        """
        request = next(self._requests)
        outputs = request.infer([np.ascontiguousarray(patches)], share_inputs=True, share_outputs=True)
        if self.output == "labels":
            require_finite(self.runtime, outputs[MEAN_LOGIT])
        answer: NDArray[Any] = outputs[LABELS] if self.output == "labels" else outputs[0]
        return answer

    def keep(self, model_sha256: str) -> None:
        """Put the compiled network into the user's cache, for `reopen`; nothing happens where that is not possible."""
        if self.cache == "off" and self._network is not None:
            key = entry_key(model_sha256, self._facts)
            if write_entry(key, self._network.export_model().getvalue()):
                self.cache = "made"

    def close(self) -> None:
        """Free the compiled network."""
        self._requests = itertools.cycle(())
        self._network = self._entry = None


def _prepare(precision: Precision, device: str, threads: int | None) -> tuple[openvino.Core, dict[str, object]]:
    """OpenVINO, and how it shall compile."""
    if device != "cpu" or precision not in _HINTS:
        raise UsageError(
            f"expected openvino on the cpu in {', '.join(_HINTS)}, got {device} in {precision}",
            hint="choose another runtime",
        )
    config: dict[str, object] = {_HINT: _HINTS[precision], "PERFORMANCE_HINT": "LATENCY"}
    if threads is not None:
        config["INFERENCE_NUM_THREADS"] = threads
        if threads < usable_processors():
            config["ENABLE_CPU_PINNING"] = False  # else several processes would all run on the first processors
    core = openvino_core()
    with _ASKING:
        core.set_property("CPU", {_HINT: _HINTS[precision]})
        found = core.get_property("CPU", _HINT)
    _require_hint(found, precision)
    return core, config


def _facts(config: Mapping[str, object], output: Output) -> dict[str, object]:
    return {"openvino": import_openvino().get_version(), "output": output, **config}


def _keep_output(graph: openvino.Model, asked: Output) -> None:
    """Drop the outputs that are not wanted, so that they are not computed."""
    names = [next(iter(found.get_names()), "") for found in graph.outputs]
    kept = choose_output(asked, names)
    wanted = [LABELS, MEAN_LOGIT] if kept == "labels" else names[:1]
    results = dict(zip(names, graph.get_results(), strict=True))
    for name, result in results.items():
        if name not in wanted:
            graph.remove_result(result)


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
