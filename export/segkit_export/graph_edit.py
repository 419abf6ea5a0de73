"""Opening, retyping and closing an ONNX graph: what the passes over it share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from segkit_export.errors import ExportFailed
from segkit_runtime.engines import LABELS, MEAN_LOGIT

if TYPE_CHECKING:
    import onnx_ir
    from onnx import GraphProto

HalfPrecision = Literal["fp16", "bf16"]


def open_graph(onnx: bytes) -> onnx_ir.Model:
    """Read a file and infer the type and shape of each value.

    Raises:
        ExportFailed: it is not ONNX, or it has branches, loops or functions, which no network of ours needs.
    """
    import onnx as onnx_package
    import onnx_ir as ir
    from onnx_ir.passes.common import ShapeInferencePass

    try:
        model = ir.from_proto(onnx_package.load_model_from_string(onnx))
    except Exception as error:
        raise ExportFailed(f"expected an ONNX file, its reader says: {_one_line(error)}") from error
    inner = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    attributes = [attribute for node in model.graph for attribute in node.attributes.values()]
    if model.functions or any(attribute.type in inner for attribute in attributes):
        raise ExportFailed(
            "expected a graph without branches, loops and functions, found some",
            hint="export this network in fp32, or write it without branches that depend on values",
        )
    ShapeInferencePass()(model)
    return model


def close_graph(model: onnx_ir.Model) -> bytes:
    """Check a graph and write it; the same graph gives the same bytes.

    Raises:
        ExportFailed: it is not valid.
    """
    import onnx as onnx_package
    import onnx_ir as ir

    content: bytes = ir.to_proto(model).SerializeToString(deterministic=True)
    try:
        onnx_package.checker.check_model(content, full_check=True)
    except Exception as error:
        raise ExportFailed(f"expected valid ONNX, the checker says: {_one_line(error)}") from error
    return content


def drop_unused(graph: GraphProto) -> None:
    """Drop nodes whose result nobody takes, weights that no node takes, and what is said of values that are gone."""
    taken = {output.name for output in graph.output}
    for node in reversed(list(graph.node)):
        if taken.intersection(node.output):
            taken.update(node.input)
        else:
            graph.node.remove(node)
    given = {name for node in graph.node for name in node.output}
    for kept, entries in ((taken, graph.initializer), (given, graph.value_info)):
        for entry in [entry for entry in entries if entry.name not in kept]:
            entries.remove(entry)


def add_labels(onnx: bytes) -> bytes:
    """Let a file tell the largest class of each voxel beside its logits: a byte where these take four for each class.

    It gets the outputs `labels` (B, X, Y, Z) uint8, the first class whose logit is the largest, and `mean_logit` (B,)
    float32, which is finite only if all logits of the patch are: of a NaN the labels say nothing.

    Args:
        onnx: a file whose one output is logits (B, K, X, Y, Z) float32.

    Raises:
        ExportFailed: the graph has branches or loops, or the result is not valid.
    """
    import onnx_ir as ir

    model = open_graph(onnx)
    (logits,) = model.graph.outputs
    axes = ir.tensor(np.arange(1, 5), name="mean_logit_axes")
    all_axes = ir.Value(name=axes.name, type=ir.TensorType(axes.dtype), shape=axes.shape, const_value=axes)
    model.graph.register_initializer(all_axes)
    largest = ir.node("ArgMax", [logits], {"axis": 1, "keepdims": 0}, name="/labels/ArgMax")
    labels = ir.node("Cast", largest.outputs, {"to": int(ir.DataType.UINT8)}, name="/labels/Cast")
    mean = ir.node("ReduceMean", [logits, all_axes], {"keepdims": 0}, name="/labels/ReduceMean")
    assert logits.shape is not None  # noqa: S101 - it was inferred
    batch, _, *sides = logits.shape
    for node, name, dtype, shape in (
        (largest, f"{LABELS}_int64", ir.DataType.INT64, (batch, *sides)),
        (labels, LABELS, ir.DataType.UINT8, (batch, *sides)),
        (mean, MEAN_LOGIT, ir.DataType.FLOAT, (batch,)),
    ):
        (value,) = node.outputs
        value.name, value.shape = name, ir.Shape(shape)
        retype(value, dtype)
    model.graph.extend([largest, labels, mean])
    model.graph.outputs.extend([*labels.outputs, *mean.outputs])
    return close_graph(model)


def half_type(precision: HalfPrecision) -> Any:
    """The ONNX type of a precision."""
    import onnx_ir as ir

    return {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}[precision]


def retype(value: onnx_ir.Value, dtype: Any) -> None:
    """Say that a value has another type, whatever produces it."""
    import onnx_ir as ir

    value.type = ir.TensorType(dtype)


def insert_cast(graph: onnx_ir.Graph, value: onnx_ir.Value, dtype: Any) -> onnx_ir.Value:
    """Add a Cast right behind what produces a value, for nobody yet, and return what it gives."""
    import onnx_ir as ir

    producer = value.producer()
    cast = ir.node("Cast", [value], {"to": int(dtype)})
    result: onnx_ir.Value = cast.outputs[0]
    result.name, result.shape = f"{value.name}_{dtype.name.lower()}", value.shape
    # Of the module of its producer, and unique, since ONNX Runtime takes no name twice.
    cast.name = f"{producer.name if producer else ''}/{result.name}"
    retype(result, dtype)
    if producer is None:
        graph.insert_before(graph[0], cast)
    else:
        graph.insert_after(producer, cast)
    return result


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
