"""Recipes: the settings of a training that nobody chose by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segkit.cards import Size

SMALL_PATCH_VOXELS = 35**3
"""Up to this size a network is trained on many small patches, as the thesis trained its DenseNets."""

_COMMON: Mapping[str, Any] = {
    "sampler": "nonempty",
    "background": "mask",
    "augmentation": (),
    "weight_decay": 1e-8,
    "precision": "fp32",
    "batch_size": 1,
    "accumulation": 1,
    "patience": 0,
    "seed": 0,
}

OPTIMIZERS: Mapping[str, Mapping[str, Any]] = {
    "sgd": {"learning_rate": 1e-3, "schedule": "constant", "momentum": 0.9},
    "adamw": {"learning_rate": 2e-3, "schedule": "cosine", "momentum": 0.9},
}
"""What goes with an optimizer. SGD's rate is the thesis'; AdamW's suits networks of a few million parameters."""


def segkit_recipe(patch: Size) -> dict[str, Any]:
    """What people do today."""
    return {
        **_COMMON,
        "loss": "dice-ce",
        "optimizer": "adamw",
        "epochs": 50,
        "patches_per_epoch": 500,
        "validation_patches": 10,
        "fixed_patches": False,
        "overlap": 0.5,
        "hold_out": None,
    }


def thesis_recipe(patch: Size) -> dict[str, Any]:
    """The protocol of Adaloglou 2019 (MSc thesis, Patras), section 6.1.

    The first subject is held out; 500 non-empty patches are drawn once from the others and 10 for validation, or 2000
    and 50 of the DenseNets' small ones; SGD at batch size 1, rate 1e-3, weight decay 1e-8; tiles do not overlap. The
    text gives 120 to 400 epochs "based on the models and the dataset"; 200 are taken here. It gives neither loss
    nor momentum nor the place of the background: those of its public code are taken, Dice, 0.5 and "below".
    """
    x, y, z = patch
    small = x * y * z <= SMALL_PATCH_VOXELS
    return {
        **_COMMON,
        "loss": "dice",
        "background": "below",
        "optimizer": "sgd",
        "momentum": 0.5,
        "epochs": 200,
        "patches_per_epoch": 2000 if small else 500,
        "validation_patches": 50 if small else 10,
        "fixed_patches": True,
        "overlap": 0.0,
        "hold_out": 1,
    }


RECIPES = {"segkit": segkit_recipe, "thesis": thesis_recipe}


def settings(recipe: str, patch: Size, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of a training.

    Args:
        recipe: one of `RECIPES`.
        patch: size (x, y, z) in voxels.
        chosen: settings by name; None leaves one to the recipe.
    """
    given = {name: value for name, value in chosen.items() if value is not None}
    taken = {**RECIPES[recipe](patch), **given}
    return {**OPTIMIZERS[taken["optimizer"]], **taken}


def fit_patch(patch: Size, multiple: int, shape: Size) -> Size:
    """Halve the sides of a network's own patch until they fit into a volume, as the thesis did for thick slices.

    Args:
        patch: size (x, y, z) in voxels.
        multiple: each side stays a multiple of it.
        shape: of the smallest volume.
    """
    fitted = list(patch)
    for axis, length in enumerate(shape):
        while fitted[axis] > length and fitted[axis] % (2 * multiple) == 0:
            fitted[axis] //= 2
    x, y, z = fitted
    return x, y, z
