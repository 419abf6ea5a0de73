"""OpenVINO's module, imported so that nothing is sent anywhere, and its one Core."""

from __future__ import annotations

import importlib
import sys
import threading
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import openvino

_CONVERTER = "openvino.tools.ovc"
_LOCK = threading.Lock()
_CORES: list[openvino.Core] = []


def import_openvino() -> ModuleType:
    """Import OpenVINO without its model converter, which segkit has no use for.

    By itself `import openvino` imports the converter too. That takes two thirds of the time, tells OpenVINO's makers of
    each import over the network, and keeps a number for this user in ~/intel. OpenVINO goes on where the converter is
    missing. Who asks for `openvino.convert_model` later gets it, with all that it does.
    """
    known = sys.modules.get("openvino")
    if known is not None:
        return known
    absent: Any = None
    sys.modules[_CONVERTER] = absent  # importing it fails
    try:
        import openvino
    finally:
        del sys.modules[_CONVERTER]
    if not hasattr(openvino, "convert_model"):
        openvino.__getattr__ = _on_demand
    module: ModuleType = openvino
    return module


def openvino_core() -> openvino.Core:
    """The one Core of this process.

    One, and for as long as the process lives: a Core that loads the CPU gives its thread another stack for signal
    handlers, and at its end puts the one from before back, also where that one is gone. Where two Cores ended in the
    order of their making, the next signal that Python handles, such as Ctrl-C, ended the process (2026.4).
    """
    with _LOCK:
        if not _CORES:
            _CORES.append(import_openvino().Core())
        return _CORES[0]


def _on_demand(name: str) -> Any:
    if name == "convert_model":
        return importlib.import_module(_CONVERTER).convert_model
    msg = f"module 'openvino' has no attribute {name!r}"
    raise AttributeError(msg)
