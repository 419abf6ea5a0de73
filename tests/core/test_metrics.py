from __future__ import annotations

import numpy as np
import pytest

from segkit.metrics import bootstrap_interval, confusion_matrix, dice, mean_dice, merge_classes, volume_similarity


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


@pytest.mark.parametrize("seed", range(3))
def test_volume_similarity_is_one_less_the_difference_over_the_sum_of_the_volumes(seed: int) -> None:
    truth, prediction = np.random.default_rng(seed).integers(0, 4, (2, 9, 8, 7))
    first, second = (np.bincount(labels.ravel(), minlength=4) for labels in (truth, prediction))
    np.testing.assert_allclose(
        volume_similarity(confusion_matrix(truth, prediction, 4)), 1 - np.abs(first - second) / (first + second)
    )


def test_volume_similarity_is_one_wherever_the_class_lies_zero_if_missed_and_not_a_number_if_absent() -> None:
    confusion = confusion_matrix(np.array([1, 0, 2, 0]), np.array([0, 1, 0, 0]), 4)
    np.testing.assert_array_equal(volume_similarity(confusion)[1:], [1, 0, np.nan])


@pytest.mark.parametrize("merged", [(1,), (1, 3), (0, 2, 3)])
def test_a_region_counts_as_its_merged_masks_do(merged: tuple[int, ...]) -> None:
    truth, prediction = np.random.default_rng(1).integers(0, 4, (2, 9, 8, 7))
    region = merge_classes(confusion_matrix(truth, prediction, 4), merged)
    np.testing.assert_array_equal(region, confusion_matrix(np.isin(truth, merged), np.isin(prediction, merged), 2))


def test_the_interval_of_the_mean_agrees_with_scipy() -> None:
    from scipy.stats import bootstrap

    values = np.random.default_rng(3).beta(8, 2, 25)
    theirs = bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(4)).confidence_interval
    ours = bootstrap_interval(values)
    np.testing.assert_allclose(ours, theirs, atol=0.003)
    assert ours == bootstrap_interval(values)


def test_two_subjects_have_no_interval_and_three_equal_ones_have_one_of_no_width() -> None:
    assert bootstrap_interval(np.array([0.7, 0.8])) is None
    assert bootstrap_interval(np.array([0.75, 0.75, 0.75])) == (0.75, 0.75)
