"""What building and running an engine share: two TensorRT modules with one set of names, their log, their targets.

`tensorrt_rtx` builds without a GPU and compiles its kernels where the engine first runs. Classic `tensorrt` builds and
tries its kernels on the GPU that the engine is for. Values of enums differ between modules and versions, names do not.
"""

from __future__ import annotations

import importlib
from collections import deque
from collections.abc import Sequence
from typing import Any

from segkit.errors import SegkitError, UnknownName
from segkit.extras import require

RTX, CLASSIC = "tensorrt_rtx", "tensorrt"
EXTRAS = {RTX: "trt", CLASSIC: "tensorrt"}
"""The two modules, and the extra of segkit3d that brings each."""

PORTABLE = "sm80+"
"""Target of an engine for Ampere and everything newer that its module knows."""

_MOST_LINES = 2000


def require_module(module: str, purpose: str) -> None:
    """Refuse early where a module is not installed.

    Raises:
        UnknownName: it is no TensorRT module.
        MissingExtra: it is not installed.
    """
    if module not in EXTRAS:
        raise UnknownName("TensorRT module", module, EXTRAS)
    require(module, EXTRAS[module], purpose)


def load_module(module: str, purpose: str) -> Any:
    """Import `tensorrt_rtx` or `tensorrt`.

    Raises:
        UnknownName, MissingExtra: see `require_module`.
        SegkitError: it is installed and does not load.
    """
    require_module(module, purpose)
    try:
        return importlib.import_module(module)
    except (ImportError, OSError, RuntimeError) as error:
        raise SegkitError(
            f"expected the module {module!r} to load, it does not: {type(error).__name__}: {error}",
            hint=f'install it again: pip install --force-reinstall "segkit3d[{EXTRAS[module]}]"',
        ) from error


def make_log(trt: Any) -> Any:
    """A log that keeps its last lines in `lines` as (severity, text), and prints none."""

    class Records(trt.ILogger):  # type: ignore[misc]
        """Keeps lines: what an engine needs in memory, and why a call failed, is said nowhere else."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: deque[tuple[str, str]] = deque(maxlen=_MOST_LINES)

        def log(self, severity: Any, text: str) -> None:
            if severity.name != "VERBOSE":
                self.lines.append((severity.name, text))

    return Records()


def complaint(log: Any) -> str:
    """The errors in a log of `make_log`, as one line."""
    errors = [text for severity, text in log.lines if severity in ("ERROR", "INTERNAL_ERROR")]
    return " ".join("; ".join(errors).split()) or "nothing"


def is_malformed(engine: bytes, trt: Any) -> bool:
    """Whether bytes are no engine at all: the one thing that can be told of an engine without a GPU.

    Always False where the module cannot tell (classic `tensorrt`).
    """
    runtime = trt.Runtime(make_log(trt))
    if not hasattr(runtime, "get_engine_validity"):
        return False
    _, diagnostics = runtime.get_engine_validity(engine)
    return bool(diagnostics & int(trt.EngineInvalidityDiagnostics.MALFORMED_ENGINE))


def capability_name(capability: tuple[int, int]) -> str:
    """The name of a compute capability as targets are written: (8, 6) is "sm86"."""
    return f"sm{capability[0]}{capability[1]}"


def runs_on(targets: Sequence[str], capability: tuple[int, int], trt: Any) -> bool:
    """Whether an engine for these targets runs on a GPU of this compute capability.

    TensorRT for RTX runs on the capabilities it lists and on no other: not on H100 (9.0), B200 (10.0) or a Jetson.
    """
    name = capability_name(capability)
    if hasattr(trt, "ComputeCapability") and name.upper() not in trt.ComputeCapability.__members__:
        return False
    return name in targets or (PORTABLE in targets and capability >= (8, 0))
