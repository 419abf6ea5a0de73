"""The smallest ONNX file, for loading all that a runtime loads before something is measured or asked of it."""

from __future__ import annotations

TINY_ONNX = bytes.fromhex(
    "080a3a530a0c0a0178120179220452656c751201675a1f0a0178121a0a18080112140a0208010a0208010a0208010a0208010a020801"
    "621f0a0179121a0a18080112140a0208010a0208010a0208010a0208010a02080142040a001014"
)
"""One Relu from `x` to `y`, float32 of shape (1, 1, 1, 1, 1); opset 20, IR 10."""
