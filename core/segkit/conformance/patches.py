"""Small patches that a network must take."""

from __future__ import annotations

import math

from segkit.cards import Size

_LEAST_VOXELS = 8


def small_patch(multiple: int) -> Size:
    """Return three different sides, the smallest multiples from 8 voxels up."""
    shortest = _shortest(multiple)
    return shortest, shortest + multiple, shortest + 2 * multiple


def minimal_patch(multiple: int) -> Size:
    """Return the smallest patch: from 8 voxels up, one side longer, since torch refuses a norm over one voxel."""
    shortest = _shortest(multiple)
    return shortest, shortest, shortest + multiple


def even_patch(multiple: int) -> Size:
    """Return three different even sides."""
    return small_patch(multiple if multiple % 2 == 0 else 2 * multiple)


def odd_patch(multiple: int) -> Size | None:
    """Return three different odd sides, or None where no multiple is odd."""
    if multiple % 2 == 0:
        return None
    factor = math.ceil(_LEAST_VOXELS / multiple) | 1
    return factor * multiple, (factor + 2) * multiple, (factor + 4) * multiple


def _shortest(multiple: int) -> int:
    return math.ceil(_LEAST_VOXELS / multiple) * multiple
