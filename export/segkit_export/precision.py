"""From the fp32 graph to one in fp16 or bf16 with islands of fp32.

Precision lives in the graph: TensorRT for RTX and TensorRT 11 are strongly typed and compute each node in the type it
is written in. `model.half()` and autocast were tried: they leave graphs of mixed types where batch norms are folded.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segkit_export.errors import ExportFailed
from segkit_export.graph_edit import HalfPrecision, close_graph, half_type, insert_cast, open_graph, retype
from segkit_export.node_names import module_path, select_nodes
from segkit_export.norms import written_out_norm

if TYPE_CHECKING:
    import onnx_ir

BF16_OPSET = 22
"""The first operator set whose convolutions take bf16."""

_FLOAT_OPERATORS = frozenset(
    {
        "BatchNormalization",
        "InstanceNormalization",
        "LayerNormalization",
        "LogSoftmax",
        "ReduceMean",
        "ReduceSum",
        "Softmax",
        "Sqrt",
    }
)
"""What sums over many voxels or divides by such a sum."""

_FLOAT_OPERATORS_BF16 = frozenset({"ConvTranspose"})
"""TensorRT for RTX cannot infer the output type of a transposed convolution in bf16."""

_FLOAT_INPUTS = frozenset({("Resize", 1), ("Resize", 2)})
"""Inputs (operator, place) that say where voxels lie rather than what is in them."""


def lower(onnx: bytes, precision: HalfPrecision, islands: Collection[str] = ()) -> bytes:
    """Make the fp16 or bf16 form of an fp32 graph; its input and its output stay fp32.

    Norms and softmaxes stay fp32, and so do the transposed convolutions of bf16 and operators that ONNX does not define
    in the precision. Weights of such islands are not rounded.

    Args:
        onnx: as `to_onnx` writes it.
        precision: of everything else.
        islands: more to keep in fp32: module paths, each of which stands for all that is inside it, or names of nodes.

    Returns:
        The file, the same bytes each time.

    Raises:
        UsageError: an island is not in the graph.
        ExportFailed: a weight is too large for fp16, the graph has branches or loops, or the result is not valid.
    """
    model = open_graph(onnx)
    if precision == "bf16":
        model.graph.opset_imports[""] = max(BF16_OPSET, model.graph.opset_imports[""])
    _Lowering(model.graph, precision, islands).run()
    return close_graph(model)


class _Lowering:
    """Retypes a graph in place: weights and what nodes give, then what stands between nodes of different types."""

    def __init__(self, graph: onnx_ir.Graph, precision: HalfPrecision, islands: Collection[str]) -> None:
        import onnx_ir as ir

        self.graph = graph
        self.precision = precision
        self.float = ir.DataType.FLOAT
        self.half = half_type(precision)
        named = select_nodes([str(node.name) for node in graph], islands)
        self.islands = {node for node in graph if node.name in named or self._is_island(node)}
        self.casts: dict[tuple[onnx_ir.Value, Any], onnx_ir.Value] = {}

    def run(self) -> None:
        made = [output for node in self.graph for output in node.outputs]
        values = [*self.graph.inputs, *self.graph.initializers.values(), *made]
        uses = [(value, use) for value in values if value.dtype == self.float for use in value.uses()]
        lowered = {use for _, use in uses if not self._takes_float(use)}
        for output in made:
            if output.dtype == self.float and output.producer() not in self.islands:
                retype(output, self.half)
        for weights in list(self.graph.initializers.values()):
            self._lower_weights(weights, [use for use in weights.uses() if use in lowered])
        for value, use in uses:
            self._connect(value, use, self.half if use in lowered else self.float)
        for index, output in enumerate(self.graph.outputs):
            if output.dtype == self.half:
                self.graph.outputs[index] = self._cast_output(output)

    def _takes_float(self, use: Any) -> bool:
        return use.node in self.islands or (use.node.op_type, use.idx) in _FLOAT_INPUTS

    def _is_island(self, node: onnx_ir.Node) -> bool:
        return (
            node.op_type in _FLOAT_OPERATORS
            or (self.precision == "bf16" and node.op_type in _FLOAT_OPERATORS_BF16)
            or written_out_norm(str(node.name)) is not None  # a norm is an island from its first node to its last
            # What makes floats of none, a constant or a Cast of integers, says in an attribute which.
            or not any(value is not None and value.dtype == self.float for value in node.inputs)
            or not self._is_defined(node)
        )

    def _is_defined(self, node: onnx_ir.Node) -> bool:
        """Whether ONNX defines an operator in the precision, its inputs of `_FLOAT_INPUTS` aside."""
        import onnx as onnx_package

        version = self.graph.opset_imports[node.domain]
        schema = onnx_package.defs.get_schema(node.op_type, version, node.domain)
        allowed = {constraint.type_param_str: constraint.allowed_type_strs for constraint in schema.type_constraints}
        name = "tensor(float16)" if self.precision == "fp16" else "tensor(bfloat16)"
        return all(
            name in allowed.get(formal.type_str, [formal.type_str])
            for place, (formal, value) in enumerate(zip(schema.inputs, node.inputs, strict=False))
            if value is not None and value.dtype == self.float and (node.op_type, place) not in _FLOAT_INPUTS
        )

    def _lower_weights(self, weights: onnx_ir.Value, uses: list[Any]) -> None:
        """Round weights for those who take them so; whoever takes them in fp32 keeps them as they were."""
        import onnx_ir as ir

        if not uses:
            return
        exact = weights.const_value
        assert exact is not None  # noqa: S101 - it is an initialiser
        rounded = self._round(exact.numpy(), str(weights.name), uses[0].node)
        low = weights
        if len(uses) < len(weights.uses()):
            low = ir.Value(name=f"{weights.name}_{self.precision}", shape=weights.shape)
        low.const_value = ir.Tensor(rounded, dtype=self.half, name=low.name)
        retype(low, self.half)
        if low is not weights:
            self.graph.register_initializer(low)
            for use in uses:
                use.node.replace_input_with(use.idx, low)

    def _round(self, weights: NDArray[Any], name: str, node: onnx_ir.Node) -> NDArray[Any]:
        with np.errstate(over="ignore"):
            rounded: NDArray[Any] = weights.astype(self.half.numpy())
        if not np.array_equal(np.isinf(rounded), np.isinf(weights)):
            largest = np.abs(weights[np.isfinite(weights)]).max()
            where = module_path(str(node.name)) or str(node.name)
            raise ExportFailed(
                f"expected weights of at most {np.finfo(np.float16).max:.0f} for fp16, {name!r} of {where!r} has "
                f"{largest:.6g}",
                hint=f"export in bf16, which has the range of fp32, or keep {where!r} in fp32",
            )
        return rounded

    def _connect(self, value: onnx_ir.Value, use: Any, dtype: Any) -> None:
        """Let a node take a value in a type; one Cast serves all who want it."""
        if value.is_initializer() or value.dtype == dtype:
            return
        if (value, dtype) not in self.casts:
            self.casts[value, dtype] = insert_cast(self.graph, value, dtype)
        use.node.replace_input_with(use.idx, self.casts[value, dtype])

    def _cast_output(self, output: onnx_ir.Value) -> onnx_ir.Value:
        """The output in fp32 under its own name."""
        name = output.name
        output.name = f"{name}_{self.precision}"
        cast = self.casts.get((output, self.float)) or insert_cast(self.graph, output, self.float)
        cast.name = name
        return cast
