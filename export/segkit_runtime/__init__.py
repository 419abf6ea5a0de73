"""segkit_runtime: a bundle and files in, a segmentation out. It never imports torch or pluggy.

    from segkit_runtime import load

    with load("vnet.segkit") as segmenter:
        result = segmenter.segment({"T1": "t1.nii.gz", "T2": "t2.nii.gz"})
    result.save("seg.nii.gz")

What an environment beside a scanner needs: numpy, nibabel, isal, pydantic, and one of openvino and onnxruntime. The
command `segkit segment` needs click, rich and pluggy as well. Nothing is downloaded, and no code is ever loaded from a
bundle.

The public API is named here once; each name is imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOME = {
    "Bundle": "segkit_runtime.bundle",
    "Result": "segkit_runtime.result",
    "Segmenter": "segkit_runtime.segmenter",
    "load": "segkit_runtime.segmenter",
}

__all__ = ["Bundle", "Result", "Segmenter", "load"]

if TYPE_CHECKING:
    from segkit_runtime.bundle import Bundle
    from segkit_runtime.result import Result
    from segkit_runtime.segmenter import Segmenter, load


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        msg = f"module 'segkit_runtime' has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
