"""Instance norm written out so that every runtime computes it as exactly as torch does.

ONNX Runtime and OpenVINO add up the voxels of an InstanceNormalization one after another in float32. Over a patch of
64^3 that costs three to four digits of mean and variance, most of all where a channel hardly varies, as in a patch that
is mostly background: logits of a trained 3D U-Net were off by up to 6e-3 in ONNX Runtime and 2e-2 in OpenVINO. Means of
means keep those digits. Written as below both stay within 1e-4 of torch; docs/exports.md has what that costs. Squares
are never written for a whole volume: OpenVINO would hold them beside what it squares, 128 MiB at 32 channels of
128x128x64.

In int8 those digits are lost anyway, and OpenVINO does a norm, the activation behind it and the rounding to int8 in one
pass: there norms are joined again. A patch of `unet3d-residual` then takes a sixth less time, and a third less memory
beside its weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segkit_export.graph_edit import drop_unused

if TYPE_CHECKING:
    import onnx_ir
    from onnx import ModelProto, NodeProto, TensorProto

_PIECE = re.compile(r"(.*/InstanceNormalization(?:_\d+)?)/[A-Za-z0-9]+_\d+")
"""The name of a node that `_Writer` writes: that of its norm, its operator, its place."""

_LARGEST_KERNEL = 8
"""Voxels along one side of the blocks whose means are taken first."""


def write_out_instance_norms(model: onnx_ir.Model) -> int:
    """Replace each InstanceNormalization of a graph, in place, by means, a root and a product.

    Only volumes `(B, C, X, Y, Z)` with constant scale and shift are replaced: what torch's `InstanceNorm3d` becomes.

    Returns:
        How many were replaced.
    """
    replaced = 0
    for node in list(model.graph):
        if node.op_type == "InstanceNormalization" and _is_plain(node):
            _Writer(model.graph, node, f"instance_norm_{replaced}").write()
            replaced += 1
    return replaced


def written_out_norm(name: str) -> str | None:
    """The name of the norm that a node of this name is a piece of; None if it is of none."""
    found = _PIECE.fullmatch(name)
    return found and found[1]


def join_instance_norms(model: ModelProto) -> ModelProto:
    """A copy of a graph with an InstanceNormalization for each norm that `write_out_instance_norms` wrote out."""
    from onnx import ModelProto

    joined = ModelProto()
    joined.CopyFrom(model)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    pieces: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        norm = written_out_norm(node.name)
        if norm is not None:
            pieces.setdefault(norm, []).append(node)
    del joined.graph.node[:]
    for node in model.graph.node:
        norm = written_out_norm(node.name)
        if norm is None:
            joined.graph.node.append(node)
        elif node.name == pieces[norm][-1].name:
            whole, weights = _join(norm, pieces[norm], constants)
            joined.graph.node.append(whole)
            joined.graph.initializer.extend(weights)
    drop_unused(joined.graph)
    return joined


def _join(norm: str, pieces: list[NodeProto], constants: Mapping[str, TensorProto]) -> tuple[NodeProto, list[Any]]:
    from onnx import helper, numpy_helper

    def constant(node: NodeProto) -> NDArray[Any]:
        (name,) = (name for name in node.input if name in constants)
        values: NDArray[Any] = numpy_helper.to_array(constants[name]).reshape(-1)
        return values

    # See `_Writer.write`.
    with_epsilon, with_shift = (node for node in pieces if node.op_type == "Add")
    *_, with_scale = (node for node in pieces if node.op_type == "Div")
    weights = [
        numpy_helper.from_array(constant(with_scale), f"{norm}/scale"),
        numpy_helper.from_array(constant(with_shift), f"{norm}/shift"),
    ]
    inputs = [pieces[0].input[0], *(tensor.name for tensor in weights)]
    epsilon = float(constant(with_epsilon)[0])
    return helper.make_node("InstanceNormalization", inputs, with_shift.output[:], norm, epsilon=epsilon), weights


def _is_plain(node: onnx_ir.Node) -> bool:
    images, scale, shift = node.inputs
    shape = None if images is None else images.shape
    constant = all(value is not None and value.const_value is not None for value in (scale, shift))
    return constant and shape is not None and len(shape) == 5


class _Writer:
    """Writes one norm: `(x - mean) * scale / sqrt(variance + epsilon) + shift`."""

    def __init__(self, graph: onnx_ir.Graph, node: onnx_ir.Node, name: str) -> None:
        self.graph = graph
        self.node = node
        self.name = name
        self.nodes: list[onnx_ir.Node] = []

    def write(self) -> None:
        images, scale, shift = self.node.inputs
        epsilon = self.node.attributes["epsilon"].as_float() if "epsilon" in self.node.attributes else 1e-5
        lines = self._add("ReduceMean", images, self._z_axis(), keepdims=1)
        centred = self._add("Sub", images, self._mean_of_lines(lines))
        lengths = self._add("ReduceL2", centred, self._z_axis(), keepdims=1)
        squares = self._mean_of_lines(self._add("Mul", lengths, lengths))
        variance = self._add("Div", squares, self._line_length())
        spread = self._add("Sqrt", self._add("Add", variance, self._constant("epsilon", np.array(epsilon, np.float32))))
        factor = self._add("Div", self._per_channel("scale", scale), spread)
        result = self._add("Add", self._add("Mul", centred, factor), self._per_channel("shift", shift))
        self.graph.insert_before(self.node, self.nodes)
        old = self.node.outputs[0]
        result.name, old.name = old.name, f"{self.name}_replaced"
        result.type, result.shape = old.type, old.shape
        old.replace_all_uses_with(result, replace_graph_outputs=True)
        self.graph.remove(self.node, safe=True)
        for value in (scale, shift):
            if not value.uses():
                self.graph.initializers.pop(value.name, None)

    def _mean_of_lines(self, lines: Any) -> Any:
        """Mean over x and y in two steps: over blocks, over the blocks.

        The first is a pooling because OpenVINO would join two reductions into one again.
        """
        x, y = (_largest_divisor(_known_factor(side)) for side in self.node.inputs[0].shape[2:4])
        blocks = self._add("AveragePool", lines, kernel_shape=[x, y, 1], strides=[x, y, 1])
        return self._add("ReduceMean", blocks, self._constant("xy", np.array([2, 3], np.int64)), keepdims=1)

    def _z_axis(self) -> Any:
        return self._constant("z", np.array([4], np.int64))

    def _line_length(self) -> Any:
        """Voxels along z."""
        import onnx_ir as ir

        images = self.node.inputs[0]
        if isinstance(images.shape[4], int):
            return self._constant("line", np.array(images.shape[4], np.float32))
        return self._add("Cast", self._add("Shape", images, start=4, end=5), to=ir.DataType.FLOAT)

    def _add(self, operator: str, *inputs: Any, **attributes: Any) -> Any:
        import onnx_ir as ir

        # Under the name of the norm that they replace: `segkit_export.precision` keeps them together by it.
        node = ir.node(
            operator, list(inputs), attributes=attributes, name=f"{self.node.name}/{operator}_{len(self.nodes)}"
        )
        node.outputs[0].name = f"{self.name}_{len(self.nodes)}"
        self.nodes.append(node)
        return node.outputs[0]

    def _per_channel(self, what: str, value: Any) -> Any:
        return self._constant(what, value.const_value.numpy().reshape(1, -1, 1, 1, 1))

    def _constant(self, what: str, array: NDArray[Any]) -> Any:
        import onnx_ir as ir

        name = f"{self.name}_{what}"
        if name not in self.graph.initializers:
            value = ir.val(name, const_value=ir.tensor(array, name=name))
            self.graph.register_initializer(value)
        return self.graph.initializers[name]


def _known_factor(side: Any) -> int:
    """What a side is, or what it is a multiple of where it is open, as in `16*x`."""
    if isinstance(side, int):
        return side
    factor = str(side).partition("*")[0]
    return int(factor) if factor.isdecimal() else 1


def _largest_divisor(side: int) -> int:
    return max(divisor for divisor in range(1, _LARGEST_KERNEL + 1) if side % divisor == 0)
