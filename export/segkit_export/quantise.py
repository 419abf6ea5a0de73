"""From the fp32 graph to int8, by watching what values its convolutions take on a few patches.

Each runtime takes another form of int8, so there is a recipe for each. TensorRT wants scales without zero points, and
no quantised bias; ONNX Runtime's own form has zero points and int32 biases; OpenVINO's comes from NNCF, which also
corrects the biases of convolutions for what rounding shifts.
"""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from segkit.errors import UsageError
from segkit.extras import require
from segkit_export.errors import ExportFailed
from segkit_export.node_names import select_nodes
from segkit_export.progress import Progress, silent

if TYPE_CHECKING:
    from onnx import ModelProto

Recipe = Literal["tensorrt", "onnxruntime", "openvino"]

_CONVOLUTIONS = ("Conv", "ConvTranspose")
_STEP = "calibrate int8"
_FATAL = 4
_NOISY = ("nncf", "onnxruntime.quantization")
_PREPARED = ("onnx.quant.pre_process", "onnxruntime.quant")
"""Tells ONNX Runtime's quantiser that a graph is as it should be; it would say otherwise through the root logger."""


def quantise(
    onnx: bytes,
    recipe: Recipe,
    patches: Sequence[NDArray[np.float32]],
    progress: Progress = silent,
    islands: Collection[str] = (),
) -> bytes:
    """Make the int8 form of an fp32 graph; its input and its output stay fp32, and so does all but convolutions.

    Memory is that of one patch, whatever their number; a temporary folder holds two copies of the file.

    Args:
        onnx: as `to_onnx` writes it.
        recipe: the runtime that it is for.
        patches: (1, C, X, Y, Z) each, prepared as the network gets them; they must show what it will meet.
        progress: called once per patch.
        islands: what stays in fp32: module paths, each of which stands for all that is inside it, or names of nodes.

    Raises:
        UsageError: there is no patch, or an island is not in the graph.
        MissingExtra: the recipe is OpenVINO's, and NNCF is not installed.
        ExportFailed: the quantiser fails, finds no convolution, or what it writes is not valid.
    """
    import onnx as onnx_package

    if recipe == "openvino":
        require("nncf", "int8", "int8 for OpenVINO")
    if not patches:
        raise UsageError("expected at least one patch to calibrate int8 on, got none")
    model = onnx_package.load_model_from_string(onnx)
    excluded = sorted(select_nodes([node.name for node in model.graph.node], islands))
    watched = _Patches(patches, model.graph.input[0].name, progress)
    try:
        with _quiet(), TemporaryDirectory(prefix="segkit-int8-") as folder:
            if recipe == "openvino":
                made = _with_nncf(model, watched, excluded)
            else:
                made = _with_onnxruntime(model, recipe, watched, excluded, Path(folder))
        return _finish(made, model)
    except ExportFailed:
        raise
    except Exception as error:
        raise ExportFailed(f"expected an int8 graph for {recipe}, its quantiser says: {_one_line(error)}") from error


class _Patches:
    """Patches as quantisers ask for them, one at a time."""

    def __init__(self, patches: Sequence[NDArray[np.float32]], name: str, progress: Progress) -> None:
        self._patches = patches
        self._name = name
        self._progress = progress
        self.set_range(0, len(patches))

    def __len__(self) -> int:
        return len(self._patches)

    def __iter__(self) -> Iterator[dict[str, NDArray[np.float32]]]:
        self.set_range(0, len(self))
        while (patch := self.get_next()) is not None:
            yield patch

    def set_range(self, start_index: int, end_index: int) -> None:
        """Choose what `get_next` gives: what ONNX Runtime calls before each part of its calibration."""
        self._next, self._end = start_index, end_index

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next patch by the name of the input, or None after the last."""
        self._progress(_STEP, self._next, len(self))
        if self._next == self._end:
            return None
        self._next += 1
        return {self._name: np.ascontiguousarray(self._patches[self._next - 1], np.float32)}


def _with_onnxruntime(
    model: ModelProto, recipe: Recipe, patches: _Patches, excluded: list[str], folder: Path
) -> ModelProto:
    import onnx as onnx_package
    import onnxruntime
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    onnxruntime.set_default_logger_severity(_FATAL)  # of its calibrating session, which takes no options
    prepared = onnx_package.ModelProto()
    prepared.CopyFrom(model)
    onnx_package.helper.set_model_props(prepared, dict([_PREPARED]))
    source, target = folder / "fp32.onnx", folder / "int8.onnx"
    source.write_bytes(prepared.SerializeToString())
    options: dict[str, Any] = {"CalibStridedMinMax": 1}  # one patch after the other: it would keep all their tensors
    if recipe == "tensorrt":
        options |= {
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "AddQDQPairToWeight": True,
            "QuantizeBias": False,
            "OpTypesToExcludeOutputQuantization": list(_CONVOLUTIONS),
        }
    quantize_static(
        source,
        target,
        patches,
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=list(_CONVOLUTIONS),
        per_channel=True,
        activation_type=QuantType.QInt8 if recipe == "tensorrt" else QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=excluded,
        calibrate_method=CalibrationMethod.MinMax,
        extra_options=options,
    )
    made: ModelProto = onnx_package.load_model(target)
    return made


def _with_nncf(model: ModelProto, patches: _Patches, excluded: list[str]) -> ModelProto:
    nncf = _import_nncf()
    with redirect_stdout(io.StringIO()):  # its bars of progress, which nothing else turns off
        made: ModelProto = nncf.quantize(
            model,
            nncf.Dataset(list(patches)),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(patches),
            fast_bias_correction=True,
            ignored_scope=nncf.IgnoredScope(names=excluded),
        )
    return made


def _import_nncf() -> Any:
    """NNCF without its telemetry, which otherwise tells its maker of each run; it looks once, when it is imported."""
    before = os.environ.get("NNCF_CI")
    os.environ["NNCF_CI"] = "1"
    try:
        import nncf
    finally:
        if before is None:
            del os.environ["NNCF_CI"]
        else:
            os.environ["NNCF_CI"] = before
    return nncf


def _finish(made: ModelProto, model: ModelProto) -> bytes:
    """Check what a quantiser wrote and drop its notes."""
    import onnx as onnx_package

    if not any(node.op_type == "QuantizeLinear" for node in made.graph.node):
        raise ExportFailed("expected convolutions to quantise, found none outside the islands")
    del made.metadata_props[:]
    made.metadata_props.extend(model.metadata_props)
    content: bytes = made.SerializeToString(deterministic=True)
    onnx_package.checker.check_model(content, full_check=True)
    return content


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the quantisers' loggers, and only here."""
    loggers = [logging.getLogger(name) for name in _NOISY]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
