"""The export from end to end: trace, prove, build, write. Nothing is on disk before all of it has succeeded."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import segkit
from segkit.cards import Size
from segkit.errors import SegkitError, UsageError
from segkit.extras import require
from segkit_export import tensorrt_build, verify
from segkit_export.onnx_export import OPSET, to_onnx
from segkit_export.progress import Progress, silent
from segkit_export.source import BareOptions, Source, find_target, open_source
from segkit_export.tensorrt_build import BuiltEngine
from segkit_export.volumes import Head, choose_heads
from segkit_runtime.bundle import MODEL, Bundle, require_free_bundle, write_bundle
from segkit_runtime.engines import missing_runtimes, open_engine
from segkit_runtime.manifest import SCHEMA, CompiledEngine, Inference, Label, Manifest, Proof

if TYPE_CHECKING:
    from segkit.registry import Registry

_SOFTWARE = ("torch", "onnx", "onnxscript", "onnx_ir", "numpy")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be exported, how, and to where.

    Attributes:
        name: a run folder, or the name of a model.
        out: the bundle, or None for the default beside the run or in the current folder.
        patch: size (x, y, z) in voxels, or None for the run's or the card's.
        bare: what a bare model needs to know and a run says itself.
        tensorrt: whether a TensorRT-RTX engine is built.
        openvino: whether OpenVINO must be proven; where it is installed it is compared in any case.
        data: a folder of the run's data set to compare on, or None for the run's own.
        subjects: at most so many of its subjects.
        overwrite: whether a bundle that is there is replaced.
    """

    name: str
    out: Path | None = None
    patch: Size | None = None
    bare: BareOptions | None = None
    tensorrt: bool = False
    openvino: bool = False
    data: Path | None = None
    subjects: int = 1
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What came of an export.

    Attributes:
        bundle: the bundle, as it was checked after it was written.
        warnings: what is in the bundle, or missing from it, that someone should know.
    """

    bundle: Bundle
    warnings: tuple[str, ...]


def export(request: Request, registry: Registry, progress: Progress = silent) -> Exported:
    """Export a run or a bare architecture as a bundle.

    What can be refused without work is refused first; all that was asked for is in the bundle, or there is no bundle.

    Raises:
        OutputExists: there is something at the output, and `overwrite` is not set.
        MissingExtra: a package for what was asked for is not installed.
        UsageError, DataError, PluginError: see `find_target`, `open_source` and `choose_heads`.
        ExportFailed: the network cannot be traced, or the engine cannot be built.
        VerificationFailed: ONNX Runtime, or OpenVINO where it was asked for, does not do what torch does.
    """
    target = find_target(request.name, registry)
    out = request.out or target.default_out
    _require_writable(out, request.overwrite)
    _require_packages(request)
    progress("build network", 0, 0)
    source = open_source(target, registry, patch=request.patch, bare=request.bare)
    heads = choose_heads(source, registry, request.data, request.subjects)
    progress("trace to ONNX", 0, 0)
    onnx = to_onnx(source.network, len(source.modalities), source.tiling.patch, _metadata(source))
    proofs, warnings = _prove(source, heads, onnx, request, progress)
    engine = tensorrt_build.build_engine(onnx, progress) if request.tensorrt else None
    progress("write bundle", 0, 0)
    files: dict[str, bytes | Path] = {MODEL: onnx}
    engines: list[CompiledEngine] = []
    if engine is not None:
        engines.append(_entry(source.name, engine, onnx))
        files[engines[0].file] = engine.engine
    bundle = write_bundle(out, _manifest(source, onnx, proofs, engines), files, overwrite=request.overwrite)
    return Exported(bundle=bundle, warnings=tuple(warnings))


def _require_writable(out: Path, overwrite: bool) -> None:
    """Refuse an output that `write_bundle` would refuse, before minutes of work rather than after."""
    require_free_bundle(out, overwrite)
    parent = next(folder for folder in out.absolute().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UsageError(f"expected a folder to write in, {parent} is not", hint="choose another --out")


def _require_packages(request: Request) -> None:
    """Refuse early what would fail late for want of a package.

    Raises:
        MissingExtra: a package is not installed.
    """
    for module in ("onnx", "onnxscript"):
        require(module, "export", "segkit export")
    require("onnxruntime", "onnxruntime", "the proof of an export")
    if request.tensorrt:
        tensorrt_build.require_module()
    if request.openvino:
        require("openvino", "openvino", "the proof of OpenVINO (--openvino)")


def _prove(
    source: Source, heads: Sequence[Head], onnx: bytes, request: Request, progress: Progress
) -> tuple[list[Proof], list[str]]:
    """Hold the ONNX file against torch in ONNX Runtime, and in OpenVINO where that is installed."""
    reference = verify.run_reference(source.network, heads, source.tiling, len(source.labels), progress)
    proofs = [_prove_one("onnxruntime", onnx, reference, progress)]
    verify.require_proven(proofs[0])
    warnings = []
    if request.openvino:
        proofs.append(_prove_one("openvino", onnx, reference, progress))
        verify.require_proven(proofs[1])
    elif "openvino" not in missing_runtimes():
        # Nobody asked for it: what it cannot do is told, not raised.
        try:
            proofs.append(_prove_one("openvino", onnx, reference, progress))
        except SegkitError as error:
            warnings.append(f"openvino was not proven: {error}")
        else:
            if not proofs[1].proven:
                warnings.append(f"openvino was not proven: it {verify.describe(proofs[1])}")
    return proofs, warnings


def _prove_one(runtime: str, onnx: bytes, reference: verify.Reference, progress: Progress) -> Proof:
    progress(f"compare: load {runtime}", 0, 0)
    engine = open_engine(runtime, onnx)
    try:
        return verify.prove(engine, reference, progress)
    finally:
        engine.close()


def _metadata(source: Source) -> dict[str, str]:
    return {
        "segkit.name": source.name,
        "segkit.version": segkit.__version__,
        "segkit.schema": str(SCHEMA),
        "segkit.trained": str(source.weights.trained).lower(),
    }


def _entry(name: str, engine: BuiltEngine, onnx: bytes) -> CompiledEngine:
    stem = re.sub(r"[^A-Za-z0-9._+-]+", "_", f"{name}-{engine.module}-{'-'.join(engine.targets)}")
    return CompiledEngine(
        file=f"engines/{stem}.engine",
        runtime=engine.module,
        version=engine.version,
        precision=tensorrt_build.PRECISION,
        targets=list(engine.targets),
        flags=list(engine.flags),
        onnx_sha256=hashlib.sha256(onnx).hexdigest(),
        build_seconds=round(engine.build_seconds, 3),
        activation_bytes=engine.activation_bytes,
        weight_bytes=engine.weight_bytes,
        status="built, not run",
    )


def _manifest(source: Source, onnx: bytes, proofs: list[Proof], engines: list[CompiledEngine]) -> Manifest:
    versions = {name: importlib.metadata.version(name) for name in _SOFTWARE}
    versions |= {proof.runtime: proof.version for proof in proofs}
    versions |= {engine.runtime: engine.version for engine in engines}
    tiling = source.tiling
    return Manifest(
        name=source.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        segkit_version=segkit.__version__,
        modalities=list(source.modalities),
        spacing=source.spacing,
        preprocessing=source.preprocessing,
        inference=Inference(patch=tiling.patch, overlap=tiling.overlap, blending=tiling.blending),
        labels=[Label(code=label.code, name=label.name) for label in source.labels],
        network=source.origin,
        weights=source.weights,
        opset=OPSET,
        onnx_sha256=hashlib.sha256(onnx).hexdigest(),
        proofs=proofs,
        engines=engines,
        software={"python": platform.python_version(), **dict(sorted(versions.items()))},
    )
