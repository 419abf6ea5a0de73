"""What an fp16 or bf16 graph computes on a GPU, for a runtime that computes in fp32 alone.

ONNX Runtime on the CPU has no convolution in bf16, and what it does with one in fp16 differs between CPUs. A GPU takes
each product of a convolution in full, adds in fp32, and rounds what it stores. So does an fp32 graph in which each
weight and each stored value is rounded by a Cast there and back; runtimes keep such a pair, since it changes the value.
A GPU that joins a convolution with what follows rounds less often than this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from segkit_export.graph_edit import HalfPrecision, close_graph, half_type, insert_cast, open_graph, retype

if TYPE_CHECKING:
    import onnx_ir

_EXACT = frozenset(
    {
        "Concat",
        "Expand",
        "Flatten",
        "Gather",
        "Identity",
        "MaxPool",
        "Pad",
        "Relu",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    }
)
"""What moves values or picks one of them: of rounded values it makes rounded values."""


def emulate(onnx: bytes, precision: HalfPrecision) -> bytes:
    """Make an fp32 graph that gives what a graph of `lower` gives where sums are taken in fp32.

    Args:
        onnx: as `lower` writes it.
        precision: what it was lowered to.

    Returns:
        The file; its only fp16 or bf16 values lie between two Casts.

    Raises:
        ExportFailed: the graph has branches or loops, or the result is not valid.
    """
    model = open_graph(onnx)
    graph, half = model.graph, half_type(precision)
    for initializer in graph.initializers.values():
        if initializer.dtype == half:
            _widen(initializer)
    for output in [output for node in graph for output in node.outputs if output.dtype == half]:
        _round(graph, output, half)
    return close_graph(model)


def _widen(weights: onnx_ir.Value) -> None:
    import onnx_ir as ir

    rounded = weights.const_value
    assert rounded is not None  # noqa: S101 - it is an initialiser
    weights.const_value = ir.Tensor(rounded.numpy().astype(np.float32), name=weights.name)
    retype(weights, ir.DataType.FLOAT)


def _round(graph: onnx_ir.Graph, output: onnx_ir.Value, half: Any) -> None:
    """Let a value be fp32 that was rounded."""
    import onnx_ir as ir

    node, users = output.producer(), list(output.uses())
    narrow = output
    if node.op_type != "Cast":
        retype(output, ir.DataType.FLOAT)
        if node.op_type in _EXACT:
            return
        narrow = insert_cast(graph, output, half)
    wide = insert_cast(graph, narrow, ir.DataType.FLOAT)
    for use in users:
        use.node.replace_input_with(use.idx, wide)
