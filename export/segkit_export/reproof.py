"""A bundle that exists already: its proofs taken again on other data, its engines built again."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segkit.cards import OptionValue
from segkit.dataset import LabelScheme, open_dataset
from segkit.errors import SegkitError, UsageError, VerificationFailed
from segkit.inference import Tiling
from segkit.volume import format_size
from segkit_export.engines import engine_entry
from segkit_export.progress import Progress, silent
from segkit_export.proving import opener, prove_opened, runnable
from segkit_export.reference import run_reference
from segkit_export.tensorrt_build import build_engine, rebuild_request
from segkit_export.tiles import try_tiles
from segkit_export.volumes import subject_heads
from segkit_runtime.bundle import Bundle, write_bundle
from segkit_runtime.engines import open_engine
from segkit_runtime.layout import CARD, MANIFEST, MODEL
from segkit_runtime.manifest import Manifest, Precision, Proof, TileProof

if TYPE_CHECKING:
    from segkit.registry import Registry


@dataclass(frozen=True)
class Reproof:
    """What came of it.

    Attributes:
        reference: what everything was held against, in words.
        proofs: the figures of this machine.
        not_run: what could not run here, and why.
    """

    reference: str
    proofs: list[Proof] = field(default_factory=list)
    not_run: dict[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return {
            "schema": 1,
            "reference": self.reference,
            "proofs": [proof.model_dump(mode="json") for proof in self.proofs],
            "not_run": self.not_run,
        }


def reprove(
    registry: Registry,
    path: Path,
    data: Path,
    dataset: str | None = None,
    options: Mapping[str, OptionValue] | None = None,
    subjects: int = 1,
    progress: Progress = silent,
) -> Reproof:
    """Hold every runtime of a bundle against the bundle's fp32 file in ONNX Runtime.

    Args:
        registry: finds the data set.
        path: the bundle.
        data: a folder of a data set.
        dataset: its plugin, or None for the one that the network was trained on.
        options: of the data set.
        subjects: at most so many.
        progress: called once per tile.

    Raises:
        BundleError: the bundle is altered.
        UsageError: it does not say what it was trained on, and nobody else does; or a subject lacks a modality.
        MissingExtra: ONNX Runtime is not installed.
        DataError: a file is bad.
    """
    bundle = Bundle.open(path)
    manifest = bundle.manifest
    dataset = dataset or manifest.weights.dataset
    if dataset is None:
        raise UsageError(f"expected --dataset, since {path} was trained on none", hint="name the data set of --data")
    opened = open_dataset(registry.card("dataset", dataset), data, options)
    heads = subject_heads(
        opened.subjects[:subjects],
        dataset,
        manifest.modalities,
        manifest.preprocessing,
        _scheme(manifest, opened.scheme),
    )
    tiling = Tiling(manifest.inference.patch, manifest.inference.overlap, manifest.inference.blending)
    fp32 = open_engine("onnxruntime", bundle.read(MODEL))
    try:
        reference = run_reference(fp32, heads, tiling, len(manifest.labels), progress)
    finally:
        fp32.close()
    report = Reproof(f"{MODEL} in onnxruntime {fp32.version}")
    for known in manifest.proofs:
        if (known.runtime, known.precision) == ("onnxruntime", "fp32"):
            continue
        as_run: Precision = "fp32" if known.arithmetic == "emulated" else known.precision
        content = runnable(bundle.read(known.model), known.precision, known.arithmetic)
        (model,) = (model for model in manifest.models if model.file == known.model)
        open_for = opener(known.runtime, content, as_run)
        try:
            finding = prove_opened(
                open_for,
                reference,
                progress,
                model=model,
                precision=known.precision,
                arithmetic=known.arithmetic,
                tolerance=known.tolerance,
            )
        except VerificationFailed:
            raise
        except SegkitError as error:
            report.not_run[f"{known.runtime} in {known.precision}"] = str(error)
            continue
        tiles: list[TileProof] = []
        if known.tiles:
            sizes = [one.patch for one in known.tiles]
            for size, one in try_tiles(open_for, model, sizes, reference, progress).items():
                if isinstance(one, TileProof):
                    tiles.append(one)
                else:
                    where = f"{known.runtime} in {known.precision} with tiles of {format_size(size)}"
                    report.not_run[where] = one
        report.proofs.append(finding.proof.model_copy(update={"tiles": tiles}))
    return report


def _scheme(manifest: Manifest, scheme: LabelScheme) -> LabelScheme | None:
    """What the codes of the data's labels mean, if they are the classes of the bundle; else there is no truth."""
    ours = [(label.code, label.name) for label in manifest.labels]
    theirs = [(label.code, label.name) for label in scheme.labels]
    return scheme if ours == theirs else None


def rebuild_engines(path: Path, targets: Sequence[str] = (), progress: Progress = silent) -> Bundle:
    """Build the engines of a bundle again from the ONNX files inside it, and put the new bundle in its place.

    Args:
        path: the bundle, a folder.
        targets: compute capabilities, or none for those that each engine was built for.
        progress: called as the builds go on.

    Raises:
        BundleError: the bundle is altered.
        UsageError: it has no engine, or is no folder.
        MissingExtra, ExportFailed: see `build_engine`.
    """
    bundle = Bundle.open(path)
    manifest = bundle.manifest
    if not manifest.engines:
        raise UsageError(f"expected engines in {path}, found none", hint="export it with --trt")
    if not path.is_dir():
        raise UsageError(f"expected a folder, got {path}", hint="unpack it first: segkit bundle unpack")
    old = {engine.file for engine in manifest.engines}
    made = {MANIFEST, CARD}
    files: dict[str, bytes | Path] = {
        name: bundle.folder / name for name in bundle.checksums if name not in old and name not in made
    }
    engines = []
    for known in manifest.engines:
        request = rebuild_request(known)
        if targets:
            request = dataclasses.replace(request, targets=tuple(targets))
        onnx = bundle.read(known.model)
        built = build_engine(onnx, progress, request)
        entry = engine_entry(manifest.name, built, known.model, onnx)
        engines.append(entry)
        files[entry.file] = built.engine
    software = manifest.software | {engine.runtime: engine.version for engine in engines}
    return write_bundle(
        path, manifest.model_copy(update={"engines": engines, "software": software}), files, overwrite=True
    )
