"""Engines that run a bundle's files: a closed table, since beside a scanner nothing is looked up by name."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from segkit.cards import load_attribute
from segkit.errors import BundleError, DataError, MissingExtra, SegkitError, UnknownName, UsageError
from segkit.extras import is_installed
from segkit.inference.engine import Engine
from segkit_runtime.engines.cache import CacheUse
from segkit_runtime.engines.onnx_bytes import require_self_contained
from segkit_runtime.manifest import CompiledEngine, Precision

Output = Literal["logits", "labels"]

LABELS, MEAN_LOGIT = "labels", "mean_logit"
"""Names of a file's further outputs: the largest class of each voxel, (B, X, Y, Z) uint8, and the mean of all logits of
a patch, (B,) float32. The second tells whether the first is worth anything: it is finite only if every logit is."""


class RuntimeEngine(Engine, Protocol):
    """An engine that says what it takes and what it gives.

    Attributes:
        channels: number of channels its input takes, or None where the file leaves it open.
        output: whether it gives logits (B, K, X, Y, Z) float32 or labels (B, X, Y, Z) uint8.
        cache: whether what it compiled came from the user's cache or was put there.
    """

    channels: int | None
    output: Output
    cache: CacheUse

    def keep(self, model_sha256: str) -> None:
        """Put what it compiled of a model into the user's cache for the next start, where the runtime can."""


def choose_output(asked: Output, names: Collection[str]) -> Output:
    """What an engine gives: labels where they are asked for and the file can tell both outputs that they take."""
    return "labels" if asked == "labels" and {LABELS, MEAN_LOGIT} <= set(names) else "logits"


def require_finite(runtime: str, logits: NDArray[np.float32]) -> None:
    """Refuse logits, or their mean, that are no numbers.

    Raises:
        DataError: one is not finite.
    """
    if not np.isfinite(logits).all():
        raise DataError(
            f"expected finite logits from {runtime}, found NaN or infinite ones",
            hint="check the intensities of the images",
        )


@dataclass(frozen=True)
class _Kind:
    module: str
    extra: str
    factory: str
    takes: Literal["onnx", "engine"] = "onnx"
    reopen: str | None = None


_OPENVINO = "segkit_runtime.engines.openvino_engine"
_TENSORRT = "segkit_runtime.engines.tensorrt_engine:TensorRTEngine"

ENGINES = {
    "tensorrt": _Kind("tensorrt", "tensorrt", _TENSORRT, takes="engine"),
    "tensorrt_rtx": _Kind("tensorrt_rtx", "trt", _TENSORRT, takes="engine"),
    "openvino": _Kind("openvino", "openvino", f"{_OPENVINO}:compile_onnx", reopen=f"{_OPENVINO}:reopen"),
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
    output: Output = "logits",
) -> RuntimeEngine:
    """Make an engine that computes as asked, or none.

    Args:
        runtime: a name of `ENGINES`.
        model: content of an ONNX file without external data, or of a compiled engine.
        precision: what it must compute in.
        device: where: "cpu", or "cuda:0", "cuda:1" ...
        threads: CPU threads, or None for the runtime's own choice.
        built: what the manifest says of a compiled engine; None for an ONNX file.
        output: "labels" for these where the file has them; the engine says what it gives.

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
    options: dict[str, Any] = {"device": device, "threads": threads, "output": output}
    if ENGINES[runtime].takes == "onnx":
        require_self_contained(model)
        options["precision"] = precision
    elif built is None:
        raise UsageError(f"expected a compiled engine for {runtime}, got an ONNX file", hint="build one of it first")
    else:
        options["built"] = built
    return _as_asked(_make(runtime, ENGINES[runtime].factory, model, options), runtime, device, precision)


def reopen_engine(
    runtime: str, model_sha256: str, *, precision: Precision, device: str, threads: int | None, output: Output
) -> RuntimeEngine | None:
    """The engine that was kept in the user's cache, or None where there is none, or the runtime keeps none.

    Args:
        runtime: a name of `ENGINES`, one that can run here.
        model_sha256: of the ONNX file; what was compiled of it is what comes back.
        precision: see `open_engine`.
        device: likewise.
        threads: likewise.
        output: likewise.

    Raises:
        SegkitError: the module is broken, or the runtime would not compute as asked.
    """
    path = ENGINES[runtime].reopen
    if path is None:
        return None
    options = {"precision": precision, "device": device, "threads": threads, "output": output}
    engine: RuntimeEngine | None = _make(runtime, path, model_sha256, options)
    return engine and _as_asked(engine, runtime, device, precision)


def _as_asked(engine: RuntimeEngine, runtime: str, device: str, precision: Precision) -> RuntimeEngine:
    try:
        require_as_asked(runtime, device, precision, engine.precision)
    except SegkitError:
        engine.close()
        raise
    return engine


def _make(runtime: str, path: str, model: bytes | str, options: dict[str, Any]) -> Any:
    kind = ENGINES[runtime]
    try:
        return load_attribute(path)(model, **options)
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
