"""The export from end to end: trace, prove, build, write. Nothing is on disk before all of it has succeeded."""

from __future__ import annotations

import gc
import importlib.metadata
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import segkit
from segkit.cards import Size
from segkit.errors import UsageError
from segkit.extras import require
from segkit.inference.torch_engine import TorchEngine
from segkit.patches import require_multiple
from segkit.volume import format_size
from segkit_export import proving, tensorrt_build
from segkit_export.engines import engine_entry
from segkit_export.failure import forget
from segkit_export.onnx_export import Dynamic, to_onnx
from segkit_export.progress import Progress, silent
from segkit_export.prover import Prover, engine_precisions
from segkit_export.proving import Proofs
from segkit_export.reference import Reference, run_reference
from segkit_export.source import BareOptions, Source, find_target, open_source
from segkit_export.tensorrt_build import EngineRequest, Shapes
from segkit_export.tiles import add_tiles
from segkit_export.tolerances import Bounds
from segkit_export.variants import Variants
from segkit_export.volumes import calibration_patches, choose_heads
from segkit_runtime.bundle import Bundle, require_free_bundle, write_bundle
from segkit_runtime.cuda import why_no_device
from segkit_runtime.manifest import SCHEMA, CompiledEngine, Inference, Label, Manifest, Precision
from segkit_runtime.selfcheck import SELFCHECK, write_selfcheck
from segkit_runtime.trt import RTX

if TYPE_CHECKING:
    from segkit.registry import Registry

_SOFTWARE = ("torch", "onnx", "onnxscript", "onnx_ir", "numpy")


@dataclass(frozen=True, kw_only=True)
class TensorRT:
    """How TensorRT engines are built.

    Attributes:
        module: "tensorrt_rtx", or "tensorrt" where that and a GPU are.
        targets: compute capabilities; see `EngineRequest`.
        workspace_bytes: the most scratch memory that a kernel may take, or None for TensorRT's own limit.
        max_batch: the most patches at once, where the file leaves the batch open.
    """

    module: str = RTX
    targets: tuple[str, ...] = ()
    workspace_bytes: int | None = None
    max_batch: int = 1


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be exported, how, and to where.

    Attributes:
        name: a run folder, or the name of a model.
        out: the bundle, or None for the default beside the run or in the current folder.
        patch: size (x, y, z) in voxels, or None for the run's or the card's.
        overlap: of tiles of whole volumes, 0 to 0.75, or None for the run's; a bare model has the default of `Tiling`.
        bare: what a bare model needs to know and a run says itself.
        precisions: what is exported; fp32 is always in the bundle. None keeps the fastest that is proven.
        bounds: what engines must keep to, where it is not what their precision must.
        mend: whether modules that carry too much error are kept in fp32, and the file is held against torch again.
        dynamic: what of the input's shape the file leaves open.
        tiles: sizes of tiles beside `patch` that are tried on each runtime; `dynamic` must be "size".
        tensorrt: how engines are built, one in each precision, or None for none.
        openvino: whether OpenVINO must be proven; where it is installed it is compared in any case.
        data: a folder of the run's data set to compare on, or None for the run's own.
        subjects: at most so many of its subjects.
        resample_mm: voxel sizes that other images are resampled to beside a scanner, or None to refuse them.
        overwrite: whether a bundle that is there is replaced.
    """

    name: str
    out: Path | None = None
    patch: Size | None = None
    overlap: float | None = None
    bare: BareOptions | None = None
    precisions: tuple[Precision, ...] | None = ("fp32",)
    bounds: Bounds = field(default_factory=Bounds)
    mend: bool = False
    dynamic: Dynamic = "none"
    tiles: tuple[Size, ...] = ()
    tensorrt: TensorRT | None = None
    openvino: bool = False
    data: Path | None = None
    subjects: int = 1
    resample_mm: tuple[float, float, float] | None = None
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
        ExportFailed: the network cannot be traced, or an engine cannot be built.
        VerificationFailed: a file or a runtime that was asked for does not do what torch does.
    """
    target = find_target(request.name, registry)
    out = request.out or target.default_out
    _require_writable(out, request.overwrite)
    _require_packages(request)
    progress("build network", 0, 0)
    with _collecting_later():
        source = open_source(target, registry, patch=request.patch, bare=request.bare)
        if request.overlap is not None:
            source = replace(source, tiling=replace(source.tiling, overlap=request.overlap))
        _require_spacing(source, request.resample_mm)
        _require_tiles(source, request)
        heads = choose_heads(source, registry, request.data, request.subjects)
        progress("trace to ONNX", 0, 0)
        onnx = to_onnx(
            source.network,
            source.channels,
            source.tiling.patch,
            _metadata(source),
            dynamic=request.dynamic,
            multiple=source.multiple,
        )
    torch = TorchEngine(source.network)
    reference = run_reference(torch, heads, source.tiling, len(source.labels), progress)
    variants = Variants(
        onnx,
        lambda: calibration_patches(source, registry, heads),
        progress,
        labels=source.tiling.overlap == 0,  # where nothing is blended
    )
    proofs = Prover(request, source, variants, reference, out, progress).run()
    add_tiles(proofs, request.tiles, reference, progress)
    engines, files = _build_engines(request, source, variants, proofs, reference, progress)
    progress("write bundle", 0, 0)
    files |= {variant.model.file: variant.onnx for variant in proofs.used.values()}
    files |= _selfcheck(torch, reference)
    manifest = _manifest(source, proofs, engines, request.resample_mm)
    bundle = write_bundle(out, manifest, files, overwrite=request.overwrite)
    forget(out)
    return Exported(bundle=bundle, warnings=tuple(proofs.warnings))


@contextmanager
def _collecting_later() -> Iterator[None]:
    """No search for cycles meanwhile: torch's modules and a trace are many objects that stay, and it takes a second."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _require_writable(out: Path, overwrite: bool) -> None:
    """Refuse an output that `write_bundle` would refuse, before minutes of work rather than after."""
    require_free_bundle(out, overwrite)
    parent = next(folder for folder in out.absolute().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UsageError(f"expected a folder to write in, {parent} is not", hint="choose another --out")


def _require_spacing(source: Source, resample_mm: tuple[float, float, float] | None) -> None:
    """Refuse to promise voxel sizes that the network was not trained on.

    Raises:
        UsageError: images would be resampled to such.
    """
    if resample_mm is None:
        return
    spacing = source.spacing
    if spacing is None:
        raise UsageError(
            f"expected a trained network with --resample-to, {source.name} was trained on no voxel size",
            hint="leave --resample-to out: a bare network takes voxels of any size",
        )
    if not spacing.takes(resample_mm):
        raise UsageError(
            f"expected voxels to resample to that the network was trained on, {format_size(spacing.least_mm)} to "
            f"{format_size(spacing.most_mm)} mm, got {format_size(resample_mm)} mm",
            hint=f"for example --resample-to {format_size(spacing.least_mm)}",
        )


def _require_tiles(source: Source, request: Request) -> None:
    """Refuse sizes of tiles that the network does not take.

    Raises:
        UsageError: one is such, or is the patch itself.
    """
    for size in request.tiles:
        require_multiple(size, source.multiple, source.name)
        if size == source.tiling.patch or request.tiles.count(size) > 1:
            raise UsageError(
                f"expected other sizes with --also-patch, got {format_size(size)} twice", hint="leave one of them out"
            )


def _require_packages(request: Request) -> None:
    """Refuse early what would fail late.

    Raises:
        MissingExtra: a package is not installed.
        UsageError: an engine is asked for in a precision that its target or its builder lacks, or tiles of sizes that
            the file would not take.
    """
    if request.tiles and request.dynamic != "size":
        raise UsageError(
            "expected --dynamic size with --also-patch: else the file takes one size alone", hint="add --dynamic size"
        )
    for module in ("onnx", "onnxscript"):
        require(module, "export", "segkit export")
    require("onnxruntime", "onnxruntime", "the proof of an export")
    if request.openvino:
        require("openvino", "openvino", "the proof of OpenVINO (--openvino)")
    if request.tensorrt is None and "tf32" in (request.precisions or ()):
        raise UsageError("expected --trt with the precision tf32, which only TensorRT has", hint="add --trt")
    if request.tensorrt is not None:
        for precision in request.precisions or ():
            tensorrt_build.require_request(_engine_request(request.tensorrt, precision, None))


def _engine_request(how: TensorRT, precision: Precision, shapes: Shapes | None) -> EngineRequest:
    return EngineRequest(
        module=how.module,
        precision=precision,
        targets=how.targets,
        workspace_bytes=how.workspace_bytes,
        shapes=shapes,
    )


def _build_engines(
    request: Request, source: Source, variants: Variants, proofs: Proofs, reference: Reference, progress: Progress
) -> tuple[list[CompiledEngine], dict[str, bytes | Path]]:
    engines: list[CompiledEngine] = []
    files: dict[str, bytes | Path] = {}
    if request.tensorrt is None:
        return engines, files
    shapes = None
    if request.dynamic != "none":
        patch = (source.channels, *source.tiling.patch)
        shapes = ((1, *patch), (1, *patch), (request.tensorrt.max_batch, *patch))
    for precision in engine_precisions(request, proofs):
        variant = proving.engine_variant(variants, precision)
        engine = tensorrt_build.build_engine(
            variant.onnx, progress, _engine_request(request.tensorrt, precision, shapes)
        )
        entry = engine_entry(source.name, engine, variant.model.file, variant.onnx)
        if why_no_device() is None:
            tolerance = request.bounds.tolerance(precision, source.weights.trained)
            proof = proving.prove_engine(engine.engine, entry, variant.model, reference, tolerance, progress)
            proofs.proofs.append(proof)
            entry = entry.model_copy(update={"status": "proven"})
        engines.append(entry)
        files[entry.file] = engine.engine
        proofs.used[variant.model.file] = variant
    return engines, files


def _selfcheck(torch: TorchEngine, reference: Reference) -> dict[str, bytes | Path]:
    """A patch that a runtime can be tried on: the one with most labels, and of those the first."""
    volume, tile = reference.most_varied()
    patch, logits = reference.patch(volume, tile)
    image = patch.astype(np.float16).astype(np.float32)
    if not np.array_equal(image, patch):
        logits = torch.run(image)
    image, labels = image[0], logits[0].argmax(axis=0)
    return dict(write_selfcheck(image, labels))


def _metadata(source: Source) -> dict[str, str]:
    return {
        "segkit.name": source.name,
        "segkit.version": segkit.__version__,
        "segkit.schema": str(SCHEMA),
        "segkit.trained": str(source.weights.trained).lower(),
    }


def _manifest(
    source: Source,
    proofs: Proofs,
    engines: Sequence[CompiledEngine],
    resample_mm: tuple[float, float, float] | None,
) -> Manifest:
    versions = {name: importlib.metadata.version(name) for name in _SOFTWARE}
    versions |= {proof.runtime: proof.version for proof in proofs.proofs}
    versions |= {engine.runtime: engine.version for engine in engines}
    tiling = source.tiling
    return Manifest(
        name=source.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        segkit_version=segkit.__version__,
        modalities=list(source.modalities),
        spacing=source.spacing,
        resample_mm=resample_mm,
        preprocessing=source.preprocessing,
        inference=Inference(patch=tiling.patch, overlap=tiling.overlap, blending=tiling.blending),
        labels=[Label(code=label.code, name=label.name) for label in source.labels],
        network=source.origin,
        weights=source.weights,
        models=[variant.model for variant in proofs.used.values()],
        proofs=proofs.proofs,
        engines=list(engines),
        selfcheck=SELFCHECK,
        software={"python": platform.python_version(), **dict(sorted(versions.items()))},
    )
