"""A model repository for NVIDIA's Triton Inference Server, made of a bundle.

    REPOSITORY/
      vnet/config.pbtxt           the ONNX file, served by Triton's onnxruntime backend
      vnet/labels.txt
      vnet/1/model.onnx
      vnet_trt/config.pbtxt       an engine of classic TensorRT, if the bundle has one
      vnet_trt/labels.txt
      vnet_trt/1/model.plan

Triton serves patches and knows nothing of heads: cutting, normalising and putting together stay with the client, which
finds the bundle's id in the parameters of each model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segkit.errors import OutputExists, UsageError
from segkit_runtime.bundle import MODEL, Bundle, drafted
from segkit_runtime.manifest import CompiledEngine
from segkit_runtime.trt import CLASSIC

MOST_BATCH = 8
"""Most patches at once asked of an ONNX file that leaves its batch open; an engine says its own."""

_CONFIG, _LABELS, _VERSION = "config.pbtxt", "labels.txt", "1"
_MARK = 'key: "segkit_bundle"'
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_TYPES = {
    "FLOAT": "TYPE_FP32",
    "FLOAT16": "TYPE_FP16",
    "BFLOAT16": "TYPE_BF16",
    "INT8": "TYPE_INT8",
    "UINT8": "TYPE_UINT8",
    "INT32": "TYPE_INT32",
    "INT64": "TYPE_INT64",
}


@dataclass(frozen=True)
class _Tensor:
    """An input or output of an ONNX file; a side that the file leaves open is None."""

    name: str
    type: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True, kw_only=True)
class _Model:
    """A model of the repository.

    Attributes:
        name: its folder.
        backend: Triton's backend.
        platform: the older name of that backend and format.
        file: name of its file in the bundle.
        target: name of its file in the repository.
        image: least and largest input (B, C, X, Y, Z).
        tensors: the input and the outputs of the ONNX file it is, or was built from, the logits first.
        on_gpu: where an instance runs.
        parameters: what else a client may want to know.
    """

    name: str
    backend: str
    platform: str
    file: str
    target: str
    image: tuple[Sequence[int], Sequence[int]]
    tensors: tuple[_Tensor, list[_Tensor]]
    on_gpu: bool
    parameters: Mapping[str, str]


def write_triton(bundle: Bundle, folder: Path, overwrite: bool = False) -> Path:
    """Write a model repository: the whole of it, or nothing.

    It holds the bundle's fp32 ONNX file and each of its engines of classic TensorRT; `left_out` says what it lacks.

    Args:
        bundle: what is served.
        folder: the repository, for `tritonserver --model-repository`.
        overwrite: replace a repository that segkit wrote there.

    Returns:
        The folder.

    Raises:
        OutputExists: something is there and `overwrite` is not set.
        UsageError: what is there is not from segkit, or the network's name is none that Triton takes.
        BundleError: the bundle was altered after it was opened.
    """
    models = list(_models(bundle))
    labels = "".join(f"{label.name}\n" for label in bundle.manifest.labels)
    with drafted(folder, overwrite, require_free_repository) as draft:
        for model in models:
            place = draft / model.name
            (place / _VERSION).mkdir(parents=True)
            (place / _VERSION / model.target).write_bytes(bundle.read(model.file))
            (place / _LABELS).write_text(labels, encoding="utf-8")
            (place / _CONFIG).write_text(_config(model), encoding="utf-8")
    return folder


def left_out(bundle: Bundle) -> tuple[str, ...]:
    """The engines of a bundle that Triton cannot serve, each with the reason."""
    reason = "Triton's TensorRT backend loads engines of classic TensorRT alone"
    return tuple(
        f"{engine.file} is left out: it is for {engine.runtime}, and {reason}"
        for engine in bundle.manifest.engines
        if engine.runtime != CLASSIC
    )


def _models(bundle: Bundle) -> Iterator[_Model]:
    manifest = bundle.manifest
    if not _PLAIN_NAME.fullmatch(manifest.name):
        raise UsageError(
            f"expected a network whose name is letters, digits and . _ -, got {manifest.name!r}",
            hint="Triton names a folder after it: rename the model in its card and export it again",
        )
    common = {
        "segkit_bundle": bundle.id,
        "segkit_trained": str(manifest.weights.trained).lower(),
        "segkit_modalities": json.dumps(manifest.modalities, ensure_ascii=False),
        "segkit_patch": json.dumps(manifest.inference.patch),
    }
    image, outputs = _tensors(bundle.read(MODEL))
    batch = image.shape[0]
    sides = (manifest.channels, *manifest.inference.patch)
    yield _Model(
        name=manifest.name,
        backend="onnxruntime",
        platform="onnxruntime_onnx",
        file=MODEL,
        target="model.onnx",
        image=((batch or 1, *sides), (batch or MOST_BATCH, *sides)),
        tensors=(image, outputs),
        # On a GPU only if it was held against torch there.
        on_gpu=any(
            proof.proven and proof.runtime == "onnxruntime" and proof.model == MODEL and proof.device.startswith("cuda")
            for proof in manifest.proofs
        ),
        parameters={**common, "segkit_model_sha256": bundle.checksums[MODEL]},
    )
    engines = [engine for engine in manifest.engines if engine.runtime == CLASSIC]
    names = _engine_names(manifest.name, engines)
    for name, engine in zip(names, engines, strict=True):
        yield _Model(
            name=name,
            backend="tensorrt",
            platform="tensorrt_plan",
            file=engine.file,
            target="model.plan",
            image=(engine.shapes[0], engine.shapes[2]),
            tensors=_tensors(bundle.read(engine.model)),
            on_gpu=True,
            parameters={
                **common,
                "segkit_model_sha256": bundle.checksums[engine.file],
                "segkit_precision": engine.precision,
                "segkit_tensorrt": engine.version,
                "segkit_targets": json.dumps(engine.targets),
                "segkit_status": engine.status,
            },
        )


def _engine_names(name: str, engines: Sequence[CompiledEngine]) -> list[str]:
    """One engine is NAME_trt; of several, each says its precision, and its number where that is not enough."""
    if len(engines) == 1:
        return [f"{name}_trt"]
    names: list[str] = []
    for engine in engines:
        wanted = f"{name}_trt_{engine.precision}"
        same = sum(other == wanted or other.startswith(f"{wanted}_") for other in names)
        names.append(f"{wanted}_{same + 1}" if same else wanted)
    return names


def _tensors(model: bytes) -> tuple[_Tensor, list[_Tensor]]:
    """The input and the outputs of an ONNX file."""
    import onnx

    graph = onnx.load_model_from_string(model).graph
    weights = {tensor.name for tensor in graph.initializer}
    (image,) = (value for value in graph.input if value.name not in weights)
    return _tensor(image), [_tensor(output) for output in graph.output]


def _tensor(value: Any) -> _Tensor:
    import onnx

    kind = value.type.tensor_type
    shape = tuple(side.dim_value or None for side in kind.shape.dim)
    return _Tensor(value.name, _TYPES[onnx.TensorProto.DataType.Name(kind.elem_type)], shape)


def _config(model: _Model) -> str:
    """The text of config.pbtxt, Triton's `ModelConfig`."""
    least, largest = model.image
    batched = largest[0] > least[0]
    shape = [low if low == high else -1 for low, high in zip(least, largest, strict=True)]
    image, outputs = model.tensors
    lines = [
        f"name: {_text(model.name)}",
        f"backend: {_text(model.backend)}",
        f"platform: {_text(model.platform)}",
        f"default_model_filename: {_text(model.target)}",
        f"max_batch_size: {largest[0] if batched else 0}",
        *_tensor_lines("input", image, shape, batched),
    ]
    for output in outputs:
        # All have the sides of the image, as far as they have sides; logits have a channel per class.
        channels = [output.shape[1] or -1] if len(output.shape) == len(shape) else []
        sides = shape[2:] if len(output.shape) > 1 else []
        lines += _tensor_lines("output", output, [shape[0], *channels, *sides], batched)
    lines += ["instance_group {", "  count: 1", f"  kind: {'KIND_GPU' if model.on_gpu else 'KIND_CPU'}", "}"]
    if batched:
        lines.append("dynamic_batching {}")
    for key, value in model.parameters.items():
        lines += ["parameters {", f"  key: {_text(key)}", f"  value {{ string_value: {_text(value)} }}", "}"]
    return "\n".join(lines) + "\n"


def _tensor_lines(role: str, tensor: _Tensor, dims: Sequence[int], batched: bool) -> list[str]:
    dims = dims[batched:]
    return [
        f"{role} {{",
        f"  name: {_text(tensor.name)}",
        f"  data_type: {tensor.type}",
        f"  dims: [{', '.join(str(side) for side in dims or [1])}]",
        # Triton has no tensor without a dimension: one number a patch is a list of one.
        *([] if dims else ["  reshape { shape: [] }"]),
        *([f"  label_filename: {_text(_LABELS)}"] if len(tensor.shape) == 5 and role == "output" else []),
        "}",
    ]


def _text(value: str) -> str:
    """A string as protobuf's text format reads it, which takes JSON's escapes; names hold no control characters."""
    return json.dumps(value, ensure_ascii=False)


def require_free_repository(folder: Path, overwrite: bool) -> None:
    """Refuse a place where a repository cannot be written, and never replace models of somebody else.

    Raises:
        OutputExists: something is there and `overwrite` is not set.
        UsageError: what is there is not from segkit.
    """
    if not folder.exists() and not folder.is_symlink():
        return
    if not overwrite:
        raise OutputExists(
            f"expected nothing at {folder}, found {'a folder' if folder.is_dir() else 'a file'}",
            hint="add --overwrite, or choose another folder",
        )
    if folder.is_symlink() or not folder.is_dir() or not all(map(_is_ours, folder.iterdir())):
        raise UsageError(
            f"expected a model repository of segkit to overwrite at {folder}, found something else",
            hint="choose another folder",
        )


def _is_ours(model: Path) -> bool:
    config = model / _CONFIG
    return config.is_file() and _MARK in config.read_text(encoding="utf-8", errors="replace")
