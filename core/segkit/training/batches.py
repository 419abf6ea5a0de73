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
from segkit.errors import PluginError
from segkit.patches import repeat_edges
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
        images: (B, C, X, Y, Z) float32; the channels of a voxel lie side by side, as in `torch.channels_last_3d`.
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
        """Draw the patches of some places of a step; steps and places count from 0.

        Raises:
            PluginError: the sampler gives a corner from which a patch would leave the volume.
        """
        first, count, patch = self.subjects[0], len(places), self.patch
        images = np.empty((count, *patch, len(first.images)), np.float32)
        target = np.empty((count, *patch), np.uint8)
        weights = None if first.weights is None else np.empty((count, *patch), np.float32)
        parts: list[NDArray[Any]] = [images, target] if weights is None else [images, target, weights]
        for index, place in enumerate(places):
            philox = np.random.Philox(self._key, counter=[0, 0, place, step])  # type: ignore[arg-type]
            rng = np.random.Generator(philox)
            number = int(rng.random() * len(self.subjects))
            start = self.sampler(self.subjects[number], patch, rng)
            for part, volume in zip(parts, self._volumes.get(number) or self._open(number), strict=True):
                volume.copy(start, part[index])
            if self.augmentation is not None:
                image, weight = np.moveaxis(images[index], 3, 0), None if weights is None else weights[index]
                image[...], target[index], weight = self.augmentation(image, target[index], weight, rng)
                if weights is not None:
                    weights[index] = weight
        return Batch(images.transpose(0, 4, 1, 2, 3), target, weights)

    @cached_property
    def _key(self) -> _Key:
        return _Key(self.seed)

    @cached_property
    def _volumes(self) -> dict[int, list[_Volume]]:
        return {}

    def _open(self, number: int) -> list[_Volume]:
        subject = self.subjects[number]
        volumes = [
            _Volume(np.moveaxis(subject.images, 0, 3), self.patch, None),
            _Volume(subject.label, self.patch, IGNORE),
            *([] if subject.weights is None else [_Volume(subject.weights, self.patch, 0)]),
        ]
        self._volumes[number] = volumes
        return volumes


class _Volume:
    """A volume that patches of one size are copied from.

    To numpy a row of a patch along z is one item, whatever it holds, and a patch begins at an offset. With slices and
    views in place of offsets a patch of 28^3 takes a tenth longer.

    Args:
        array: (X, Y, Z) or (X, Y, Z, C), in C order as in the store; one in another order is copied.
        patch: size (x, y, z) in voxels.
        beyond: the value of what lies beyond the volume, or None to repeat the edge.
    """

    def __init__(self, array: NDArray[Any], patch: Size, beyond: int | None) -> None:
        self._array = np.ascontiguousarray(array)
        self._beyond = beyond
        x, y, z = (min(size, side) for size, side in zip(array.shape, patch, strict=False))
        self._inside, self._is_whole = (x, y, z), (x, y, z) == patch
        self._last = tuple(max(size - side, 0) for size, side in zip(array.shape, patch, strict=False))
        self._strides = self._array.strides[:3]
        voxel = self._strides[2]  # bytes
        self._rows, self._row = (x, y), np.dtype(f"V{z * voxel}")
        self._patch_strides = (patch[1] * patch[2] * voxel, patch[2] * voxel)

    def copy(self, start: Size, patch: NDArray[Any]) -> None:
        """Copy the patch at a corner into a C-contiguous array.

        Raises:
            PluginError: the corner is none that a sampler may give.
        """
        x, y, z = start
        last_x, last_y, last_z = self._last
        if not (0 <= x <= last_x and 0 <= y <= last_y and 0 <= z <= last_z):
            raise PluginError(
                f"expected a corner from (0, 0, 0) to {self._last} from the sampler, got {start}",
                hint="mend its plugin",
            )
        along_x, along_y, along_z = self._strides
        offset = x * along_x + y * along_y + z * along_z
        cut = np.ndarray(self._rows, self._row, self._array, offset, (along_x, along_y))
        np.ndarray(self._rows, self._row, patch, 0, self._patch_strides)[...] = cut
        if not self._is_whole:
            self._fill(patch)

    def _fill(self, patch: NDArray[Any]) -> None:
        x, y, z = self._inside
        if self._beyond is None:
            repeat_edges(np.moveaxis(patch, 3, 0), self._inside)
        else:
            patch[x:], patch[:, y:], patch[:, :, z:] = self._beyond, self._beyond, self._beyond


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
