"""From a torch module to ONNX bytes: checked, the same each time, and with nothing in them about this machine."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from segkit.cards import Size
from segkit_export.errors import ExportFailed
from segkit_export.node_names import name_nodes
from segkit_export.norms import write_out_instance_norms

if TYPE_CHECKING:
    import torch

OPSET = 20
"""The ONNX operator set: every runtime and both TensorRT parsers read it, and it has all that fp32 needs."""

INPUT, OUTPUT = "image", "logits"

Dynamic = Literal["none", "batch", "size"]
"""What of the input's shape a file leaves open: nothing, the batch, or the batch and the size of the patch."""

Rewrite = Literal["fold", "norms", "strip"]
"""Work on the graph that can be left out, to see what it is worth: see `segkit bench exports --rewrites`."""

_MOST_BATCH, _MOST_MULTIPLES = 64, 512

_NOISY = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")


def to_onnx(
    network: torch.nn.Module,
    in_channels: int,
    patch: Size,
    metadata: Mapping[str, str] | None = None,
    *,
    dynamic: Dynamic = "none",
    multiple: int = 1,
    without: Collection[Rewrite] = (),
) -> bytes:
    """Trace a network and return it as one ONNX file without external data.

    Unless something is left open the shape is static: batch 1 and one patch size. Batch norms are folded into the
    convolutions before them, instance norms are written out (see `segkit_export.norms`), and nodes are named by the
    module that they come from (see `segkit_export.node_names`).

    Args:
        network: in eval mode, maps (1, C, X, Y, Z) float32 to logits (1, K, X, Y, Z).
        in_channels: channels C of the input.
        patch: size (x, y, z) in voxels.
        metadata: written into the file's `metadata_props`.
        dynamic: what of the shape stays open.
        multiple: what each side of a patch is a multiple of, where sizes stay open.
        without: what is not done: "fold", the folding of batch norms; "norms", the writing out of instance norms;
            "strip", the taking away of notes.

    Returns:
        The file, with the input `image` and the output `logits`.

    Raises:
        ExportFailed: the network cannot be traced, an operator has no ONNX form, the file is not valid, or the output
            is not logits of the input's size.
    """
    import onnx

    model = _trace(network, in_channels, patch, dynamic, multiple, without)
    for part in () if "strip" in without else (model.graph, *model.functions):
        _strip(part)
    model.ClearField("doc_string")
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, dict(sorted((metadata or {}).items())))
    _require_logits(model.graph)
    try:
        content: bytes = model.SerializeToString(deterministic=True)
        onnx.checker.check_model(content, full_check=True)
    except Exception as error:
        raise ExportFailed(f"expected valid ONNX, the checker says: {_reason(error)}") from error
    return content


def _trace(
    network: torch.nn.Module,
    in_channels: int,
    patch: Size,
    dynamic: Dynamic,
    multiple: int,
    without: Collection[Rewrite],
) -> Any:
    import torch

    # A batch of 1 would be taken for a number that never changes.
    example = torch.zeros(1 if dynamic == "none" else 2, in_channels, *patch)
    with _quiet():
        try:
            program = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                external_data=False,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=_dynamic_shapes(dynamic, multiple),
                verbose=False,
                optimize="fold" not in without,
            )
        except Exception as error:
            raise ExportFailed(
                f"expected a network that torch can export to ONNX opset {OPSET}, {type(network).__name__} is not: "
                f"{_reason(error)}",
                hint="keep to operations that torch.export traces, without branches that depend on voxel values",
            ) from error
    assert program is not None  # noqa: S101 - with dynamo=True there is always a program
    if "fold" in without:
        _tidy(program.model)
    name_nodes(program.model)
    if "norms" not in without:
        write_out_instance_norms(program.model)
    return program.model_proto


def _tidy(model: Any) -> None:
    """What torch does to a graph beside folding norms: constants are computed, biases of zeros and unused nodes go."""
    from onnxscript.optimizer import fold_constants, remove_unused_nodes
    from onnxscript.rewriter.rules import common

    with _quiet():
        fold_constants(model)
        common.remove_optional_bias_from_conv_rule.apply_to_model(model)
        common.remove_optional_bias_from_conv_transpose_rule.apply_to_model(model)
        remove_unused_nodes(model)


def _dynamic_shapes(dynamic: Dynamic, multiple: int) -> Any:
    from torch.export import Dim

    if dynamic == "none":
        return None
    shapes: dict[int, Any] = {0: Dim("batch", min=1, max=_MOST_BATCH)}
    if dynamic == "size":
        for axis, name in enumerate("xyz", start=2):
            side = Dim(name, min=2, max=_MOST_MULTIPLES)
            shapes[axis] = multiple * side if multiple > 1 else side
    return (shapes,)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's own loggers and its warnings about torch's future, and only here."""
    loggers = [logging.getLogger(name) for name in _NOISY]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _strip(graph: Any) -> None:
    """Drop what the exporter notes beside the graph: stack traces with paths of the source, and its book-keeping."""
    parts = [graph, *graph.node, *graph.value_info]
    if hasattr(graph, "initializer"):
        parts += [*graph.initializer, *graph.input, *graph.output]
    for part in parts:
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for node in graph.node:
        for attribute in node.attribute:
            attribute.ClearField("doc_string")
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                _strip(inner)


def _require_logits(graph: Any) -> None:
    """Refuse a network that does not keep to the contract of a model."""
    (batch, _, *sides), *_ = _shapes(graph.input)
    shapes = _shapes(graph.output)
    if len(shapes) != 1 or len(shapes[0]) != 5 or [shapes[0][0], *shapes[0][2:]] != [batch, *sides]:
        wanted = ", ".join([batch, "classes", *sides])
        found = " and ".join(f"({', '.join(shape)})" for shape in shapes) or "nothing"
        raise ExportFailed(
            f"expected one output of shape ({wanted}), the network gives {found}",
            hint="a model returns logits of the size of its input and nothing else",
        )


def _shapes(values: Any) -> list[list[str]]:
    """Dimensions of inputs or outputs, numbers or names."""
    return [
        [dimension.dim_param or str(dimension.dim_value) for dimension in value.type.tensor_type.shape.dim]
        for value in values
    ]


def _reason(error: BaseException) -> str:
    """The first line of the error at the bottom of a chain: the exporter wraps it in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
