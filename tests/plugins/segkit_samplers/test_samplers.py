"""Samplers: corners in range, patches with tissue, the same draw from the same seed."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
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
    made = PreparedSubject("a", Path("nowhere"), (1.0, 1.0, 1.0))
    made.__dict__.update(label=label, nonempty=np.flatnonzero((label > 0) & (label != 255)))
    return made


def sparse(shape: Size, seed: int) -> PreparedSubject:
    """A subject with one to three labelled voxels."""
    label = np.zeros(shape, np.uint8)
    rng = default_rng(seed)
    label.flat[rng.integers(label.size, size=rng.integers(1, 4))] = 2
    return subject(label)


def cut(label: NDArray[np.uint8], corner: Size, patch: Size) -> NDArray[np.uint8]:
    return label[tuple(slice(c, c + p) for c, p in zip(corner, patch, strict=True))]


@every_sampler
@given(shape=sizes, patch=sizes, seed=st.integers(0, 10**6))
def test_the_patch_lies_in_the_volume_and_starts_at_0_where_the_volume_is_smaller(
    name: str, shape: Size, patch: Size, seed: int
) -> None:
    corner = SAMPLERS[name](sparse(shape, seed), patch, default_rng(seed))
    assert all(type(c) is int for c in corner)
    assert all(0 <= c <= max(s - p, 0) for c, s, p in zip(corner, shape, patch, strict=True))


@given(shape=sizes, patch=sizes, seed=st.integers(0, 10**6))
def test_nonempty_contains_a_labelled_voxel(shape: Size, patch: Size, seed: int) -> None:
    head = sparse(shape, seed)
    corner = SAMPLERS["nonempty"](head, patch, default_rng(seed))
    assert cut(head.label, corner, patch).any()


@every_sampler
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
