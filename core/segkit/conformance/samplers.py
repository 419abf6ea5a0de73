"""Rules of samplers: corners inside, from the given random numbers and nothing else."""

from __future__ import annotations

import itertools
import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.cards import Size
from segkit.conformance.check import Candidate, Rule
from segkit.errors import PluginError
from segkit.store import PreparedSubject

_SHAPE = (41, 36, 30)
_PATCHES: tuple[Size, ...] = ((28, 28, 28), (8, 12, 30), (1, 1, 1), _SHAPE, (48, 40, 32))
"""The patch of the thesis, uneven ones, the whole volume, and one that is larger than it."""
_DRAWS = 20


@contextmanager
def _subject() -> Iterator[PreparedSubject]:
    """A subject with two classes and an ignored corner, in a folder of its own as the store writes it."""
    rng = np.random.default_rng(0)
    label = np.zeros(_SHAPE, np.uint8)
    label[5:30, 8:30, 4:20] = 1
    label[12:20, 14:22, 8:14] = 2
    label[-3:, -3:, -3:] = 255
    mask = label > 0
    images = np.stack([rng.standard_normal(_SHAPE, dtype=np.float32) * mask, mask.astype(np.float32)], axis=-1)
    nonempty = np.concatenate([np.flatnonzero(label == index) for index in (1, 2)])
    counts = tuple(int((label == index).sum()) for index in range(3))
    with tempfile.TemporaryDirectory(prefix="segkit-check-") as name:
        folder = Path(name)
        arrays: dict[str, NDArray[Any]] = {"images": images, "label": label, "mask": mask, "nonempty": nonempty}
        for file, array in arrays.items():
            np.save(folder / f"{file}.npy", array)
        yield PreparedSubject("subject", folder, (1.0, 1.0, 1.0), counts)


def _draw(sampler: Callable[..., Any], subject: PreparedSubject, patch: Size, seed: int) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [sampler(subject, patch, rng) for _ in range(_DRAWS)]


def _stays_inside(candidate: Candidate) -> str:
    sampler = candidate.card.load()()
    with _subject() as subject:
        for patch in _PATCHES:
            for corner in _draw(sampler, subject, patch, seed=1):
                _require_inside(corner, patch)
    return f"patches of {', '.join('x'.join(map(str, patch)) for patch in _PATCHES)}"


def _require_inside(corner: Any, patch: Size) -> None:
    last = tuple(max(size - side, 0) for size, side in zip(_SHAPE, patch, strict=True))
    if len(corner) != 3 or not all(0 <= at <= most for at, most in zip(corner, last, strict=True)):
        raise PluginError(
            f"expected a corner from (0, 0, 0) to {last} for a patch of {patch} in a volume of {_SHAPE}, got {corner}",
            hint="draw each from 0 to max(size - side, 0), both included: segkit pads where the volume is smaller",
        )


def _gives_plain_ints(candidate: Candidate) -> None:
    with _subject() as subject:
        (corner,) = itertools.islice(_draw(candidate.card.load()(), subject, (8, 12, 30), seed=2), 1)
    if not isinstance(corner, tuple) or not all(type(at) is int for at in corner):
        got = f"a {type(corner).__name__} of {', '.join(sorted({type(at).__name__ for at in corner}))}"
        raise PluginError(f"expected a tuple of three plain ints, got {got}", hint="return (int(x), int(y), int(z))")


def _replays(candidate: Candidate) -> None:
    with _subject() as subject:
        first = _draw(candidate.card.load()(), subject, (8, 12, 10), seed=3)
        # A sampler of its own, as another process and a resumed training have.
        again = _draw(candidate.card.load()(), subject, (8, 12, 10), seed=3)
        other = _draw(candidate.card.load()(), subject, (8, 12, 10), seed=4)
    at = next((index for index, pair in enumerate(zip(first, again, strict=True)) if pair[0] != pair[1]), None)
    if at is not None:
        raise PluginError(
            f"expected the same corners from the same random state, draw {at + 1} gives {first[at]} and {again[at]}",
            hint="draw from rng alone, and keep nothing between calls: a resumed training must see the same patches",
        )
    if first == other:
        raise PluginError(
            f"expected other corners from another random state, got {_DRAWS} times the same",
            hint="draw from rng, so that a training sees different patches",
        )


def _leaves_global_state_alone(candidate: Candidate) -> None:
    kept = np.random.get_state(), random.getstate()
    drawn = []
    try:
        with _subject() as subject:
            for seed in (1, 2):
                np.random.seed(seed)
                random.seed(seed)
                drawn.append(_draw(candidate.card.load()(), subject, (8, 12, 10), seed=5))
            moved = random.getstate() != random.Random(2).getstate()  # noqa: S311 - no secret
            moved |= bool((np.random.get_state()[1] != np.random.RandomState(2).get_state()[1]).any())  # type: ignore[index]
            moved |= np.random.get_state()[2] != np.random.RandomState(2).get_state()[2]  # type: ignore[index]
    finally:
        np.random.set_state(kept[0])
        random.setstate(kept[1])
    if drawn[0] != drawn[1] or moved:
        raise PluginError(
            "expected corners from rng alone, "
            + (
                "the global random state changes them"
                if drawn[0] != drawn[1]
                else "it draws from the global random state"
            ),
            hint="replace np.random and random by the rng that the sampler is called with",
        )


RULES = (
    Rule("inside", "corners of patches that lie in the volume", _stays_inside, needs="factory"),
    Rule("plain-ints", "a tuple of three plain ints", _gives_plain_ints, needs="inside"),
    Rule("replay", "the same corners from the same random state", _replays, needs="inside"),
    Rule("global-state", "corners from rng alone", _leaves_global_state_alone, needs="inside"),
)
