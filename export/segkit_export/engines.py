"""What the manifest says of a TensorRT engine: the fingerprint by which a runtime takes or refuses it."""

from __future__ import annotations

import hashlib
import re

from segkit_export.tensorrt_build import BuiltEngine
from segkit_runtime.manifest import CompiledEngine


def engine_entry(name: str, engine: BuiltEngine, model: str, onnx: bytes) -> CompiledEngine:
    """Describe an engine.

    Args:
        name: of the bundle.
        engine: as it was built.
        model: the ONNX file in the bundle that it was built from.
        onnx: content of that file.
    """
    stem = re.sub(r"[^A-Za-z0-9._+-]+", "_", f"{name}-{engine.module}-{engine.precision}-{'-'.join(engine.targets)}")
    least, best, most = (list(shape) for shape in engine.shapes)
    return CompiledEngine(
        file=f"engines/{stem}.engine",
        runtime=engine.module,
        version=engine.version,
        precision=engine.precision,
        model=model,
        onnx_sha256=hashlib.sha256(onnx).hexdigest(),
        shapes=(least, best, most),
        targets=list(engine.targets),
        flags=list(engine.flags),
        build_seconds=round(engine.build_seconds, 3),
        activation_bytes=engine.activation_bytes,
        weight_bytes=engine.weight_bytes,
        status="built, not run",
    )
