"""What the miniatures of data sets are made of: nested shells with the label codes of the real ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

MakeLabel = Callable[[Sequence[int], Sequence[int]], NDArray[np.uint8]]
MakeImage = Callable[[NDArray[np.uint8], Mapping[int, float]], NDArray[np.int16]]


@pytest.fixture(scope="session")
def shells() -> MakeLabel:
    """`shells(shape, codes)`: nested ellipsoids, codes[0] outermost, 0 outside."""

    def make(shape: Sequence[int], codes: Sequence[int]) -> NDArray[np.uint8]:
        axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
        radius = np.sqrt(sum(axis**2 for axis in axes))
        label = np.zeros(tuple(shape), np.uint8)
        for index, code in enumerate(codes):
            label[radius < 0.9 * (1 - index / len(codes))] = code
        return label

    return make


@pytest.fixture(scope="session")
def intensities() -> MakeImage:
    """`intensities(label, means)`: int16, noise around the mean of each code, zero where the label is."""

    def make(label: NDArray[np.uint8], means: Mapping[int, float]) -> NDArray[np.int16]:
        image = np.random.default_rng(0).normal(0, 15, label.shape)
        for code, mean in means.items():
            image[label == code] += mean
        return np.where(label > 0, np.clip(image, 1, 1000), 0).astype(np.int16)

    return make
