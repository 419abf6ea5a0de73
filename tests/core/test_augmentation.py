"""Augmentation: replayable from its generator, alike for modalities, label and weights, each transform as it says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.random import default_rng
from numpy.typing import NDArray

from segkit.dataset import IGNORE
from segkit.errors import UnknownName
from segkit.training.augmentation import AUGMENTATIONS, NOISE, PROBABILITY, Augmentation

SHAPE = (16, 18, 20)
MOVING = ("flip", "affine", "elastic")
INTENSITY = ("gamma", "bias", "noise")
each = pytest.mark.parametrize("name", AUGMENTATIONS)
each_moving = pytest.mark.parametrize("name", MOVING)
each_intensity = pytest.mark.parametrize("name", INTENSITY)

Patch = tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.float32]]


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every transform acts every time."""
    for name in AUGMENTATIONS:
        monkeypatch.setitem(PROBABILITY, name, 1.0)


def patch(seed: int = 0) -> Patch:
    """Two modalities as z-score leaves them, a label with a few ignored voxels, weights from 0 up."""
    rng = default_rng(seed)
    images = rng.normal(0, 1, (2, *SHAPE)).clip(-2, 2).astype(np.float32)
    images[:, :4] = -3
    label = rng.integers(0, 4, SHAPE).astype(np.uint8)
    label[rng.random(SHAPE) < 0.05] = IGNORE
    return images, label, rng.random(SHAPE, np.float32)


def ramps(shape: Sequence[int] = SHAPE) -> NDArray[np.float32]:
    """Three modalities: in each voxel its own place along x, y and z, which linear interpolation keeps exact."""
    return np.stack(np.meshgrid(*[np.arange(n, dtype=np.float32) for n in shape], indexing="ij"))


def same(first: Sequence[Any], second: Sequence[Any]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_without_a_transform_nothing_changes() -> None:
    assert same(Augmentation((), 2)(*patch(), default_rng(0)), patch())


def test_a_transform_that_does_not_act_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in AUGMENTATIONS:
        monkeypatch.setitem(PROBABILITY, name, 0.0)
    assert same(Augmentation(AUGMENTATIONS, 2)(*patch(), default_rng(0)), patch())


def test_a_transform_acts_as_often_as_it_says() -> None:
    images = np.arange(2, dtype=np.float32).reshape(1, 2, 1, 1)
    flip, rng = Augmentation(("flip",), 2), default_rng(0)
    flipped = sum(bool(flip(images, images[0].astype(np.uint8), None, rng)[1][0, 0, 0]) for _ in range(1000))
    assert abs(flipped - 1000 * PROBABILITY["flip"]) < 80  # five standard deviations


@each
@pytest.mark.usefixtures("always")
def test_each_changes_the_patch_and_leaves_its_inputs(name: str) -> None:
    arrays = patch()
    assert not same(Augmentation((name,), 2)(*arrays, default_rng(0)), patch())
    assert same(arrays, patch())


@pytest.mark.usefixtures("always")
def test_the_same_state_gives_the_same_patch_and_another_state_another() -> None:
    augment = Augmentation(AUGMENTATIONS, 2)
    first = augment(*patch(), default_rng([1, 2]))
    assert same(augment(*patch(), default_rng([1, 2])), first)
    assert not np.array_equal(augment(*patch(), default_rng([1, 3]))[0], first[0])


def test_threads_that_share_one_augmentation_do_not_disturb_each_other() -> None:
    augment = Augmentation(AUGMENTATIONS, 2)
    alone = [augment(*patch(seed), default_rng(seed)) for seed in range(24)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda seed: augment(*patch(seed), default_rng(seed)), range(24)))
    assert all(same(a, b) for a, b in zip(alone, together, strict=True))


@each
@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
@pytest.mark.usefixtures("always")
def test_shapes_and_types_stay(name: str, dtype: type[np.integer[Any]]) -> None:
    images, label, weights = patch()
    changed = Augmentation((name,), 2)(images, label.astype(dtype), weights, default_rng(0))
    for after, before in zip(changed, (images, label.astype(dtype), weights), strict=True):
        assert after is not None
        assert after.shape == before.shape
        assert after.dtype == before.dtype


@each
@pytest.mark.usefixtures("always")
def test_without_weights_the_rest_is_the_same(name: str) -> None:
    images, label, weights = patch()
    augment = Augmentation((name,), 2)
    with_weights = augment(images, label, weights, default_rng(0))
    without = augment(images, label, None, default_rng(0))
    assert without[2] is None
    assert same(without[:2], with_weights[:2])


@pytest.mark.parametrize("name", ["flip", "affine", "elastic", "gamma", "bias"])
@pytest.mark.usefixtures("always")
def test_modalities_are_changed_alike(name: str) -> None:
    images, label, weights = patch()
    images[1] = images[0]
    changed = Augmentation((name,), 2)(images, label, weights, default_rng(0))[0]
    assert np.array_equal(changed[0], changed[1])


@pytest.mark.parametrize("names", [("affine",), ("elastic",), MOVING])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.usefixtures("always")
def test_image_label_and_weights_move_together(names: tuple[str, ...], axis: int, seed: int) -> None:
    places = ramps()
    moved, label, weights = Augmentation(names, 3)(
        places, places[axis].astype(np.uint8), places[axis].copy(), default_rng(seed)
    )
    inside = label != IGNORE
    assert inside.mean() > 0.3
    assert np.abs(moved[axis] - places[axis])[inside].max() > 0.5
    # The label is the nearest voxel of the place that the image comes from.
    assert np.abs(moved[axis] - label)[inside].max() < 0.501
    assert weights is not None
    assert np.array_equal(weights, moved[axis])
    # What is ignored comes from outside the patch, where the edge is repeated.
    last = np.array(SHAPE).reshape(3, 1, 1, 1) - 1
    assert ((moved < 1e-4) | (moved > last - 1e-4)).any(axis=0)[~inside].all()


@pytest.mark.usefixtures("always")
def test_voxels_from_far_outside_the_patch_are_ignored() -> None:
    label = np.ones((32, 32, 32), np.uint8)
    turned = Augmentation(("affine",), 3)(ramps(label.shape), label, None, default_rng(1))[1]
    assert set(np.unique(turned)) == {1, IGNORE}


@each_moving
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.usefixtures("always")
def test_ignored_voxels_stay_ignored_where_they_go(name: str, seed: int) -> None:
    places = ramps()
    label = np.zeros(SHAPE, np.uint8)
    label[:, 5:11] = IGNORE
    moved, target, _ = Augmentation((name,), 3)(places, label, None, default_rng(seed))
    came_from = moved[1]
    assert (target[(came_from > 4.501) & (came_from < 10.499)] == IGNORE).all()
    assert set(np.unique(target)) == {0, IGNORE}


@pytest.mark.usefixtures("always")
def test_flip_mirrors_the_first_axis_and_nothing_else() -> None:
    images, label, weights = patch()
    flipped = Augmentation(("flip",), 2)(images, label, weights, default_rng(0))
    assert same(flipped, (images[:, ::-1], label[::-1], weights[::-1]))


@pytest.mark.usefixtures("always")
def test_affine_keeps_the_centre_and_straight_lines() -> None:
    shape = (17, 17, 17)
    moved, _, _ = Augmentation(("affine",), 3)(ramps(shape), np.zeros(shape, np.uint8), None, default_rng(3))
    assert moved[:, 8, 8, 8] == pytest.approx(8, abs=1e-4)
    middle = moved[:, 4:13, 4:13, 4:13]
    assert np.abs(np.diff(middle, 2, axis=1)).max() < 1e-4
    steps = [np.linalg.norm(np.diff(middle, axis=axis), axis=0).ravel() for axis in (1, 2, 3)]
    assert np.ptp(np.concatenate(steps)) < 1e-4


@pytest.mark.usefixtures("always")
def test_elastic_moves_by_some_voxels_and_does_not_fold() -> None:
    shape = (40, 40, 40)
    places = ramps(shape)
    moved, _, _ = Augmentation(("elastic",), 3)(places, np.zeros(shape, np.uint8), None, default_rng(0))
    assert 1 < np.abs(moved - places).max() < 12
    inner = moved[:, 8:-8, 8:-8, 8:-8]
    steps = np.stack([np.diff(inner, axis=1 + axis)[:, :23, :23, :23] for axis in range(3)], axis=-1)
    assert (np.linalg.det(np.moveaxis(steps, 0, -2)) > 0).all()


def stripped() -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.float32]]:
    """Two modalities that are zero outside a ball, and the ball as the channel of the mask."""
    images, label, weights = patch()
    offsets = [(place - (side - 1) / 2) / 6 for place, side in zip(ramps(), SHAPE, strict=True)]
    ball = (sum(offset**2 for offset in offsets) < 1).astype(np.float32)
    return np.stack([*(images * ball), ball]), label, weights


@pytest.mark.parametrize("names", [(name,) for name in MOVING] + [MOVING])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.usefixtures("always")
def test_the_mask_moves_with_the_image(names: tuple[str, ...], seed: int) -> None:
    (_, _, ball), label, _ = stripped()
    ball[:, 8:] = 0  # no longer its own mirror image
    ball[:5] = 0
    (image, mask), _, weights = Augmentation(names, 1)(np.stack([ball, ball]), label, ball, default_rng(seed))
    assert not np.array_equal(mask, ball)
    assert np.array_equal(mask, image)
    assert weights is not None
    assert np.array_equal(mask, weights)
    assert (mask.min(), mask.max()) == (0, pytest.approx(1, abs=1e-6))


@pytest.mark.parametrize("names", [(name,) for name in INTENSITY] + [INTENSITY])
@pytest.mark.usefixtures("always")
def test_intensities_leave_the_mask_and_every_exact_zero(names: tuple[str, ...]) -> None:
    arrays = stripped()
    images, ball = arrays[0][:2], arrays[0][2]
    changed, label, weights = Augmentation(names, 2)(*arrays, default_rng(0))
    assert changed.dtype == np.float32
    assert same((changed[2], label, weights), (ball, *arrays[1:]))
    assert np.array_equal(changed[:2] == 0, images == 0)
    assert (changed[:2] != images)[images != 0].mean() > 0.9


@pytest.mark.usefixtures("always")
def test_outside_the_moved_mask_all_is_zero() -> None:
    changed, _, _ = Augmentation(AUGMENTATIONS, 2)(*stripped(), default_rng(0))
    outside = changed[2] == 0
    assert 0.3 < outside.mean() < 1
    assert not changed[:, outside].any()


@each_intensity
@pytest.mark.usefixtures("always")
def test_intensities_change_neither_label_nor_weights(name: str) -> None:
    images, label, weights = patch()
    assert same(Augmentation((name,), 2)(images, label, weights, default_rng(0))[1:], (label, weights))


@pytest.mark.usefixtures("always")
def test_gamma_keeps_order_and_ends_of_each_modality() -> None:
    images, label, _ = patch()
    images[1] = 100 * images[1] + 7
    changed, _, _ = Augmentation(("gamma",), 2)(images, label, None, default_rng(0))
    for before, after in zip(images, changed, strict=True):
        assert (np.diff(after.ravel()[np.argsort(before.ravel())]) >= 0).all()
        assert (after.min(), after.max()) == pytest.approx((before.min(), before.max()), rel=1e-5)


@pytest.mark.usefixtures("always")
def test_bias_multiplies_both_modalities_by_one_smooth_field_and_leaves_background() -> None:
    images, label, _ = patch()
    changed, _, _ = Augmentation(("bias",), 2)(images, label, None, default_rng(0))
    assert np.array_equal(changed[:, :4], images[:, :4])
    field = (changed + 3)[:, 4:] / (images + 3)[:, 4:]
    assert (field > 0).all()
    np.testing.assert_allclose(field[0], field[1], rtol=1e-3)
    assert max(np.abs(np.diff(np.log(field[0]), axis=axis)).max() for axis in range(3)) < 0.3


@pytest.mark.usefixtures("always")
def test_noise_has_one_strength_and_is_independent_from_voxel_to_voxel() -> None:
    images, label, _ = patch()
    changed, _, _ = Augmentation(("noise",), 2)(images, label, None, default_rng(0))
    noise = (changed - images).reshape(2, -1)
    first, second = noise.std(axis=1)
    assert 0 < first < 1.1 * NOISE
    assert second == pytest.approx(first, rel=0.1)
    assert abs(np.corrcoef(noise)[0, 1]) < 0.1
    assert abs(np.corrcoef(noise[:, 1:].ravel(), noise[:, :-1].ravel())[0, 1]) < 0.1


@pytest.mark.parametrize("name", ["affine", "gamma", "bias"])
@pytest.mark.usefixtures("always")
def test_a_patch_of_one_value_keeps_it(name: str) -> None:
    images = np.full((2, 8, 8, 8), -1.5, np.float32)
    changed, _, _ = Augmentation((name,), 2)(images, np.zeros((8, 8, 8), np.uint8), None, default_rng(0))
    np.testing.assert_allclose(changed, images, rtol=1e-6)


def test_an_unknown_name_is_refused_with_the_nearest_known() -> None:
    with pytest.raises(UnknownName, match=re.escape("no augmentation 'flop'; did you mean 'flip'?")):
        Augmentation(("flop",), 2)
