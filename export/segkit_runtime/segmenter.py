"""A bundle that is loaded and stays loaded: files in, labels out."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from numpy.typing import NDArray

from segkit.cards import Size
from segkit.errors import BundleError, UsageError
from segkit.inference import Spent, Tiling, run_plan
from segkit.memory import held_bytes, peak_mib
from segkit.patches import count_tiles, plan_cheapest
from segkit_runtime.budget import to_bytes, volume_bytes
from segkit_runtime.bundle import Bundle
from segkit_runtime.choice import AUTO, Opened, Wanted, choose_ways, open_fastest
from segkit_runtime.engines import RuntimeEngine
from segkit_runtime.engines.checked import CheckedEngine

if TYPE_CHECKING:
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
    budget: str | int | None = None,
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
        budget: the most main memory that this process may hold, such as "4GiB", or in bytes; None for any. A way that
            takes more is passed over, and a volume that would is refused before its voxels are read.

    Raises:
        BundleError: the bundle is altered, not signed as asked, or its weights are untrained; or nothing is proven.
        UnknownName: no such runtime or precision.
        MissingExtra: the runtime is not installed.
        UsageError: what was asked for is not proven for this bundle, it has no self-check to run, or the budget is less
            than the network takes.
        SegkitError: this machine does not compute as it was proven, or the self-check gives other labels.
    """
    start = time.perf_counter()
    budget_bytes = to_bytes(budget)
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
    wanted = Wanted(threads, selfcheck, budget_bytes)
    opened = open_fastest(bundle, choose_ways(manifest, runtime, precision, device), wanted)
    return Segmenter(bundle, opened, time.perf_counter() - start, budget_bytes)


class Segmenter:
    """A bundle's network, ready to run; made by `load`, closed by `close` or at the end of its `with` block.

    Args:
        bundle: what was loaded.
        opened: its network, and how it runs.
        load_seconds: how long loading took.
        budget_bytes: the most main memory that the process may hold, or None for any.
    """

    def __init__(self, bundle: Bundle, opened: Opened, load_seconds: float, budget_bytes: int | None = None) -> None:
        self.bundle = bundle
        self.budget_bytes = budget_bytes
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
        # With nibabel, which nothing needs before.
        from segkit_runtime.images import onto_own_grid, read_head, resampling_note, to_labels
        from segkit_runtime.result import Result

        if self._closed:
            raise UsageError("expected an open segmenter, this one is closed", hint="load the bundle again")
        manifest = self.bundle.manifest
        watch = _Stopwatch(load=self._load_seconds)
        files = {name: Path(file) for name, file in images.items()}
        patches, predicted = self._fitting_patches(files.values())
        with watch.stage("read"):
            head = read_head(files, manifest)
        spent = Spent()
        with watch.stage("infer"):
            rule = manifest.inference
            tiling = Tiling(rule.patch, rule.overlap, rule.blending)
            tiles = plan_cheapest(head.mask, patches, tiling.overlap)
            engine = CheckedEngine(self.engine, len(manifest.labels))
            labels = run_plan(
                engine, head.channels, head.mask, tiles, tiling, progress or (lambda done, total: None), spent
            )
            indices = head.volumes[0].with_data(labels)
        with watch.stage("restore"):
            indices = onto_own_grid(indices, head)
            labelled = to_labels(indices, head.original, manifest)
            counts = _count(indices.data, len(manifest.labels))
        names = [label.name for label in manifest.labels]
        return Result(
            labels=labelled,
            indices=indices,
            codes={label.name: label.code for label in manifest.labels},
            volumes_ml={name: int(counts[i]) * labelled.voxel_ml for i, name in enumerate(names) if i > 0},
            timings_s=watch.seconds,
            infer_parts_s=asdict(spent),
            patch=tiles.patch,
            tiles=len(tiles.tiles),
            tiles_skipped=count_tiles(head.mask.shape, tiles.patch, tiling.overlap) - len(tiles.tiles),
            runtime=self.engine.runtime,
            version=self.engine.version,
            device=self.engine.device,
            precision=self.engine.precision,
            output=self.engine.output,
            engine_cache=self.engine.cache,
            model_file=self._opened.way.file,
            model_sha256=self.bundle.checksums[self._opened.way.file],
            selfchecked=self._opened.selfchecked,
            bundle_name=manifest.name,
            bundle_id=self.bundle.id,
            signed_by=self.bundle.signed_by,
            signature_trusted=self.bundle.trusted,
            trained=manifest.weights.trained,
            intended_use=manifest.intended_use,
            warnings=tuple(self._warnings(counts, resampling_note(head))),
            peak_mib=peak_mib(),
            predicted_peak_mib=predicted,
        )

    def _fitting_patches(self, files: Iterable[Path]) -> tuple[tuple[Size, ...], float | None]:
        """The sizes of tiles with which a volume keeps to the budget, and the most memory in MiB it will have taken.

        Raises:
            UsageError: there is a budget and none does.
        """
        patches = self._opened.patches
        if self.budget_bytes is None:
            return patches, None
        held, manifest, files = held_bytes() or 0, self.bundle.manifest, tuple(files)
        needed = {patch: held + volume_bytes(files, manifest, patch, self.engine.batch) for patch in patches}
        fitting = tuple(patch for patch in patches if needed[patch] <= self.budget_bytes)
        if not fitting:
            least = min(needed.values())
            raise UsageError(
                f"expected a volume that is segmented within {self.budget_bytes / 2**20:,.0f} MiB, this one takes "
                f"{least / 2**20:,.0f} MiB",
                hint=f"raise the budget to {math.ceil(least / 2**30 * 10) / 10:g}GiB, or crop the images",
            )
        return fitting, round(max(needed[patch] for patch in fitting) / 2**20, 1)

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

    def _warnings(self, counts: NDArray[np.int64], resampled: str) -> Iterator[str]:
        if not self.bundle.manifest.weights.trained:
            yield "the weights are untrained: these labels mean nothing"
        yield from self._opened.warnings
        proven, found = self._opened.way.proof.version, self.engine.version
        if proven != found:
            yield f"proven with {self.engine.runtime} {proven}, run with {found}: " + (
                "the self-check passed" if self._opened.selfchecked else "export the bundle again to prove this version"
            )
        peak = peak_mib()
        if self.budget_bytes is not None and peak is not None and peak * 2**20 > self.budget_bytes:
            yield f"the process held {peak:,.0f} MiB, more than its budget of {self.budget_bytes / 2**20:,.0f} MiB"
        if resampled:
            yield resampled
        if not counts[1:].any():
            yield "nothing but background was found"


def _count(indices: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    """Voxels of each class, plane by plane: counting takes eight bytes a voxel."""
    counts = np.zeros(classes, np.int64)
    for plane in np.moveaxis(indices, int(np.argmax(np.abs(indices.strides))), 0):
        counts += np.bincount(plane.ravel(order="K"), minlength=classes)
    return counts


class _Stopwatch:
    """Seconds of each stage."""

    def __init__(self, **seconds: float) -> None:
        self.seconds = dict(seconds)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start
