"""Batches: a function of seed, step and place alone, the voxels of the store, and what lies beyond it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.random import Generator
from numpy.typing import NDArray

from segkit.cards import Size
from segkit.dataset import IGNORE
from segkit.errors import PluginError
from segkit.store import PreparedSubject
from segkit.training.batches import Batch, PatchSource, Sampler, ahead

SHAPE = (9, 8, 7)


def subject(seed: int = 0, order: Any = "C", weighted: bool = True) -> PreparedSubject:
    """A subject whose arrays are in memory, where the cached properties look first."""
    rng = np.random.default_rng(seed)
    made = PreparedSubject(f"s{seed}", Path("nowhere"), (1.0, 1.0, 1.0), (1, 1, 1))
    made.__dict__.update(
        images=np.moveaxis(np.array(rng.random((*SHAPE, 2), np.float32), order=order), 3, 0),
        label=rng.integers(3, size=SHAPE, dtype=np.uint8),
        weights=np.array(rng.random(SHAPE, np.float32), order=order) if weighted else None,
    )
    return made


def corner(subject: PreparedSubject, patch: Size, rng: Generator) -> Size:
    """Any corner inside."""
    x, y, z = (int(rng.integers(max(0, s - p) + 1)) for s, p in zip(subject.shape, patch, strict=True))
    return x, y, z


def source(
    patch: Size = (3, 4, 5), seed: tuple[int, ...] = (0,), sampler: Sampler = corner, **options: Any
) -> PatchSource:
    return PatchSource([subject(0), subject(1)], sampler, patch, seed, **options)


def noise(images: Any, target: Any, weights: Any, rng: Generator) -> Any:
    """An augmentation that draws many numbers."""
    return images + rng.random(images.shape, np.float32), target, weights


def same(one: Batch, other: Batch) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(vars(one).values(), vars(other).values(), strict=True))


def numbers(steps: Iterable[int], places: Sequence[int], seed: tuple[int, ...] = (0,)) -> NDArray[np.float64]:
    """The first four numbers that a sampler gets for each patch: (N, 4)."""
    drawn: list[NDArray[np.float64]] = []

    def sampler(subject: PreparedSubject, patch: Size, rng: Generator) -> Size:
        drawn.append(rng.random(4))
        return 0, 0, 0

    patches = source((1, 1, 1), seed, sampler)
    for step in steps:
        patches.draw(step, places)
    return np.array(drawn)


class TestRandomNumbers:
    def test_a_patch_is_the_same_with_others_alone_and_in_threads(self) -> None:
        patches = source(augmentation=noise)
        whole = [patches.draw(step, range(4)) for step in range(6)]
        keys = list(itertools.product(range(6), range(4)))
        for workers in (0, 3):
            alone = ahead(lambda key: source(augmentation=noise).draw(key[0], [key[1]]), keys, workers)
            for (step, place), batch in zip(keys, alone, strict=True):
                assert same(batch, Batch(*(part[place : place + 1] for part in vars(whole[step]).values())))

    def test_seeds_steps_and_places_all_tell(self) -> None:
        steps = [*range(20), 2**32, 2**53, 2**53 + 1, 2**63 - 1]
        drawn = np.concatenate([numbers(steps, range(20), seed) for seed in ((0,), (1,), (0, 1), (1, 1))])
        assert len(np.unique(drawn)) == drawn.size

    def test_no_patch_reaches_the_numbers_of_another(self) -> None:
        seen: list[tuple[int, ...]] = []

        def sampler(subject: PreparedSubject, patch: Size, rng: Generator) -> Size:
            rng.random(1000)
            state: Any = rng.bit_generator.state
            seen.append(tuple(state["state"]["counter"].tolist()))
            return 0, 0, 0

        source(sampler=sampler).draw(5, [3, 4])
        assert seen == [(251, 0, 3, 5), (251, 0, 4, 5)]  # 4 numbers a count and one for the subject, of 2^128 counts

    def test_neighbours_are_not_correlated(self) -> None:
        for drawn in (numbers(range(4000), [0]), numbers([0], range(4000))):
            scaled = (drawn - 0.5) * np.sqrt(12)
            products = scaled[:-1, :, None] * scaled[1:, None]  # each number with each of the next patch
            assert np.abs(scaled.mean(0)).max() * np.sqrt(4000) < 5  # standard deviations
            assert np.abs(products.mean(0)).max() * np.sqrt(3999) < 5

    def test_a_generator_has_no_children_since_all_patches_would_have_the_same(self) -> None:
        def sampler(subject: PreparedSubject, patch: Size, rng: Generator) -> Size:
            rng.spawn(1)
            return 0, 0, 0

        with pytest.raises(TypeError, match="does not implement spawning"):
            source(sampler=sampler).draw(0, [0])

    def test_subjects_are_as_likely_as_each_other(self) -> None:
        batch = source((1, 1, 1), sampler=lambda *_: (0, 0, 0)).draw(0, range(2000))
        first = np.count_nonzero(batch.images[:, 0, 0, 0, 0] == subject(0).images[0, 0, 0, 0])
        assert abs(first - 1000) < 112  # five standard deviations


class TestVoxels:
    @pytest.mark.parametrize("order", ["C", "F"])
    @pytest.mark.parametrize("patch", [(3, 4, 5), (1, 1, 1), SHAPE])
    def test_they_are_those_of_the_store(self, patch: Size, order: str) -> None:
        head, starts = subject(order=order), [(0, 0, 0), tuple(np.subtract(SHAPE, patch).tolist())]
        for start in starts:
            batch = PatchSource([head], lambda *_, start=start: start, patch, (0,)).draw(0, [0])
            x, y, z = (slice(s, s + p) for s, p in zip(start, patch, strict=True))
            assert np.array_equal(batch.images[0], head.images[:, x, y, z])
            assert np.array_equal(batch.target[0], head.label[x, y, z])
            assert head.weights is not None
            assert batch.weights is not None
            assert np.array_equal(batch.weights[0], head.weights[x, y, z])

    @pytest.mark.parametrize("patch", [(12, 8, 7), (3, 11, 7), (3, 4, 10), (12, 11, 10)])
    def test_beyond_the_volume_the_edge_is_repeated_the_label_ignored_and_nothing_weighs(self, patch: Size) -> None:
        head = subject()
        batch = PatchSource([head], lambda *_: (0, 0, 0), patch, (0,)).draw(0, [0, 1])
        inside = tuple(slice(min(s, p)) for s, p in zip(SHAPE, patch, strict=True))
        beyond = np.ones(patch, np.bool_)
        beyond[inside] = False
        nearest = np.ix_(*(np.minimum(np.arange(p), s - 1) for s, p in zip(SHAPE, patch, strict=True)))
        assert batch.weights is not None
        for images, target, weights in zip(batch.images, batch.target, batch.weights, strict=True):
            assert np.array_equal(images, np.stack([image[nearest] for image in head.images]))
            assert np.array_equal(target[inside], head.label[inside])
            assert (target[beyond] == IGNORE).all()
            assert np.array_equal(weights[inside], np.asarray(head.weights)[inside])
            assert not weights[beyond].any()

    def test_without_weight_maps_there_are_none(self) -> None:
        batch = PatchSource([subject(weighted=False)], corner, (3, 4, 5), (0,)).draw(0, [0])
        assert batch.weights is None

    def test_memory_mapped_arrays_give_plain_ones(self, tmp_path: Path) -> None:
        head = subject()
        np.save(tmp_path / "images.npy", np.moveaxis(head.images, 0, 3))
        for name in ("label", "weights"):
            np.save(tmp_path / f"{name}.npy", getattr(head, name))
        mapped = PreparedSubject("s0", tmp_path, (1.0, 1.0, 1.0), (1, 1, 1), "weights.npy")
        batches = [PatchSource([one], corner, (3, 4, 5), (0,)).draw(0, [0]) for one in (head, mapped)]
        assert same(*batches)
        assert type(batches[1].images) is np.ndarray

    def test_they_lie_as_convolutions_want_them(self) -> None:
        images = torch.from_numpy(source().draw(0, range(3)).images)
        assert images.shape == (3, 2, 3, 4, 5)
        assert images.is_contiguous(memory_format=torch.channels_last_3d)

    @pytest.mark.parametrize("start", [(-1, 0, 0), (0, 5, 0), (0, 0, 3), (7, 4, 2)])
    def test_a_corner_from_which_the_patch_would_leave_the_volume_is_refused(self, start: Size) -> None:
        with pytest.raises(
            PluginError, match=r"expected a corner from \(0, 0, 0\) to \(6, 4, 2\) from the sampler, got"
        ):
            source(sampler=lambda *_: start).draw(0, [0])
