"""Batches of patches, each a pure function of the seed and its place in the training."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from segkit.cards import Size
from segkit.dataset import IGNORE
from segkit.patches import extract_patch
from segkit.store import PreparedSubject

Sampler = Callable[[PreparedSubject, Size, np.random.Generator], tuple[int, int, int]]


def draw_batch(
    subjects: Sequence[PreparedSubject], sampler: Sampler, patch: Size, batch_size: int, seed: int, step: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Draw the batch of one step.

    The random numbers of a patch depend on the seed, the step and its place in the batch alone, so training that was
    interrupted goes on with the very batches it would have had.

    Args:
        subjects: prepared subjects to draw from.
        sampler: gives the start corner of a patch.
        patch: size (x, y, z) in voxels.
        batch_size: number of patches B.
        seed: seed of the training.
        step: number of the optimizer step, from 0.

    Returns:
        Images (B, C, X, Y, Z) and class indices (B, X, Y, Z), 255 = ignored or beyond the volume.
    """
    images, targets = [], []
    for place in range(batch_size):
        rng = np.random.default_rng([seed, step, place])
        subject = subjects[int(rng.integers(len(subjects)))]
        start = sampler(subject, patch, rng)
        images.append(extract_patch(subject.images, start, patch))
        target = np.full(patch, IGNORE, np.int64)
        x, y, z = (slice(s, s + p) for s, p in zip(start, patch, strict=True))
        inside = subject.label[x, y, z]
        target[: inside.shape[0], : inside.shape[1], : inside.shape[2]] = inside
        targets.append(target)
    return np.stack(images), np.stack(targets)
