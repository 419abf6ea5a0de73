"""Augmentation: random changes of a patch that leave what it shows believable, so that a network sees more heads.

Whatever is random is drawn once per patch, from the generator that is handed in, and applied alike to all modalities,
the label and the weights. Nothing is kept between calls, so several threads may share one `Augmentation`.

Resampling, gamma and bias field are monai's. Its elastic deformation is not the U-Net's, and costs more than a training
step; so that field is made here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from segkit.dataset import IGNORE
from segkit.errors import UnknownName
from segkit.extras import require

Image = NDArray[np.float32]

PROBABILITY = {"flip": 0.5, "affine": 0.3, "elastic": 0.3, "gamma": 0.3, "bias": 0.3, "noise": 0.3}
"""How often each transform acts on a patch, 0 to 1. They act in this order."""

AUGMENTATIONS = tuple(PROBABILITY)
"""The names of the transforms."""

ROTATION_DEGREES = 15.0
"""Largest angle about each axis, either way."""

SCALE = 1.15
"""Largest magnification, the same along all axes; its inverse is the smallest."""

ELASTIC_SPACING_VOXELS = 32
ELASTIC_SIGMA_VOXELS = 4.0
"""Distance of the control points, and standard deviation of their displacement along each axis, as the 3D U-Net has."""

GAMMA = 1.5
"""Largest exponent; its inverse is the smallest."""

BIAS = 0.2
"""Largest coefficient of the logarithm of the bias field, a sum of Legendre polynomials."""

NOISE = 0.15
"""Largest standard deviation of the noise, in the units of the image: under z-score, those of the brain's spread."""


class Augmentation:
    """Changes patches at random.

    - flip: mirrors the first axis, left and right in canonical orientation; heads are nearly symmetric that way only.
    - affine: rotates about the centre of the patch and magnifies. In voxels: where they are no cubes, that shears.
    - elastic: the 3D U-Net's (Çiçek et al. 2016, section 3, doi 10.1007/978-3-319-46723-8_49), a B-spline whose control
      points are displaced at random.
    - gamma: a power of the intensities, rescaled to 0 to 1 for it, modality by modality; darkest and brightest stay.
    - bias: a smooth field multiplies the intensities (Van Leemput et al. 1999, doi 10.1109/42.811270).
    - noise: Gaussian, independent from voxel to voxel.

    A field multiplies what a scanner measures, where no signal is 0. So the darkest voxel of each modality is taken for
    0, which it is wherever the patch holds background that z-score left below the tissues. Background at exactly 0 is
    no signal, and stays 0 whatever acts on the intensities.

    Affine and elastic share one interpolation: linear for images and weights, nearest for the label. What comes from
    outside the patch repeats the edge in images and weights, and is ignored in the label.

    Args:
        names: transforms that may act, from `AUGMENTATIONS`.
        modalities: number of channels that hold intensities; one after them is a mask, which is only moved.

    Raises:
        UnknownName: there is no such transform.
        MissingExtra: monai is not installed.
    """

    def __init__(self, names: Sequence[str], modalities: int) -> None:
        for name in names:
            if name not in AUGMENTATIONS:
                raise UnknownName("augmentation", name, AUGMENTATIONS)
        require("monai", "train", "augmentation")
        self._names = frozenset(names)
        self._modalities = modalities

    def __call__(
        self, images: Image, target: NDArray[np.integer], weights: Image | None, rng: Generator
    ) -> tuple[Image, NDArray[np.integer], Image | None]:
        """Change one patch; the arrays handed in stay as they are.

        Args:
            images: (C, X, Y, Z) float32.
            target: (X, Y, Z) class indices, 255 = ignored.
            weights: (X, Y, Z) float32, or None.
            rng: whatever is random comes from here.

        Returns:
            The same three, with the same shapes and types.
        """
        acting = {name for name in AUGMENTATIONS if name in self._names and rng.random() < PROBABILITY[name]}
        # Weights are one more channel for what moves voxels.
        channels = images if weights is None else np.concatenate([images, weights[None]])
        if "flip" in acting:
            channels, target = np.flip(channels, 1).copy(), np.flip(target, 0).copy()
        if acting & {"affine", "elastic"}:
            channels, target = _move(channels, target, acting, rng)
        images, mask = channels[: self._modalities], channels[self._modalities : len(images)]
        empty = images == 0
        for name, change in (("gamma", _gamma), ("bias", _bias), ("noise", _noise)):
            if name in acting:
                images = change(images, rng)
        images = np.concatenate([np.where(empty, np.float32(0), images), mask])
        return images, target, None if weights is None else channels[-1]


def _move(
    channels: Image, target: NDArray[np.integer], acting: set[str], rng: Generator
) -> tuple[Image, NDArray[np.integer]]:
    from monai.transforms import AffineGrid, Resample

    affine = {}
    if "affine" in acting:
        radians = math.radians(ROTATION_DEGREES)
        affine["rotate_params"] = rng.uniform(-radians, radians, 3).tolist()
        affine["scale_params"] = [_factor(SCALE, rng)] * 3
    # Where each voxel comes from, in voxels from the centre of the patch.
    grid = AffineGrid(**affine)(target.shape)[0].numpy()
    if "elastic" in acting:
        grid[:3] += _elastic_displacement(target.shape, rng)
    moved = Resample(mode="bilinear", padding_mode="border", dtype=np.float32)(channels, grid)
    # Outside there are zeros, so the code of the ignored is moved to zero and back.
    codes = target[None].astype(np.float32) - IGNORE
    labels = Resample(mode="nearest", padding_mode="zeros", dtype=np.float32)(codes, grid)
    return moved.numpy(), (labels[0].numpy() + IGNORE).astype(target.dtype)


def _elastic_displacement(shape: Sequence[int], rng: Generator) -> Image:
    """A smooth field of displacements (3, X, Y, Z), in voxels: cubic B-splines on a grid of control points."""
    from scipy.interpolate import BSpline

    bases, points = [], []
    for size in shape:
        spans = max(1, round(size / ELASTIC_SPACING_VOXELS))
        places = (np.arange(size) + 0.5) * spans / size
        bases.append(BSpline.design_matrix(places, np.arange(-3.0, spans + 4), 3).toarray().astype(np.float32))
        points.append(spans + 3)
    displacements = rng.normal(0, ELASTIC_SIGMA_VOXELS, (3, *points)).astype(np.float32)
    field: Image = np.einsum("cijk,xi,yj,zk->cxyz", displacements, *bases, optimize=True)
    return field


def _gamma(images: Image, rng: Generator) -> Image:
    from monai.transforms import AdjustContrast

    change = AdjustContrast(_factor(GAMMA, rng))
    return np.stack([change(image).numpy() for image in images])


def _bias(images: Image, rng: Generator) -> Image:
    from monai.transforms import RandBiasField

    field = RandBiasField(degree=3, coeff_range=(-BIAS, BIAS), prob=1.0)
    field.set_random_state(seed=int(rng.integers(2**32)))
    darkest = images.min(axis=(1, 2, 3), keepdims=True)
    biased: Image = (images - darkest) * field(np.ones_like(images[:1])).numpy() + darkest
    return biased


def _noise(images: Image, rng: Generator) -> Image:
    strength = np.float32(rng.uniform(0, NOISE))
    return images + strength * rng.standard_normal(images.shape, np.float32)


def _factor(largest: float, rng: Generator) -> float:
    """Draw from 1 / largest to largest, either side of 1 as likely."""
    return float(largest ** rng.uniform(-1, 1))
