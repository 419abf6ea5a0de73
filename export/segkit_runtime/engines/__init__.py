"""Engines that run a bundle's ONNX file: a closed table, since beside a scanner nothing is looked up by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from segkit.cards import load_attribute
from segkit.errors import BundleError, MissingExtra, SegkitError, UnknownName, UsageError
from segkit.extras import is_installed
from segkit.inference.engine import Engine
from segkit_runtime.engines.onnx_bytes import require_self_contained


class RuntimeEngine(Engine, Protocol):
    """An engine that says what it takes.

    Attributes:
        channels: number of modalities its input takes, or None where the file leaves it open.
    """

    channels: int | None


@dataclass(frozen=True)
class _Kind:
    module: str
    extra: str
    factory: str


ENGINES = {
    "openvino": _Kind("openvino", "openvino", "segkit_runtime.engines.openvino_engine:OpenVinoEngine"),
    "onnxruntime": _Kind("onnxruntime", "onnxruntime", "segkit_runtime.engines.onnxruntime_engine:OnnxRuntimeEngine"),
}
"""Runtimes by name, the fastest first."""


def missing_runtimes() -> dict[str, str]:
    """The runtimes that cannot run here, each with the reason. Nothing is imported."""
    return {name: str(_missing(name)) for name, kind in ENGINES.items() if not is_installed(kind.module)}


def open_engine(runtime: str, model: bytes, *, threads: int | None = None) -> RuntimeEngine:
    """Make an engine of an ONNX file's bytes. It computes in fp32 on the CPU.

    Args:
        runtime: a name of `ENGINES`.
        model: the file's content, without external data.
        threads: CPU threads, or None for the runtime's own choice.

    Raises:
        UnknownName: no such runtime.
        MissingExtra: its module is not installed.
        UsageError: less than one thread.
        BundleError: the runtime cannot load the model, or the model refers to other files.
        SegkitError: the module is broken, or the runtime would not compute as asked.
    """
    if runtime not in ENGINES:
        raise UnknownName("runtime", runtime, ENGINES)
    if not is_installed(ENGINES[runtime].module):
        raise _missing(runtime)
    if threads is not None and threads < 1:
        raise UsageError(f"expected at least 1 thread, got {threads}")
    require_self_contained(model)
    try:
        factory = load_attribute(ENGINES[runtime].factory)
        engine: RuntimeEngine = factory(model, threads=threads)
    except SegkitError:
        raise
    except ImportError as error:
        module = ENGINES[runtime].module
        raise SegkitError(
            f"expected the module {module!r} to be importable, found: {error}",
            hint=f"run: pip install --force-reinstall {module}",
        ) from error
    except Exception as error:
        raise BundleError(
            f"expected an ONNX model that {runtime} can load, it says: {first_line(error)}", hint="export it again"
        ) from error
    return engine


def first_line(error: BaseException) -> str:
    """The first lines of a runtime's message that say something, as one."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def _missing(runtime: str) -> MissingExtra:
    return MissingExtra(ENGINES[runtime].module, ENGINES[runtime].extra, f"the runtime {runtime!r}")
