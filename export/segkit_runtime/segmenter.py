"""A bundle that is loaded and stays loaded: files in, labels out."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from segkit.errors import BundleError, SegkitError, UsageError
from segkit.inference import Tiling, segment_volume
from segkit.memory import peak_mib
from segkit_runtime.bundle import MODEL, Bundle
from segkit_runtime.engines import ENGINES, RuntimeEngine, missing_runtimes, open_engine
from segkit_runtime.engines.checked import CheckedEngine
from segkit_runtime.images import encode_codes, read_head
from segkit_runtime.manifest import Manifest, Proof
from segkit_runtime.result import Result

Progress = Callable[[int, int], None]


def load(
    path: str | os.PathLike[str],
    runtime: str = "auto",
    threads: int | None = None,
    allow_untrained: bool = False,
) -> Segmenter:
    """Check a bundle and make its network ready to run.

    Args:
        path: the bundle's folder.
        runtime: "openvino", "onnxruntime", or "auto" for the fastest of them that is proven for this bundle and
            installed here.
        threads: CPU threads, or None for the runtime's own choice.
        allow_untrained: take a bundle whose weights were never trained.

    Raises:
        BundleError: the bundle is altered, its weights are untrained, or no runtime is proven for it.
        UnknownName: no such runtime.
        MissingExtra: the runtime is not installed.
        UsageError: the runtime that was asked for is not proven for this bundle.
        SegkitError: the runtime does not compute as it was proven.
    """
    start = time.perf_counter()
    bundle = Bundle.open(path)
    manifest = bundle.manifest
    if not (manifest.weights.trained or allow_untrained):
        raise BundleError(
            f"expected trained weights in {bundle.folder}, found untrained ones, whose labels mean nothing",
            hint="train the network first, or add --allow-untrained for a trial",
        )
    name = _choose_runtime(manifest, runtime)
    engine = open_engine(name, bundle.read(MODEL), threads=threads)
    try:
        proof = _require_proven_as_run(manifest, engine)
        if engine.channels not in (None, len(manifest.modalities)):
            raise BundleError(
                f"expected a model for {len(manifest.modalities)} modalities, {MODEL} takes {engine.channels}",
                hint="export the bundle again",
            )
    except SegkitError:
        engine.close()
        raise
    return Segmenter(bundle, engine, proof, time.perf_counter() - start)


class Segmenter:
    """A bundle's network, ready to run; made by `load`, closed by `close` or at the end of its `with` block.

    Args:
        bundle: what was loaded.
        engine: its network.
        proof: the proof that the engine runs under.
        load_seconds: how long loading took.
    """

    def __init__(self, bundle: Bundle, engine: RuntimeEngine, proof: Proof, load_seconds: float) -> None:
        self.bundle = bundle
        self.engine = engine
        self._proof = proof
        self._load_seconds = load_seconds
        self._closed = False

    def segment(self, images: Mapping[str, str | os.PathLike[str]], progress: Progress | None = None) -> Result:
        """Segment one head.

        Args:
            images: modality name -> NIfTI file; all modalities of the bundle, on one grid.
            progress: called with the number of tiles done and the number of tiles.

        Returns:
            The labels on the first modality's own grid, and how they came about.

        Raises:
            UsageError: a modality is missing or one too many, or the segmenter is closed.
            DataError: a file is bad, the grids disagree, or the voxel sizes are not those of the bundle.
            SegkitError: the runtime failed on a patch.
        """
        if self._closed:
            raise UsageError("expected an open segmenter, this one is closed", hint="load the bundle again")
        manifest = self.bundle.manifest
        watch = _Stopwatch(load=self._load_seconds)
        with watch.stage("read"):
            head = read_head({name: Path(file) for name, file in images.items()}, manifest)
        tiles = 0

        def count(done: int, total: int) -> None:
            nonlocal tiles
            tiles = done
            if progress is not None:
                progress(done, total)

        with watch.stage("infer"):
            engine = CheckedEngine(self.engine, len(manifest.labels))
            tiling = Tiling(manifest.inference.patch, manifest.inference.overlap, manifest.inference.blending)
            indices = head.volumes[0].with_data(segment_volume(engine, head.images, head.mask, tiling, count))
        with watch.stage("restore"):
            labels = encode_codes(indices, manifest).on_grid_of(head.original)
            counts = np.bincount(indices.data.ravel(), minlength=len(manifest.labels))
        names = [label.name for label in manifest.labels]
        return Result(
            labels=labels,
            indices=indices,
            codes={label.name: label.code for label in manifest.labels},
            volumes_ml={name: int(counts[i]) * labels.voxel_ml for i, name in enumerate(names) if i > 0},
            timings_s=watch.seconds,
            tiles=tiles,
            runtime=self.engine.runtime,
            version=self.engine.version,
            device=self.engine.device,
            precision=self.engine.precision,
            bundle_name=manifest.name,
            bundle_id=self.bundle.id,
            trained=manifest.weights.trained,
            intended_use=manifest.intended_use,
            warnings=tuple(self._warnings(counts)),
            peak_mib=peak_mib(),
        )

    def close(self) -> None:
        """Free the network; a second call does nothing."""
        if not self._closed:
            self.engine.close()
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _warnings(self, counts: NDArray[np.int64]) -> Iterator[str]:
        if not self.bundle.manifest.weights.trained:
            yield "the weights are untrained: these labels mean nothing"
        if self._proof.version != self.engine.version:
            yield (
                f"proven with {self.engine.runtime} {self._proof.version}, "
                f"run with {self.engine.version}: export the bundle again to prove this version"
            )
        if not counts[1:].any():
            yield "nothing but background was found"


class _Stopwatch:
    """Seconds of each stage."""

    def __init__(self, **seconds: float) -> None:
        self.seconds = dict(seconds)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start


def _choose_runtime(manifest: Manifest, asked: str) -> str:
    """The runtime to run: one that is proven for this bundle; `auto` takes the fastest that is installed here."""
    proven = [name for name in ENGINES if any(proof.runtime == name and proof.proven for proof in manifest.proofs)]
    if asked == "auto":
        if not proven:
            raise BundleError(
                f"expected a proof for {' or '.join(ENGINES)} in the bundle {manifest.name!r}, found none",
                hint="export it again with one of them installed",
            )
        missing = missing_runtimes()
        usable = [name for name in proven if name not in missing]
        if not usable:
            raise UsageError(
                f"expected a runtime that is proven for the bundle {manifest.name!r} to be installed, found none",
                hint=f"run: pip install {' (or: pip install '.join(proven)}" + ")" * (len(proven) - 1),
            )
        return usable[0]
    if asked in ENGINES and asked not in proven:
        raise UsageError(
            f"expected a runtime that is proven for the bundle {manifest.name!r}, got {asked!r}",
            hint=f"proven: {', '.join(proven) or 'none'}; export the bundle again to prove it",
        )
    return asked


def _require_proven_as_run(manifest: Manifest, engine: RuntimeEngine) -> Proof:
    """The proof of this runtime on this device in this precision; the one of this very version, if there is one."""
    wanted = (engine.runtime, engine.device, engine.precision)
    proofs = [p for p in manifest.proofs if p.proven and (p.runtime, p.device, p.precision) == wanted]
    if not proofs:
        raise SegkitError(
            f"expected {engine.runtime} as it was proven, it would run on {engine.device} in {engine.precision}",
            hint="export the bundle again to prove that",
        )
    return next((proof for proof in proofs if proof.version == engine.version), proofs[0])
