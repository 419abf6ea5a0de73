from __future__ import annotations

import numpy as np
import pytest

from segkit.metrics import confusion_matrix, dice, mean_dice


def scores(truth: np.ndarray, prediction: np.ndarray, classes: int = 3) -> np.ndarray:
    return dice(confusion_matrix(truth, prediction, classes))


def test_a_perfect_prediction_scores_one_in_every_class() -> None:
    labels = np.array([0, 1, 2, 2], np.uint8)
    np.testing.assert_array_equal(scores(labels, labels), [1, 1, 1])


def test_dice_is_twice_the_overlap_over_the_sum() -> None:
    np.testing.assert_allclose(scores(np.array([1, 1, 0, 0]), np.array([1, 0, 0, 0])), [4 / 5, 2 / 3, np.nan])


def test_ignored_voxels_count_nothing() -> None:
    truth, prediction = np.array([1, 255, 0], np.uint8), np.array([1, 2, 0], np.uint8)
    np.testing.assert_array_equal(scores(truth, prediction), [1, 1, np.nan])


def test_a_class_that_only_the_prediction_has_scores_zero() -> None:
    np.testing.assert_array_equal(scores(np.array([0, 0]), np.array([0, 2]))[2], 0)


def test_the_foreground_mean_leaves_background_out_and_the_thesis_convention_does_not() -> None:
    values = np.array([1.0, 0.5, np.nan])
    assert mean_dice(values, background=False) == 0.5
    assert mean_dice(values, background=True) == 0.75


def test_the_mean_of_no_class_is_not_a_number() -> None:
    assert np.isnan(mean_dice(np.array([1.0, np.nan]), background=False))


@pytest.mark.parametrize("seed", range(3))
def test_dice_agrees_with_monai(seed: int) -> None:
    import torch
    from monai.metrics import compute_dice

    rng = np.random.default_rng(seed)
    truth, prediction = rng.integers(0, 4, (2, 9, 8, 7))
    one_hot = [torch.nn.functional.one_hot(torch.from_numpy(x), 4).movedim(-1, 0)[None] for x in (prediction, truth)]
    np.testing.assert_allclose(scores(truth, prediction, 4), compute_dice(*one_hot)[0], rtol=1e-6)
