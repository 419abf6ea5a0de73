"""Batches of patches, each a pure function of the seed and its place in the training."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.random.bit_generator import ISeedSequence
from numpy.typing import NDArray

from segkit.cards import Size
from segkit.dataset import IGNORE
from segkit.patches import pad_to
from segkit.store import PreparedSubject

if TYPE_CHECKING:
    from segkit.training.augmentation import Augmentation

Key = TypeVar("Key")
Value = TypeVar("Value")

Sampler = Callable[[PreparedSubject, Size, np.random.Generator], tuple[int, int, int]]


@dataclass(frozen=True)
class Batch:
    """Patches to learn from.

    Attributes:
        images: (B, C, X, Y, Z) float32.
        target: (B, X, Y, Z) uint8 class indices, 255 = ignored or beyond the volume.
        weights: (B, X, Y, Z) float32, for losses that take them.
    """

    images: NDArray[np.float32]
    target: NDArray[np.uint8]
    weights: NDArray[np.float32] | None = None


class _Key(ISeedSequence):
    """The key of Philox generators, made once.

    A generator takes it over in 2 us, against 6 from a `SeedSequence` and 9 from `key=`, where numpy also asks the
    system for entropy: a twentieth and a tenth of the time of a patch of 28^3. It has no children, which would be the
    same for all patches.
    """

    def __init__(self, seed: Sequence[int]) -> None:
        self._words = np.random.SeedSequence(seed).generate_state(2, np.uint64)

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> NDArray[Any]:
        """Return the two words of 64 bits that Philox asks for."""
        return self._words


@dataclass(frozen=True)
class PatchSource:
    """Where batches come from.

    The random numbers of a patch depend on the seed, the step and its place in the step alone: not on the number of
    workers or processes, and a training that was interrupted goes on with the very batches it would have had. They are
    those of Philox (Salmon et al. 2011, doi 10.1145/2063384.2063405): its key is made of the seed, and each patch has
    2^128 values of its counter to itself.

    Args:
        subjects: prepared subjects to draw from, all with a weight map or none.
        sampler: gives the start corner of a patch.
        patch: size (x, y, z) in voxels.
        seed: whole numbers of 0 and above.
        augmentation: changes each patch, or None.
    """

    subjects: Sequence[PreparedSubject]
    sampler: Sampler
    patch: Size
    seed: tuple[int, ...]
    augmentation: Augmentation | None = None

    def draw(self, step: int, places: Sequence[int]) -> Batch:
        """Draw the patches of some places of a step; steps and places count from 0."""
        first = self.subjects[0]
        images = np.empty((len(places), len(first.images), *self.patch), np.float32)
        target = np.empty((len(places), *self.patch), np.uint8)
        weights = None if first.weights is None else np.empty((len(places), *self.patch), np.float32)
        for index, place in enumerate(places):
            philox = np.random.Philox(self._key, counter=[0, 0, place, step])  # type: ignore[arg-type]
            rng = np.random.Generator(philox)
            subject = self.subjects[int(rng.integers(len(self.subjects)))]
            start = self.sampler(subject, self.patch, rng)
            where = tuple(slice(s, s + p) for s, p in zip(start, self.patch, strict=True))
            # Seen as plain arrays: np.memmap's own indexing is a twentieth of the time of a patch of 28^3.
            _copy(pad_to(np.asarray(subject.images)[:, *where], self.patch), images[index])
            _copy_inside(np.asarray(subject.label)[where], target[index], IGNORE)
            if weights is not None:
                _copy_inside(np.asarray(subject.weights)[where], weights[index], 0)
            if self.augmentation is not None:
                weight = None if weights is None else weights[index]
                images[index], target[index], weight = self.augmentation(images[index], target[index], weight, rng)
                if weights is not None:
                    weights[index] = weight
        return Batch(images, target, weights)

    @cached_property
    def _key(self) -> _Key:
        return _Key(self.seed)


def _copy(cut: NDArray[Any], patch: NDArray[Any]) -> None:
    """Copy an array into one of the same shape and type.

    Where a row along z lies in one piece, as all do but for a plugin's weights, it is one item to numpy: without that a
    patch of 28^3 takes a quarter longer.
    """
    if cut.strides[-1] == cut.itemsize:
        row = f"V{cut.shape[-1] * cut.itemsize}"
        cut, patch = cut.view(row), patch.view(row)
    patch[...] = cut


def _copy_inside(cut: NDArray[Any], patch: NDArray[Any], beyond: int) -> None:
    """Copy what was cut out of a volume; what of the patch lies beyond gets a value of its own."""
    if cut.shape != patch.shape:
        patch.fill(beyond)
        x, y, z = cut.shape
        patch = patch[:x, :y, :z]
    _copy(cut, patch)


def ahead(make: Callable[[Key], Value], keys: Iterable[Key], workers: int) -> Generator[Value]:
    """Make values in the order of their keys, with some threads as many steps ahead; with none, one at a time."""
    if workers < 1:
        yield from map(make, keys)
        return
    rest = iter(keys)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="segkit-batch")
    try:
        waiting: deque[Future[Value]] = deque(pool.submit(make, key) for key in islice(rest, workers + 1))
        while waiting:
            value = waiting.popleft().result()
            waiting.extend(pool.submit(make, key) for key in islice(rest, 1))
            yield value
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
