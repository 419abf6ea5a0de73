"""Memory of inference per runtime: built or measured, where fake tensors tell nothing."""

from __future__ import annotations

import multiprocessing
import tempfile
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal

import numpy as np

from segkit.children import start_child
from segkit.errors import SegkitError
from segkit.memory import peak_growth_bytes
from segkit_export.progress import Progress, silent
from segkit_export.tiny_onnx import TINY_ONNX
from segkit_runtime.engines import first_line, open_engine

Basis = Literal["predicted", "built", "measured", "unknown"]


@dataclass(frozen=True, kw_only=True)
class RuntimeMemory:
    """What one runtime needs to run one patch.

    Attributes:
        runtime: its name.
        basis: how it is known: from fake tensors, from the engine's builder, from a process that ran it, or not at all.
        total_bytes: of device memory for an engine, of main memory for the others; None where it is not known.
        weight_bytes: the part of it that is weights, if it can be told.
        activation_bytes: the part of it that is activations, if it can be told.
        note: what is in the figure, or why there is none.
    """

    runtime: str
    basis: Basis
    total_bytes: int | None = None
    weight_bytes: int | None = None
    activation_bytes: int | None = None
    note: str = ""


def engine_memory(onnx: bytes, progress: Progress = silent) -> RuntimeMemory:
    """Build a TensorRT for RTX engine, without a GPU, and take down what its builder says that it needs."""
    from segkit_export.tensorrt_build import build_engine

    try:
        built = build_engine(onnx, progress)
    except SegkitError as error:
        return RuntimeMemory(runtime="tensorrt_rtx", basis="unknown", note=str(error))
    return RuntimeMemory(
        runtime=built.module,
        basis="built",
        total_bytes=built.activation_bytes + built.weight_bytes,
        weight_bytes=built.weight_bytes,
        activation_bytes=built.activation_bytes,
        note="on the GPU, without its context and the images",
    )


def measured_memory(runtime: str, onnx: bytes, shape: tuple[int, ...]) -> RuntimeMemory:
    """Load an ONNX file in a process of its own, run it twice, and measure how far that process grows.

    The runtime's libraries are loaded before, so they are not in the figure; the file's content and the patch are.

    Args:
        runtime: a name of `segkit_runtime.engines.ENGINES`.
        onnx: the file's content.
        shape: of the input (B, C, X, Y, Z).
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory(prefix="segkit-plan-") as folder:
        file = Path(folder, "model.onnx")
        file.write_bytes(onnx)
        process = context.Process(target=_child, args=(there, runtime, file, shape), daemon=True)
        start_child(process)
        there.close()
        try:
            answer: int | str | None = here.recv()
        except EOFError:
            process.join()
            answer = f"its process ended with code {process.exitcode}"
        finally:
            process.terminate()
            process.join()
    if isinstance(answer, int):
        note = "main memory above the loaded libraries"
        return RuntimeMemory(runtime=runtime, basis="measured", total_bytes=answer, note=note)
    return RuntimeMemory(
        runtime=runtime, basis="unknown", note=answer or "this system does not tell the memory of a process"
    )


def _child(pipe: Connection, runtime: str, file: Path, shape: tuple[int, ...]) -> None:
    try:
        _run_twice(runtime, TINY_ONNX, (1, 1, 1, 1, 1))
        pipe.send(peak_growth_bytes(lambda: _run_twice(runtime, file.read_bytes(), shape)))
    except Exception as error:
        pipe.send(str(error) if isinstance(error, SegkitError) else f"{type(error).__name__}: {first_line(error)}")


def _run_twice(runtime: str, onnx: bytes, shape: tuple[int, ...]) -> None:
    engine = open_engine(runtime, onnx)
    patch = np.zeros(shape, np.float32)
    for _ in range(2):
        engine.run(patch)
    engine.close()
