"""A look into an ONNX file's bytes, before a runtime sees them: does it refer to other files?

A tensor of an ONNX file may name another file that holds its values. A bundle's model must not: OpenVINO 2026.4 looks
for that file in the folder where the process runs, even if the model comes as bytes, and no hash would cover it.
"""

from __future__ import annotations

from collections.abc import Iterator

from segkit.errors import BundleError

_TENSOR = "tensor"
_EXTERNAL_DATA = 13
_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: _TENSOR, 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: _TENSOR, 6: "graph", 10: _TENSOR, 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: _TENSOR, 2: _TENSOR},
}
"""Where tensors are: message -> field number -> message, from onnx.proto3."""


def require_self_contained(model: bytes) -> None:
    """Refuse what is not an ONNX file, and an ONNX file whose tensors lie in other files.

    Raises:
        BundleError: it is one of these.
    """
    try:
        graphs = _count_graphs(memoryview(model))
    except (IndexError, ValueError, RecursionError):
        graphs = 0
    if graphs != 1:
        raise BundleError("expected an ONNX model with one graph, found other content", hint="export it again")


def _count_graphs(model: memoryview) -> int:
    for field, value in _fields(model):
        kind = _FIELDS["model"].get(field)
        if kind is not None:
            _refuse_external(value, kind)
    return sum(field == 7 for field, _ in _fields(model))


def _refuse_external(message: memoryview, kind: str) -> None:
    for field, value in _fields(message):
        if kind == _TENSOR and field == _EXTERNAL_DATA:
            raise BundleError("expected a model in one file, found a tensor in another", hint="export it again")
        inner = _FIELDS.get(kind, {}).get(field)
        if inner is not None:
            _refuse_external(value, inner)


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Each length-delimited field of a protobuf message: its number and its content.

    Raises:
        IndexError, ValueError: it is not a protobuf message.
    """
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        key &= 0xFFFFFFFF  # as the runtimes' own parsers cut it
        wire = key & 7
        if wire == 2:
            length, at = _varint(message, at)
            if at + length > len(message):
                raise ValueError("a field ends after its message")
            yield key >> 3, message[at : at + length]
            at += length
        elif wire == 0:
            _, at = _varint(message, at)
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")
