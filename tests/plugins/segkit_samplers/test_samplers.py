"""Samplers: corners in range, patches with tissue, the same draw from the same seed."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import default_rng
from numpy.typing import NDArray

from segkit.cards import Size
from segkit.store import PreparedSubject
from segkit_samplers import segkit_samplers

SAMPLERS: dict[str, Any] = {card.name: card.load()() for card in segkit_samplers()}

sizes = st.tuples(*[st.integers(1, 12)] * 3)
every_sampler = pytest.mark.parametrize("name", SAMPLERS)


def subject(label: NDArray[np.uint8]) -> PreparedSubject:
    """A subject whose arrays are in memory, where the cached properties look first."""
    counts = np.bincount(label[label != 255], minlength=4)
    made = PreparedSubject("a", Path("nowhere"), (1.0, 1.0, 1.0), tuple(counts.tolist()))
    by_class = [np.flatnonzero(label == index) for index in range(1, len(counts))]
    made.__dict__.update(label=label, nonempty=np.concatenate(by_class))
    return made


def sparse(shape: Size, seed: int) -> PreparedSubject:
    """A subject with one to three labelled voxels of one to three classes."""
    label = np.zeros(shape, np.uint8)
    rng = default_rng(seed)
    places = rng.integers(label.size, size=rng.integers(1, 4))
    label.flat[places] = rng.integers(1, 4, len(places))
    return subject(label)


def cut(label: NDArray[np.uint8], corner: Size, patch: Size) -> NDArray[np.uint8]:
    return label[tuple(slice(c, c + p) for c, p in zip(corner, patch, strict=True))]


@every_sampler
@settings(deadline=None)  # a machine at work may halt any call
@given(shape=sizes, patch=sizes, seed=st.integers(0, 10**6))
def test_the_patch_lies_in_the_volume_and_starts_at_0_where_the_volume_is_smaller(
    name: str, shape: Size, patch: Size, seed: int
) -> None:
    corner = SAMPLERS[name](sparse(shape, seed), patch, default_rng(seed))
    assert all(type(c) is int for c in corner)
    assert all(0 <= c <= max(s - p, 0) for c, s, p in zip(corner, shape, patch, strict=True))


@pytest.mark.parametrize("name", ["nonempty", "class-balanced"])
@settings(deadline=None)  # a machine at work may halt any call
@given(shape=sizes, patch=sizes, seed=st.integers(0, 10**6))
def test_the_patch_contains_a_labelled_voxel(name: str, shape: Size, patch: Size, seed: int) -> None:
    head = sparse(shape, seed)
    corner = SAMPLERS[name](head, patch, default_rng(seed))
    assert cut(head.label, corner, patch).any()


@every_sampler
def test_patches_of_28_are_found_in_a_head_with_one_labelled_voxel(name: str) -> None:
    # A published sampler waits for a patch with a tenth of the head's labelled voxels, and waits for ever.
    label = np.zeros((256, 192, 144), np.uint8)
    label[200, 3, 143] = 1
    head, rng = subject(label), default_rng(0)
    corners = [SAMPLERS[name](head, (28, 28, 28), rng) for _ in range(20)]
    assert all(cut(label, corner, (28, 28, 28)).shape == (28, 28, 28) for corner in corners)
    if name in ("nonempty", "class-balanced"):
        assert all(cut(label, corner, (28, 28, 28)).any() for corner in corners)


@every_sampler
@settings(deadline=None)
@given(seed=st.integers(0, 10**6))
def test_the_same_state_gives_the_same_corners(name: str, seed: int) -> None:
    head = sparse((9, 8, 7), seed)
    rng = default_rng(seed)
    SAMPLERS[name](head, (2, 3, 4), rng)
    state = rng.bit_generator.state
    first = [SAMPLERS[name](head, (2, 3, 4), rng) for _ in range(5)]
    rng.bit_generator.state = state
    assert [SAMPLERS[name](head, (2, 3, 4), rng) for _ in range(5)] == first


def test_uniform_reaches_every_corner_equally() -> None:
    head, rng = sparse((4, 3, 2), 0), default_rng(0)
    drawn = Counter(SAMPLERS["uniform"](head, (2, 2, 2), rng) for _ in range(6000))
    assert set(drawn) == set(itertools.product(range(3), range(2), range(1)))
    assert all(abs(times - 1000) < 150 for times in drawn.values())  # five standard deviations


def test_nonempty_reaches_every_patch_with_the_voxel_equally_and_no_other() -> None:
    label = np.zeros((5, 5, 5), np.uint8)
    label[2, 2, 0] = 3
    head, rng = subject(label), default_rng(0)
    drawn = Counter(SAMPLERS["nonempty"](head, (2, 2, 2), rng) for _ in range(4000))
    assert set(drawn) == set(itertools.product((1, 2), (1, 2), (0,)))
    assert all(abs(times - 1000) < 150 for times in drawn.values())


def test_nonempty_passes_over_ignored_voxels() -> None:
    label = np.full((6, 6, 6), 255, np.uint8)
    label[0, 0, 0] = 1
    rng = default_rng(0)
    assert {SAMPLERS["nonempty"](subject(label), (2, 2, 2), rng) for _ in range(50)} == {(0, 0, 0)}


def test_class_balanced_draws_every_class_that_is_there_equally_and_its_voxels_too() -> None:
    label = np.zeros((12, 12, 12), np.uint8)
    label[0] = 1  # 144 voxels
    label[11, 0, :2] = 3  # 2 voxels; class 2 has none
    label[5] = 255
    head, rng = subject(label), default_rng(0)
    drawn = Counter(SAMPLERS["class-balanced"](head, (1, 1, 1), rng) for _ in range(4000))
    assert {label[corner] for corner in drawn} == {1, 3}
    assert all(abs(drawn[(11, 0, z)] - 1000) < 150 for z in range(2))  # five standard deviations
    assert len([corner for corner in drawn if label[corner] == 1]) == 144


def test_grid_reaches_each_corner_of_the_non_overlapping_grid_equally_and_no_other() -> None:
    head, rng = subject(np.ones((8, 4, 3), np.uint8)), default_rng(0)
    drawn = Counter(SAMPLERS["grid"](head, (2, 4, 5), rng) for _ in range(4000))
    assert set(drawn) == {(x, 0, 0) for x in (0, 2, 4, 6)}
    assert all(abs(times - 1000) < 150 for times in drawn.values())


@settings(max_examples=40, deadline=None)
@given(shape=sizes, patch=st.tuples(*[st.integers(4, 12)] * 3))
def test_grid_covers_every_voxel(shape: Size, patch: Size) -> None:
    head, rng = subject(np.ones(shape, np.uint8)), default_rng(0)
    corners = {SAMPLERS["grid"](head, patch, rng) for _ in range(500)}
    assert len(corners) == math.prod(math.ceil(s / p) for s, p in zip(shape, patch, strict=True))
    seen = np.zeros(shape, np.uint8)
    for corner in corners:
        cut(seen, corner, patch)[:] = 1
    assert seen.all()
