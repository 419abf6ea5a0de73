"""Distances between the surfaces of two masks, and what is made of them: HD95 and surface Dice.

Two conventions are in use, and their figures differ:

- "monai": the surface is the voxels of a mask that its erosion with the 6-neighbourhood removes, outside the volume
  counting as background; each voxel counts the same. MONAI's `compute_hausdorff_distance` and `compute_surface_dice`.
- "surface-distance": the surface is marching-cubes elements between voxel centres, each counting by its area in mm^2.
  DeepMind's package surface-distance, Nikolov et al. 2021 (doi:10.2196/26151).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from segkit.errors import UnknownName
from segkit.extras import require
from segkit.patches import bounding_box

Convention = Literal["monai", "surface-distance"]
CONVENTIONS: tuple[str, ...] = get_args(Convention)

_NEAR_VOXELS = 2
"""How far the nearest element is looked for voxel by voxel, which finds nearly all of them where masks agree."""


@dataclass(frozen=True)
class Surface:
    """The surface of one mask, seen from that of the other.

    Attributes:
        distances_mm: (N,) float32, from each element to the nearest of the other surface; inf where there is none.
        areas_mm2: (N,) of each element, or None where each counts the same.
    """

    distances_mm: NDArray[np.float32]
    areas_mm2: NDArray[np.float64] | None = None


def surface_distances(
    truth: NDArray[np.bool_],
    prediction: NDArray[np.bool_],
    spacing_mm: Sequence[float],
    convention: Convention = "monai",
) -> tuple[Surface, Surface]:
    """Measure how far each element of either surface lies from the other surface, exactly.

    Args:
        truth: (X, Y, Z).
        prediction: (X, Y, Z).
        spacing_mm: voxel size (x, y, z).
        convention: what the surface is; see the module.

    Returns:
        The surface of the truth and that of the prediction.

    Raises:
        UnknownName: no such convention.
        MissingExtra: scipy, or monai for "surface-distance", is not installed.
    """
    if convention not in CONVENTIONS:
        raise UnknownName("surface convention", convention, CONVENTIONS)
    box = bounding_box(truth | prediction)
    truth, prediction = truth[box], prediction[box]
    if not (truth.any() and prediction.any()):
        return _unreached(truth), _unreached(prediction)
    if convention == "surface-distance":
        return _between_elements(truth, prediction, spacing_mm)
    edges = _edges(truth), _edges(prediction)
    return Surface(_nearest_mm(*edges, spacing_mm)), Surface(_nearest_mm(*edges[::-1], spacing_mm))


def hd95_mm(surfaces: tuple[Surface, Surface]) -> float:
    """95th percentile of the Hausdorff distance: the larger of the two directions' percentiles.

    Huttenlocher et al. 1993 (doi:10.1109/34.232073). Within a direction, MONAI's convention interpolates between ranks;
    surface-distance's takes the least distance within which 95 % of the area lies.

    Returns:
        mm; NaN where both masks are empty, inf where one is. (There MONAI's maximum is inf too; its percentile is NaN,
        from interpolating between two infinities.)
    """
    truth, prediction = surfaces
    if not (truth.distances_mm.size and prediction.distances_mm.size):
        return float("nan" if truth.distances_mm.size == prediction.distances_mm.size else "inf")
    return max(_percentile_95(truth), _percentile_95(prediction))


def surface_dice(surfaces: tuple[Surface, Surface], tolerance_mm: float) -> float:
    """Share of both surfaces that lies within a tolerance of the other one; Nikolov et al. 2021 (doi:10.2196/26151).

    Returns:
        0 to 1; NaN where both masks are empty, 0 where one is.
    """
    total = within = 0.0
    for surface in surfaces:
        areas = np.ones(surface.distances_mm.shape) if surface.areas_mm2 is None else surface.areas_mm2
        total += areas.sum()
        within += areas[surface.distances_mm <= tolerance_mm].sum()
    return float(within / total) if total else float("nan")


def _percentile_95(surface: Surface) -> float:
    if surface.areas_mm2 is None:
        return float(np.percentile(surface.distances_mm, 95))
    order = np.argsort(surface.distances_mm)
    covered = np.cumsum(surface.areas_mm2[order])
    rank = np.searchsorted(covered / covered[-1], 0.95)
    return float(surface.distances_mm[order][rank])


def _unreached(mask: NDArray[np.bool_]) -> Surface:
    """A surface with no other one to reach, or none at all: only whether it is empty matters."""
    return Surface(np.full(np.count_nonzero(mask), np.inf, np.float32))


def _edges(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Voxels of a mask with a 6-neighbour outside it, with a margin of `_NEAR_VOXELS` around the box."""
    mask = np.pad(mask, _NEAR_VOXELS)
    inner = mask.copy()
    for axis, step in product(range(3), (-1, 1)):
        inner &= np.roll(mask, step, axis)  # the margin is empty, so what is rolled in is background
    return mask & ~inner


def _nearest_mm(
    edges: NDArray[np.bool_], others: NDArray[np.bool_], spacing_mm: Sequence[float]
) -> NDArray[np.float32]:
    """Distance from each edge voxel to the nearest other one; float32, as MONAI compares them with a tolerance.

    Most edges of a fair segmentation lie within two voxels of each other: looking there offset by offset, nearest
    first, leaves few for the k-d tree, which alone would take several times as long.
    """
    require("scipy", "train", "the distance between surfaces")
    from scipy.spatial import KDTree

    spacing = np.asarray(spacing_mm, float)
    offsets = np.array(list(product(range(-_NEAR_VOXELS, _NEAR_VOXELS + 1), repeat=3)))
    lengths_mm = np.linalg.norm(offsets * spacing, axis=1)
    order = np.argsort(lengths_mm, kind="stable")
    # An offset at least this long may be beaten by one outside the cube that is looked at.
    order = order[lengths_mm[order] < (_NEAR_VOXELS + 1) * spacing.min()]
    steps = np.ravel_multi_index(tuple((offsets + _NEAR_VOXELS).T), edges.shape)
    steps -= steps[len(steps) // 2]

    other = others.ravel()
    places = np.flatnonzero(edges)
    left = np.arange(places.size)
    nearest_mm = np.empty(places.size, np.float32)
    for index in order:
        found = other[places + steps[index]]
        nearest_mm[left[found]] = lengths_mm[index]
        left, places = left[~found], places[~found]
    if left.size:
        # Points of a grid are spread evenly: a balanced tree costs more than it saves.
        tree = KDTree(np.argwhere(others) * spacing, balanced_tree=False, compact_nodes=False)
        nearest_mm[left] = tree.query(np.transpose(np.unravel_index(places, edges.shape)) * spacing)[0]
    return nearest_mm


def _between_elements(
    truth: NDArray[np.bool_], prediction: NDArray[np.bool_], spacing_mm: Sequence[float]
) -> tuple[Surface, Surface]:
    """Surfaces by MONAI's sub-voxel elements, which are those of DeepMind's package."""
    require("monai", "train", "the surface convention surface-distance")
    import torch
    from monai.metrics.utils import get_edge_surface_distance

    masks = [torch.from_numpy(np.ascontiguousarray(mask)) for mask in (truth, prediction)]
    edges, distances_mm, areas = get_edge_surface_distance(
        *masks, spacing=tuple(spacing_mm), use_subvoxels=True, symmetric=True
    )
    first, second = (
        Surface(distance.numpy(), area[edge].double().numpy())
        for edge, distance, area in zip(edges, distances_mm, areas, strict=True)
    )
    return first, second
