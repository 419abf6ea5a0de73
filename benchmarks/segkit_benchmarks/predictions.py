"""What a run's network makes of one labelled subject: all that the viewer and figures 70 to 73 show."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segkit.cards import Size
from segkit.dataset import IGNORE, load_input, open_dataset, read_label
from segkit.errors import UnknownName
from segkit.inference import Engine, Tiling, segment_volume
from segkit.patches import extract_patch, pad_to, plan_tiles
from segkit.registry import Registry
from segkit.run import Run
from segkit.store import hash_image
from segkit.volume import require_same_grid
from segkit_benchmarks import figures
from segkit_benchmarks.figures import Figure, Head, SlabLabels, labelled

_OVERLAP = 0.5
"""Along both axes of a slice, so that four predictions meet in most voxels, as in figure 73."""


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """What a network says of a head.

    Attributes:
        labels: (X, Y, Z) class indices of the whole volume, from tiles that overlap by `overlap`.
        corner: of the patch that holds most of the rarest class.
        logits: (K, x, y, z) of that patch, as far as it lies inside the volume.
        slab: the best slice, without and with overlap.
    """

    head: Head
    overlap: float
    labels: NDArray[np.uint8]
    corner: Size
    logits: NDArray[np.float32]
    slab: SlabLabels

    def draw(self, out: Path) -> list[Figure]:
        """Draw figures 70 to 73 into a folder, as PNG files."""
        return [
            figures.output_volumes(out, self.head, self.logits, self.corner),
            figures.predicted_slice(out, self.head, self.labels, self.overlap),
            figures.sub_volume(out, self.head, self.logits, self.corner),
            figures.overlapping(out, self.head, self.slab),
        ]


def predict(
    registry: Registry,
    run: Run,
    subject: str | None = None,
    device: str = "cpu",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Predictions:
    """Segment a labelled subject with a run's network.

    Args:
        registry: finds the network and the data set.
        run: a run that has finished an epoch.
        subject: its id, or None for the first that was held out.
        device: where torch runs.
        progress: called with the number of tiles of the whole volume that are done, and of all.

    Raises:
        DataError: the run has no weights, its data are not where they were, or a file is bad.
        UnknownName: there is no such labelled subject.
    """
    from segkit.inference.torch_engine import TorchEngine

    config = run.config
    engine = TorchEngine(run.build_network(registry), device=device)
    head = _open_head(registry, run, subject or config.held_out_subjects[0])
    labels = segment_volume(engine, head.images, head.mask, Tiling(config.patch, config.overlap), progress)
    corner = _richest_patch(head, config.patch)
    return Predictions(
        head=head,
        overlap=config.overlap,
        labels=labels,
        corner=corner,
        logits=_logits(engine, head, corner, config.patch),
        slab=_segment_slab(engine, head, config.patch),
    )


def _open_head(registry: Registry, run: Run, name: str) -> Head:
    """Read and preprocess a labelled subject as a run does.

    Raises:
        UnknownName: there is no such labelled subject.
        DataError: a file is bad.
    """
    config = run.config
    dataset = open_dataset(registry.card("dataset", config.dataset), config.data, config.dataset_options)
    subjects = {subject.id: subject for subject in dataset.labelled}
    if name not in subjects:
        raise UnknownName("labelled subject", name, subjects)
    subject = subjects[name]
    assert subject.label is not None  # noqa: S101 - labelled
    head = load_input(subject, config.modalities, config.preprocessing)
    truth = read_label(subject, config.scheme)
    require_same_grid(head.volumes[0], truth, config.modalities[0], "the label")
    return Head(
        subject=name,
        trained_on=hash_image(subject.label) in config.train_labels_sha256,
        modality=config.modalities[0],
        image=head.volumes[0].data,
        images=head.images,
        mask=head.mask,
        truth=truth.data,
        spacing_mm=truth.spacing_mm,
        classes=tuple(label.name for label in config.labels),
        best_slice=_best_slice(labelled(truth.data), head.mask),
    )


def _best_slice(foreground: NDArray[np.bool_], mask: NDArray[np.bool_]) -> int:
    """The z of the axial slice with most labelled voxels in the head; of several, the one with most of the head."""
    counts = zip((foreground & mask).sum((0, 1)).tolist(), mask.sum((0, 1)).tolist(), range(mask.shape[2]), strict=True)
    return int(max(counts)[2])


def _richest_patch(head: Head, patch: Size) -> Size:
    """Corner of the patch whose rarest class has most voxels, then the next rarest, among those that cover the head."""

    def counts(corner: Size) -> list[int]:
        inside = head.truth[tuple(slice(start, start + side) for start, side in zip(corner, patch, strict=True))]
        voxels = np.bincount(inside.ravel(), minlength=IGNORE + 1)[: len(head.classes)]
        return sorted(voxels.tolist())

    return max(plan_tiles(pad_to(head.mask, patch), patch, _OVERLAP), key=counts)


def _logits(engine: Engine, head: Head, corner: Size, patch: Size) -> NDArray[np.float32]:
    """Logits (K, x, y, z) of a patch; what reaches beyond the volume is cut off."""
    logits = engine.run(extract_patch(head.images, corner, patch)[None])[0]
    x, y, z = (size - start for size, start in zip(head.mask.shape, corner, strict=True))
    inside: NDArray[np.float32] = logits[:, :x, :y, :z].copy()
    return inside


def _segment_slab(engine: Engine, head: Head, patch: Size) -> SlabLabels:
    """Segment the best slice without and with overlap, from a slab that is one patch high: overlap is in-plane only."""
    start = min(max(0, head.best_slice - patch[2] // 2), max(0, head.mask.shape[2] - patch[2]))
    within = slice(start, start + patch[2])
    images, mask, at = head.images[..., within], head.mask[..., within], head.best_slice - start
    alone = segment_volume(engine, images, mask, Tiling(patch, 0.0, "constant"))[..., at]
    # Beyond the volume its edge is repeated, so that the rim of the head too is seen by four.
    x, y, _ = patch
    images = np.pad(images, [(0, 0), (x, x), (y, y), (0, 0)], mode="edge")
    wide = np.zeros(images.shape[1:], bool)
    wide[_span(mask, 0, x), _span(mask, 1, y)] = True
    inner = slice(x, x + mask.shape[0]), slice(y, y + mask.shape[1])
    combined = segment_volume(engine, images, wide, Tiling(patch, _OVERLAP))[(*inner, at)] * mask[..., at]
    predictions = np.zeros(wide.shape[:2], np.int64)
    for left, back, _ in plan_tiles(pad_to(wide, patch), patch, _OVERLAP):
        predictions[left : left + x, back : back + y] += 1
    return SlabLabels(alone, combined, predictions[inner])


def _span(mask: NDArray[np.bool_], axis: int, side: int) -> slice:
    """What patches half a side apart must cover so that two meet in each voxel of a mask that begins at `side`."""
    inside = np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))
    first, last = int(inside[0]), int(inside[-1])
    half = max(1, side // 2)
    begin = side + first - half
    return slice(begin, begin + side + math.ceil((last + 1 - first) / half) * half)
