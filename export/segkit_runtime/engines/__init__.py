"""Engines that run a bundle's files: a closed table, since beside a scanner nothing is looked up by name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

from segkit.cards import load_attribute
from segkit.errors import BundleError, MissingExtra, SegkitError, UnknownName, UsageError
from segkit.extras import is_installed
from segkit.inference.engine import Engine
from segkit_runtime.engines.onnx_bytes import require_self_contained
from segkit_runtime.manifest import CompiledEngine, Precision


class RuntimeEngine(Engine, Protocol):
    """An engine that says what it takes.

    Attributes:
        channels: number of channels its input takes, or None where the file leaves it open.
    """

    channels: int | None


@dataclass(frozen=True)
class _Kind:
    module: str
    extra: str
    factory: str
    takes: Literal["onnx", "engine"] = "onnx"


_TENSORRT = "segkit_runtime.engines.tensorrt_engine:TensorRTEngine"

ENGINES = {
    "tensorrt": _Kind("tensorrt", "tensorrt", _TENSORRT, takes="engine"),
    "tensorrt_rtx": _Kind("tensorrt_rtx", "trt", _TENSORRT, takes="engine"),
    "openvino": _Kind("openvino", "openvino", "segkit_runtime.engines.openvino_engine:OpenVinoEngine"),
    "onnxruntime": _Kind("onnxruntime", "onnxruntime", "segkit_runtime.engines.onnxruntime_engine:OnnxRuntimeEngine"),
}
"""Runtimes by name, the fastest first."""

ONNX_RUNTIMES = tuple(name for name, kind in ENGINES.items() if kind.takes == "onnx")
"""Those that run an ONNX file itself; the others run an engine that was compiled from one."""


def missing_runtimes() -> dict[str, str]:
    """The runtimes that cannot run here, each with the reason. Nothing is imported."""
    return {name: str(_missing(name)) for name, kind in ENGINES.items() if not is_installed(kind.module)}


def require_runtime(runtime: str) -> None:
    """Refuse a runtime that cannot run here, before anything is read for it. Nothing is imported.

    Raises:
        UnknownName: no such runtime.
        MissingExtra: its module is not installed.
    """
    if runtime not in ENGINES:
        raise UnknownName("runtime", runtime, ENGINES)
    if not is_installed(ENGINES[runtime].module):
        raise _missing(runtime)


def open_engine(
    runtime: str,
    model: bytes,
    *,
    precision: Precision = "fp32",
    device: str = "cpu",
    threads: int | None = None,
    built: CompiledEngine | None = None,
) -> RuntimeEngine:
    """Make an engine that computes as asked, or none.

    Args:
        runtime: a name of `ENGINES`.
        model: content of an ONNX file without external data, or of a compiled engine.
        precision: what it must compute in.
        device: where: "cpu", or "cuda:0", "cuda:1" ...
        threads: CPU threads, or None for the runtime's own choice.
        built: what the manifest says of a compiled engine; None for an ONNX file.

    Raises:
        UnknownName: no such runtime or precision.
        MissingExtra: its module is not installed.
        UsageError: no such device, less than one thread, or the runtime takes a file of the other kind.
        BundleError: the runtime cannot load the model, or the model refers to other files.
        SegkitError: the module is broken, or the runtime would not compute as asked.
    """
    require_runtime(runtime)
    require_precision(precision)
    require_device(device)
    if threads is not None and threads < 1:
        raise UsageError(f"expected at least 1 thread, got {threads}")
    options: dict[str, Any] = {"device": device, "threads": threads}
    if ENGINES[runtime].takes == "onnx":
        require_self_contained(model)
        options["precision"] = precision
    elif built is None:
        raise UsageError(f"expected a compiled engine for {runtime}, got an ONNX file", hint="build one of it first")
    else:
        options["built"] = built
    engine = _make(runtime, model, options)
    try:
        require_as_asked(runtime, device, precision, engine.precision)
    except SegkitError:
        engine.close()
        raise
    return engine


def _make(runtime: str, model: bytes, options: dict[str, Any]) -> RuntimeEngine:
    kind = ENGINES[runtime]
    try:
        engine: RuntimeEngine = load_attribute(kind.factory)(model, **options)
    except SegkitError:
        raise
    except ImportError as error:
        raise SegkitError(
            f"expected the module {kind.module!r} to be importable, found: {error}",
            hint=f"run: pip install --force-reinstall {kind.module}",
        ) from error
    except Exception as error:
        what = "an ONNX model" if kind.takes == "onnx" else "an engine"
        raise BundleError(
            f"expected {what} that {runtime} can load, it says: {first_line(error)}", hint="export it again"
        ) from error
    return engine


def require_precision(precision: str) -> None:
    """Refuse a precision that does not exist.

    Raises:
        UnknownName: there is none of this name.
    """
    if precision not in get_args(Precision):
        raise UnknownName("precision", precision, get_args(Precision))


def require_device(device: str) -> None:
    """Refuse what is no device.

    Raises:
        UsageError: it is neither "cpu" nor "cuda:" and a number.
    """
    if not re.fullmatch(r"cpu|cuda:[0-9]{1,3}", device):
        raise UsageError(f"expected the device cpu, cuda:0, cuda:1 ..., got {device!r}")


def require_as_asked(runtime: str, device: str, asked: str, found: str) -> None:
    """Refuse an engine that computes in another precision than it was asked to.

    Raises:
        SegkitError: it does.
    """
    if found != asked:
        where = "this CPU" if device == "cpu" else device
        raise SegkitError(
            f"expected {runtime} to compute in {asked}, {where} makes it {found}",
            hint="choose another precision or another runtime",
        )


def first_line(error: BaseException) -> str:
    """The first lines of a runtime's message that say something, as one."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def _missing(runtime: str) -> MissingExtra:
    return MissingExtra(ENGINES[runtime].module, ENGINES[runtime].extra, f"the runtime {runtime!r}")
