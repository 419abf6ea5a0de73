"""From the fp32 graph to int8, by watching what values its convolutions take on a few patches.

Each runtime takes another form of int8, so there is a recipe for each. TensorRT wants scales without zero points, and
biases as they are. ONNX Runtime computes in int8 only where the output of a convolution is quantised too. OpenVINO's
form comes from NNCF; its instance norms are single operators, and a convolution is rounded before it is added: see
`segkit_export.norms` and `segkit_export.sums`.

Tried on two trained nets, a `vnet-light` and a `unet3d` of width 4, on 4 to 8 patches; share of labels kept on 6 and 3
others, so that less than a tenth of a per cent is no difference:

| recipe | chosen | others |
|---|---|---|
| tensorrt | 99.99th percentile: 99.87, 99.56 % | extremes: 99.73, 99.49; and outputs quantised: 99.54, 99.03 |
| onnxruntime, transposed too | extremes: 99.73, 99.20 % | 99.999th percentile: 99.66; outputs left: 99.88, 99.65 |
| openvino | extremes, biases left: 99.87, 99.56 % | NNCF's means of extremes with its bias correction: 99.39, 99.60 |
"""

from __future__ import annotations

import io
import logging
import os
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from segkit.errors import UsageError
from segkit.extras import is_installed, require
from segkit_export.errors import ExportFailed, NothingToQuantise
from segkit_export.node_names import select_nodes
from segkit_export.norms import join_instance_norms, written_out_norm
from segkit_export.progress import Progress, silent
from segkit_export.sums import find_sums, leave_the_rest
from segkit_runtime.engines.openvino_module import import_openvino

if TYPE_CHECKING:
    from onnx import ModelProto

Recipe = Literal["tensorrt", "onnxruntime", "openvino"]

_CONVOLUTIONS = ["Conv", "ConvTranspose"]
_STEP = "calibrate int8"
_FATAL = 4
_PERCENTILE = 99.99
"""TensorRT's scales leave out so few values; without zero points, one far value would take steps from all others."""
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
        NothingToQuantise: there is no convolution outside the islands.
        ExportFailed: the quantiser fails, or what it writes is not valid.
    """
    import onnx as onnx_package

    if recipe == "openvino":
        require("nncf", "int8", "int8 for OpenVINO")
    if not patches:
        raise UsageError("expected at least one patch to calibrate int8 on, got none")
    model = onnx_package.load_model_from_string(onnx)
    excluded = select_nodes([node.name for node in model.graph.node], islands)
    if recipe == "openvino":
        model = join_instance_norms(model)
        excluded = {written_out_norm(name) or name for name in excluded}
    if not any(node.op_type in _operators(recipe) and node.name not in excluded for node in model.graph.node):
        raise NothingToQuantise("expected convolutions to quantise, found none outside the islands")
    watched = _Patches(patches, model.graph.input[0].name, progress)
    try:
        if recipe == "openvino":
            made = _with_nncf(model, watched, sorted(excluded))
        else:
            made = _with_onnxruntime(model, recipe, watched, sorted(excluded))
        return _finish(made, model)
    except Exception as error:
        raise ExportFailed(f"expected an int8 graph for {recipe}, its quantiser says: {_one_line(error)}") from error


def _operators(recipe: Recipe) -> list[str]:
    """What is quantised; ONNX Runtime has no transposed convolution in int8."""
    return ["Conv"] if recipe == "onnxruntime" else _CONVOLUTIONS


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


def _with_onnxruntime(model: ModelProto, recipe: Recipe, patches: _Patches, excluded: list[str]) -> ModelProto:
    import onnx as onnx_package
    import onnxruntime
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    onnxruntime.set_default_logger_severity(_FATAL)  # of its calibrating session, which takes no options
    prepared = onnx_package.ModelProto()
    prepared.CopyFrom(model)
    onnx_package.helper.set_model_props(prepared, dict([_PREPARED]))
    options: dict[str, Any] = {"CalibStridedMinMax": 1}  # one patch after the other: it would keep all their tensors
    method = CalibrationMethod.MinMax
    if recipe == "tensorrt":
        method = CalibrationMethod.Percentile
        options |= {
            "CalibPercentile": _PERCENTILE,
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "AddQDQPairToWeight": True,
            "QuantizeBias": False,
            "OpTypesToExcludeOutputQuantization": _CONVOLUTIONS,
        }
    with _quiet("onnxruntime.quantization"), TemporaryDirectory(prefix="segkit-int8-") as folder:
        source, target = Path(folder, "fp32.onnx"), Path(folder, "int8.onnx")
        source.write_bytes(prepared.SerializeToString())
        quantize_static(
            source,
            target,
            patches,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=_operators(recipe),
            per_channel=True,
            activation_type=QuantType.QInt8 if recipe == "tensorrt" else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=excluded,
            calibrate_method=method,
            extra_options=options,
        )
        made: ModelProto = onnx_package.load_model(target)
    return made


def _with_nncf(model: ModelProto, patches: _Patches, excluded: list[str]) -> ModelProto:
    nncf = _import_nncf()
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    sums = find_sums(model, excluded)
    others = sorted({node.op_type for node in model.graph.node} - {*_CONVOLUTIONS, "Add"})
    left = [node.name for node in model.graph.node if node.op_type == "Add" and node.name not in sums]
    with _quiet("nncf"):
        made: ModelProto = nncf.quantize(
            model,
            nncf.Dataset(patches),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(patches),
            ignored_scope=nncf.IgnoredScope(names=[*excluded, *left], types=others, validate=False),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
                disable_bias_correction=True,
            ),
        )
    leave_the_rest(made, sums)
    _make_unsigned(made)
    return made


def _import_nncf() -> Any:
    """NNCF without its telemetry, which otherwise tells its maker of each run; it looks once, when it is imported."""
    if is_installed("openvino"):
        import_openvino()  # or NNCF imports it with all that it sends
    before, logger_class = os.environ.get("NNCF_CI"), logging.getLoggerClass()
    os.environ["NNCF_CI"] = "1"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import nncf
    finally:
        logging.setLoggerClass(logger_class)  # NNCF sets its own for the whole process
        del os.environ["NNCF_CI"]
        if before is not None:
            os.environ["NNCF_CI"] = before
    return nncf


def _make_unsigned(model: ModelProto) -> None:
    """Let values be uint8 instead of int8, which moves their zero points by 128 and changes nothing else.

    OpenVINO 2026.4.1 computes 3D convolutions of signed values wrongly on CPUs with AVX-512 VNNI: behind a
    concatenation, logits of a trained 3D U-Net were off by 11 where ONNX Runtime runs the same file within 1.1.
    """
    from onnx import TensorProto, numpy_helper

    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    quantised = {node.output[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    zero_points = {
        node.input[2]
        for node in model.graph.node
        if node.op_type == "QuantizeLinear" or (node.op_type == "DequantizeLinear" and node.input[0] in quantised)
    }
    for name in zero_points:
        if weights[name].data_type == TensorProto.INT8:
            moved = (numpy_helper.to_array(weights[name]).astype(np.int16) + 128).astype(np.uint8)
            weights[name].CopyFrom(numpy_helper.from_array(moved, name))
    signed = [value for value in model.graph.value_info if value.type.tensor_type.elem_type == TensorProto.INT8]
    for value in signed:  # said again by whoever infers types
        model.graph.value_info.remove(value)


def _finish(made: ModelProto, model: ModelProto) -> bytes:
    """Check what a quantiser wrote and drop its notes."""
    import onnx as onnx_package

    del made.metadata_props[:]
    made.metadata_props.extend(model.metadata_props)
    content: bytes = made.SerializeToString(deterministic=True)
    onnx_package.checker.check_model(content, full_check=True)
    return content


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Silence a quantiser's logger, and the bars that it draws on standard output, and only here."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
