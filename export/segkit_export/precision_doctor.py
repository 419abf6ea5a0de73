"""Where an export goes wrong: the layers, by module path, that carry the error of a file, and the islands that mend it.

A file in fp32 that does not do what torch does has a wrong layer: `first_wrong_layer` compares what comes out of each.
A file in less precision has no wrong layer, but some that matter more than others: `find_islands` keeps halves of the
network in fp32, then halves of the halves that matter.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segkit_export.node_names import module_path
from segkit_export.progress import Progress, silent
from segkit_runtime.engines import open_engine

if TYPE_CHECKING:
    import torch

Array = NDArray[np.float32]

WRONG = 1e-3
"""Share of a layer's largest output by which it may be off and still count as the same sum in another order."""

AT_ONCE = 8
"""Layers whose outputs are looked at in one run: all at once would not fit into memory for large patches."""

SIGNIFICANT = 0.05
"""Share of the error below which a part of the network is not looked into."""

_STEP = "look for the layer"


@dataclass(frozen=True, kw_only=True)
class WrongLayer:
    """A layer whose output in the ONNX file is not torch's.

    Attributes:
        module: its path in the network.
        operator: the ONNX operator that gives the output.
        difference: largest difference, as a share of the layer's largest output.
    """

    module: str
    operator: str
    difference: float


@dataclass(frozen=True, kw_only=True)
class Carrier:
    """A part of the network and the share of the error that goes when it alone is kept in fp32."""

    module: str
    share: float


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What carries the error of a precision.

    Attributes:
        carriers: the modules that matter, the worst first.
        islands: those that suffice to bring the error down far enough; empty if none do.
        error: mean difference of a logit on the patch, before.
        mended_error: the same with the islands in fp32.
        runs: how often the network was run.
    """

    carriers: tuple[Carrier, ...]
    islands: tuple[str, ...]
    error: float
    mended_error: float
    runs: int


def first_wrong_layer(
    network: torch.nn.Module, onnx: bytes, patch: Array, progress: Progress = silent
) -> WrongLayer | None:
    """Find the first layer of an fp32 file whose output is not torch's.

    A convolution into which the exporter folded a norm is compared with what comes out of that norm.

    Args:
        network: in eval mode, on the CPU.
        onnx: the file, whose nodes are named by `segkit_export.node_names`.
        patch: (1, C, X, Y, Z) float32.
        progress: called as layers are compared.
    """
    said = _torch_outputs(network, patch)
    nodes = _layers(onnx, {path for path, _ in said})
    done = 0
    for some in _batched(nodes, AT_ONCE):
        found = _run_with_outputs(onnx, [output for _, _, output in some], patch)
        for (path, operator, _), output in zip(some, found, strict=True):
            difference = _nearest(said, path, output)
            done += 1
            progress(_STEP, done, len(nodes))
            if difference is not None and difference > WRONG:
                return WrongLayer(module=path, operator=operator, difference=difference)
    return None


def _batched(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _torch_outputs(network: torch.nn.Module, patch: Array) -> list[tuple[str, Array]]:
    """What every module gives, in the order of the calls; every second voxel, to save memory."""
    import torch

    said: list[tuple[str, Array]] = []

    def listen(path: str) -> Any:
        def hook(module: torch.nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor) and output.ndim == 5:
                said.append((path, _thin(output.detach().numpy())))

        return hook

    handles = [module.register_forward_hook(listen(path)) for path, module in network.named_modules() if path]
    try:
        with torch.inference_mode():
            network(torch.from_numpy(np.ascontiguousarray(patch)))
    finally:
        for handle in handles:
            handle.remove()
    return said


def _thin(array: Array) -> Array:
    return np.array(array[:, :, ::2, ::2, ::2], np.float32)


def _layers(onnx: bytes, known: Collection[str]) -> list[tuple[str, str, str]]:
    """Module path, operator and output of the last node of each layer that has weights, in order."""
    import onnx as onnx_package

    graph = onnx_package.load_model_from_string(onnx).graph
    weights = {initializer.name for initializer in graph.initializer}
    return [
        (module_path(node.name), node.op_type, node.output[0])
        for node in graph.node
        if module_path(node.name) in known and any(name in weights for name in node.input)
    ]


def _run_with_outputs(onnx: bytes, names: Sequence[str], patch: Array) -> list[Array]:
    import onnx as onnx_package
    import onnxruntime

    model = onnx_package.load_model_from_string(onnx)
    del model.graph.output[:]
    model.graph.output.extend(onnx_package.helper.make_empty_tensor_value_info(name) for name in names)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found = session.run(list(names), {session.get_inputs()[0].name: patch})
    return [_thin(output) if output.ndim == 5 else np.asarray(output, np.float32) for output in found]


def _nearest(said: Sequence[tuple[str, Array]], path: str, output: Array) -> float | None:
    """How far an output is from what its module gave, or from what one of the next modules made of it.

    None where torch has nothing of that shape.
    """
    last = max(index for index, (name, _) in enumerate(said) if name == path)
    differences = [
        float(np.abs(heard - output).max() / max(float(np.abs(heard).max()), 1e-12))
        for _, heard in said[last : last + 4]
        if heard.shape == output.shape
    ]
    return min(differences, default=None)


def find_islands(
    modules: Sequence[str],
    make: Callable[[Collection[str]], bytes],
    patch: Array,
    reference: Array,
    most_error: float,
    *,
    most_runs: int = 48,
    progress: Progress = silent,
) -> Diagnosis:
    """Find which modules carry the error of a precision, and which of them to keep in fp32.

    Args:
        modules: paths of the modules, and names of nodes outside of all, in the order they run.
        make: gives the file, as ONNX Runtime can run it, with some modules kept in fp32.
        patch: (1, C, X, Y, Z) float32.
        reference: logits (1, K, X, Y, Z) of torch.
        most_error: mean difference of a logit that is small enough.
        most_runs: how often the network is run to find the carriers; each makes a new file. The fewest islands that
            suffice are found by bisection afterwards.
        progress: called before each run, with its number and how many there are at most.
    """
    errors: dict[frozenset[str], float] = {}

    def error(islands: Collection[str]) -> float:
        kept = frozenset(islands)
        if kept not in errors:
            progress("look for islands", len(errors) + 1, most_runs + len(modules).bit_length())
            engine = open_engine("onnxruntime", make(islands))
            try:
                errors[kept] = float(np.abs(engine.run(patch) - reference).mean(dtype=np.float64))
            finally:
                engine.close()
        return errors[kept]

    whole = error(())
    carriers: list[Carrier] = []
    others: list[tuple[float, str]] = []  # a share of what was measured for several together
    waiting: list[tuple[float, Sequence[str]]] = [(0.0, tuple(modules))]
    while waiting and len(errors) < most_runs - 1:
        _, part = waiting.pop(0)
        share = (whole - error(part)) / whole if whole else 0.0
        each = share / len(part)
        if share < SIGNIFICANT:
            others += [(each, path) for path in part]
        elif len(part) == 1:
            carriers.append(Carrier(module=part[0], share=share))
        else:
            middle = len(part) // 2
            waiting += [(each, part[:middle]), (each, part[middle:])]
    others += [(each, path) for each, part in waiting for path in part]
    carriers.sort(key=lambda carrier: -carrier.share)
    order = [path for _, path in sorted([(c.share, c.module) for c in carriers] + others, key=lambda one: -one[0])]
    islands, mended = _fewest(order, error, most_error, whole)
    return Diagnosis(carriers=tuple(carriers), islands=islands, error=whole, mended_error=mended, runs=len(errors))


def _fewest(
    order: Sequence[str], error: Callable[[Collection[str]], float], most_error: float, whole: float
) -> tuple[tuple[str, ...], float]:
    """The fewest of the first modules that suffice, by bisection, and the error with them; none if all do not."""
    few, many = 0, len(order)
    mended = error(order)
    if whole <= most_error or mended > most_error:
        return (), mended
    while many - few > 1:
        middle = (few + many) // 2
        found = error(order[:middle])
        if found <= most_error:
            many, mended = middle, found
        else:
            few = middle
    kept = order[:many]
    # A module stands for all that is inside it.
    return tuple(path for path in kept if not any(path.startswith(f"{other}.") for other in kept)), mended


def module_order(onnx: bytes) -> list[str]:
    """Paths of the modules that have nodes in a file, and names of nodes outside of all, as they run first."""
    import onnx as onnx_package

    graph = onnx_package.load_model_from_string(onnx).graph
    return list(dict.fromkeys(module_path(node.name) or node.name for node in graph.node))
