"""The border weight map against the formula, with distances from every voxel to every other."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from segkit.cards import load_attribute
from segkit_losses import segkit_losses

IGNORE = 255
CARD = next(card for card in segkit_losses() if card.weight_map)
assert CARD.weight_map is not None
weight_map = load_attribute(CARD.weight_map)

labels = st.builds(
    lambda shape, classes, seed: np.random.default_rng(seed).choice(np.array(classes, np.uint8), shape),
    st.tuples(*[st.integers(1, 6)] * 3),
    st.lists(st.sampled_from([0, 1, 2, 5, IGNORE]), min_size=1, max_size=5),
    st.integers(0, 10**6),
)
spacings = st.tuples(*[st.sampled_from([0.5, 1.0, 3.0])] * 3)


def by_the_formula(
    label: NDArray[np.uint8], spacing_mm: tuple[float, float, float], w0: float, sigma_mm: float
) -> NDArray[np.float64]:
    """The documented weights, voxel by voxel."""
    places = {index: np.argwhere(label == index) * spacing_mm for index in np.unique(label[label != IGNORE])}
    voxels = sum(len(found) for found in places.values())
    weights = np.zeros(label.shape)
    for voxel in itertools.product(*map(range, label.shape)):
        own = label[voxel]
        if own == IGNORE:
            continue
        weights[voxel] = voxels / (len(places) * len(places[own]))
        here = np.array(voxel) * spacing_mm
        distances = sorted(
            np.linalg.norm(found - here, axis=1).min() for index, found in places.items() if index != own
        )
        if distances:
            weights[voxel] += w0 * math.exp(-((distances[0] + distances[:2][-1]) ** 2) / (2 * sigma_mm**2))
    return weights


@settings(max_examples=60, deadline=None)
@given(label=labels, spacing_mm=spacings)
def test_weights_follow_the_formula(label: NDArray[np.uint8], spacing_mm: tuple[float, float, float]) -> None:
    weights = weight_map(label, spacing_mm, **{**CARD.options, "sigma_mm": 2.0})
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights, by_the_formula(label, spacing_mm, 10.0, 2.0), rtol=1e-5)


def test_a_thin_layer_weighs_more_than_a_thick_one() -> None:
    label = np.zeros((40, 4, 4), np.uint8)
    label[10:12] = 1  # 2 mm thick, between 0 and 2
    label[12:30] = 2
    label[30:] = 1
    weights = weight_map(label, (1.0, 1.0, 1.0))
    # d1 + d2: 1 + 2 in the thin layer; 1 + 21 behind the thick one.
    balance = 40 / (3 * 12)
    assert weights[10, 0, 0] == pytest.approx(balance + 10 * math.exp(-9 / 50), rel=1e-5)
    assert weights[30, 0, 0] == pytest.approx(balance + 10 * math.exp(-484 / 50), rel=1e-5)


def test_classes_are_balanced_without_the_border_term() -> None:
    label = np.array([0, 0, 0, 0, 0, 1, 1, 2, IGNORE, IGNORE], np.uint8).reshape(10, 1, 1)
    weights = weight_map(label, (1.0, 1.0, 1.0), w0=0.0)
    assert weights[:, 0, 0] == pytest.approx([8 / 15] * 5 + [8 / 6] * 2 + [8 / 3] + [0] * 2)
    assert weights.sum() == pytest.approx(8)


def test_a_map_is_the_same_for_a_label_that_is_read_only_and_not_contiguous() -> None:
    label = np.random.default_rng(0).integers(0, 3, (6, 5, 4)).astype(np.uint8)
    turned = label.transpose(2, 0, 1)
    turned.flags.writeable = False
    expected = weight_map(np.ascontiguousarray(turned), (1.0, 2.0, 3.0))
    assert np.array_equal(weight_map(turned, (1.0, 2.0, 3.0)), expected)
