"""segkit: 3D segmentation of brain MRI, from files to an engine that runs beside a scanner.

The public API is named here once; each name is imported on first use, so `import segkit` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "Card": "segkit.cards",
    "CommandCard": "segkit.cards",
    "DatasetCard": "segkit.cards",
    "Label": "segkit.cards",
    "LossCard": "segkit.cards",
    "ModelCard": "segkit.cards",
    "Reference": "segkit.cards",
    "RuntimeCard": "segkit.cards",
    "SamplerCard": "segkit.cards",
    "Subject": "segkit.dataset",
    "SegkitError": "segkit.errors",
    "hookimpl": "segkit.hookspecs",
    "Engine": "segkit.inference",
    "segment_volume": "segkit.inference",
    "Registry": "segkit.registry",
    "Volume": "segkit.volume",
    "read_volume": "segkit.nifti",
    "write_volume": "segkit.nifti",
}

__all__ = ["__version__", *sorted(_HOME)]

if TYPE_CHECKING:
    from segkit.cards import Card as Card
    from segkit.cards import CommandCard as CommandCard
    from segkit.cards import DatasetCard as DatasetCard
    from segkit.cards import Label as Label
    from segkit.cards import LossCard as LossCard
    from segkit.cards import ModelCard as ModelCard
    from segkit.cards import Reference as Reference
    from segkit.cards import RuntimeCard as RuntimeCard
    from segkit.cards import SamplerCard as SamplerCard
    from segkit.dataset import Subject as Subject
    from segkit.errors import SegkitError as SegkitError
    from segkit.hookspecs import hookimpl as hookimpl
    from segkit.inference import Engine as Engine
    from segkit.inference import segment_volume as segment_volume
    from segkit.nifti import read_volume as read_volume
    from segkit.nifti import write_volume as write_volume
    from segkit.registry import Registry as Registry
    from segkit.volume import Volume as Volume


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        msg = f"module 'segkit' has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
