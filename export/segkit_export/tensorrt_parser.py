"""What TensorRT's parser makes of an ONNX file: the nodes it cannot build, by name, and the network it reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from segkit_export.errors import ExportFailed
from segkit_export.tensorrt_targets import TURING
from segkit_runtime.manifest import Precision
from segkit_runtime.trt import RTX, load_module, make_log

_REDUCED = {"fp16": "HALF", "bf16": "BF16", "int8": "INT8"}
_OPERATORS = {"CONVOLUTION": "Conv", "DECONVOLUTION": "ConvTranspose"}


@dataclass(frozen=True, kw_only=True)
class Unsupported:
    """A node of an ONNX file that a module cannot build.

    Attributes:
        node: its name, which may be empty.
        operator: its ONNX operator.
        reason: what the parser says, or what is known of the module.
    """

    node: str
    operator: str
    reason: str


def unsupported_nodes(onnx: bytes, module: str = RTX, targets: Sequence[str] = ()) -> list[Unsupported]:
    """All nodes of an ONNX file that a module cannot build. Nothing is built.

    First come those that its parser refuses. If there is none of them, those follow that parse and then fail in the
    builder of TensorRT for RTX 1.7, without a name: transposed convolutions in bf16 on every GPU, and convolutions in
    fp32 or bf16 on Turing.

    Args:
        onnx: the file, with inline weights.
        module: `tensorrt_rtx` or `tensorrt`.
        targets: compute capabilities such as "sm75".

    Raises:
        MissingExtra: the module is not installed.
        ExportFailed: the bytes are no ONNX file.
    """
    trt = load_module(module, "a look at what TensorRT supports")
    log = make_log(trt)
    builder = trt.Builder(log)
    network = _new_network(trt, builder)  # the parser does not keep it
    parser = trt.OnnxParser(network, log)
    if not parser.supports_model_v2(onnx):
        refused = [
            Unsupported(node=error.node_name(), operator=error.node_operator(), reason=error.desc())
            for error in _errors(parser)
            if error.node_operator()
        ]
        if refused:
            return refused
    network, _parser = parse(trt, builder, log, onnx)
    return list(_unbuildable(network, targets)) if module == RTX else []


def describe(node: Unsupported) -> str:
    """A node as a message names it."""
    # For most operators the parser's reason is the text of an assertion, such as "false".
    reason = f": {node.reason}" if " " in node.reason else ""
    return f"node {node.node!r} (operator {node.operator}{reason})"


def parse(trt: Any, builder: Any, log: Any, onnx: bytes) -> tuple[Any, Any]:
    """Read an ONNX file into a strongly typed network; its weights live as long as the parser, the second value.

    Raises:
        ExportFailed: the parser refuses it, or it has no output.
    """
    network = _new_network(trt, builder)
    parser = trt.OnnxParser(network, log)
    if not parser.parse(onnx) or not network.num_outputs:
        said = "; ".join(error.desc() for error in _errors(parser)) or "it has no output"
        raise ExportFailed(f"expected ONNX that {trt.__name__} can read, its parser says: {said}")
    return network, parser


def input_shape(network: Any) -> tuple[str, tuple[int, ...]]:
    """Name and shape of a network's one input; -1 is open.

    Raises:
        ExportFailed: it has several.
    """
    if network.num_inputs != 1:
        raise ExportFailed(f"expected a network with one input, it has {network.num_inputs}")
    tensor = network.get_input(0)
    return tensor.name, tuple(tensor.shape)


def require_precision(network: Any, precision: Precision) -> None:
    """Refuse a network whose tensors are not in what its file is called: TensorRT computes in the file's types.

    Raises:
        ExportFailed: it is in another precision.
    """
    found = Counter(dtype for _, dtype in _layers(network))
    reduced = [name for name, dtype in _REDUCED.items() if found[dtype]]
    if precision in _REDUCED and precision not in reduced:
        raise ExportFailed(f"expected an ONNX file in {precision}, its layers are in {', '.join(reduced) or 'fp32'}")
    if precision not in _REDUCED and reduced:
        raise ExportFailed(f"expected an ONNX file in fp32 for {precision}, it has layers in {', '.join(reduced)}")


def _unbuildable(network: Any, targets: Sequence[str]) -> Iterator[Unsupported]:
    for layer, dtype in _layers(network):
        operator = _OPERATORS.get(layer.type.name)
        if operator and TURING in targets and dtype != "HALF":
            yield Unsupported(node=layer.name, operator=operator, reason=f"only fp16 on {TURING}, it is in {dtype}")
        elif operator == "ConvTranspose" and dtype == "BF16":
            yield Unsupported(node=layer.name, operator=operator, reason="not in bf16 on any GPU, keep it in fp32")


def _layers(network: Any) -> Iterator[tuple[Any, str]]:
    """Each layer with an output, and the type of that output."""
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.num_outputs:
            tensor = layer.get_output(0)
            yield layer, tensor.dtype.name


def _new_network(trt: Any, builder: Any) -> Any:
    return builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))


def _errors(parser: Any) -> list[Any]:
    return [parser.get_error(index) for index in range(parser.num_errors)]
