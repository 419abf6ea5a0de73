"""A bundle that is loaded and stays loaded: files in, labels out."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from segkit.errors import BundleError, UsageError
from segkit.inference import Tiling, segment_volume
from segkit.memory import peak_mib
from segkit_runtime.bundle import Bundle
from segkit_runtime.choice import AUTO, Opened, choose_ways, open_fastest
from segkit_runtime.engines import RuntimeEngine
from segkit_runtime.engines.checked import CheckedEngine
from segkit_runtime.images import encode_codes, read_head
from segkit_runtime.result import Result

Progress = Callable[[int, int], None]


def load(
    path: str | os.PathLike[str],
    runtime: str = AUTO,
    *,
    precision: str = AUTO,
    device: str = AUTO,
    threads: int | None = None,
    allow_untrained: bool = False,
    trusted_keys: Sequence[str | os.PathLike[str]] = (),
    selfcheck: bool | Literal["auto"] = AUTO,
) -> Segmenter:
    """Check a bundle and make its network ready to run.

    Of the runtimes and precisions that are proven for the bundle, the fastest that this machine can take is taken; what
    comes before it and cannot be taken is told in the warnings of each result. What is named here is never replaced.

    Args:
        path: the bundle: a folder or a zip file.
        runtime: "openvino", "onnxruntime", "tensorrt_rtx", "tensorrt", or "auto" for any.
        precision: "fp32", "tf32", "fp16", "bf16", "int8", or "auto" for any.
        device: "cpu", "cuda:0", "cuda:1" ..., or "auto" for where it was proven.
        threads: CPU threads, or None for the runtime's own choice.
        allow_untrained: take a bundle whose weights were never trained.
        trusted_keys: files of public keys, one of which must have signed the bundle; none for a bundle as it is.
        selfcheck: whether the bundle's own patch is run first and must give its own labels. "auto" does so, if there is
            one, where the runtime is of another version than the proven one, and in int8.

    Raises:
        BundleError: the bundle is altered, not signed as asked, or its weights are untrained; or nothing is proven.
        UnknownName: no such runtime or precision.
        MissingExtra: the runtime is not installed.
        UsageError: what was asked for is not proven for this bundle, or it has no self-check to run.
        SegkitError: this machine does not compute as it was proven, or the self-check gives other labels.
    """
    start = time.perf_counter()
    bundle = Bundle.open(path, trusted_keys=trusted_keys)
    manifest = bundle.manifest
    if not (manifest.weights.trained or allow_untrained):
        raise BundleError(
            f"expected trained weights in {bundle.path}, found untrained ones, whose labels mean nothing",
            hint="train the network first, or add --allow-untrained for a trial",
        )
    if selfcheck is True and manifest.selfcheck is None:
        raise UsageError(
            f"expected a self-check in the bundle {manifest.name!r}, it has none",
            hint="export it again, or leave --selfcheck out",
        )
    opened = open_fastest(bundle, choose_ways(manifest, runtime, precision, device), threads, selfcheck)
    return Segmenter(bundle, opened, time.perf_counter() - start)


class Segmenter:
    """A bundle's network, ready to run; made by `load`, closed by `close` or at the end of its `with` block.

    Args:
        bundle: what was loaded.
        opened: its network, and how it runs.
        load_seconds: how long loading took.
    """

    def __init__(self, bundle: Bundle, opened: Opened, load_seconds: float) -> None:
        self.bundle = bundle
        self.engine: RuntimeEngine = opened.engine
        self._opened = opened
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
            model_file=self._opened.way.file,
            model_sha256=self.bundle.checksums[self._opened.way.file],
            selfchecked=self._opened.selfchecked,
            bundle_name=manifest.name,
            bundle_id=self.bundle.id,
            signed_by=self.bundle.signed_by,
            signature_trusted=self.bundle.trusted,
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
        yield from self._opened.warnings
        proven, found = self._opened.way.proof.version, self.engine.version
        if proven != found:
            yield f"proven with {self.engine.runtime} {proven}, run with {found}: " + (
                "the self-check passed" if self._opened.selfchecked else "export the bundle again to prove this version"
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
