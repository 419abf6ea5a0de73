from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segkit.errors import UsageError
from segkit.fakes import FakeEngine
from segkit.inference import Tiling, segment_volume


class Place(FakeEngine):
    """Says 1 in the middle of its patch and 2 at its border, loudly: shows who won where patches overlap."""

    def run(self, patches: np.ndarray) -> np.ndarray:
        logits = np.zeros((len(patches), 3, *patches.shape[2:]), np.float32)
        logits[:, 2] = 1
        logits[:, :, 2:-2, 2:-2, 2:-2] = 0
        logits[:, 1, 2:-2, 2:-2, 2:-2] = 1
        return logits


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(*[st.integers(3, 23)] * 3),
    st.tuples(*[st.sampled_from([4, 7, 8, 16])] * 3),
    st.sampled_from([0.0, 0.25, 0.5, 0.75]),
    st.sampled_from(["gaussian", "constant"]),
    st.integers(0, 2**32 - 1),
)
def test_tiling_never_changes_what_a_voxelwise_network_says(shape, patch, overlap, blending, seed) -> None:
    images = np.random.default_rng(seed).standard_normal((2, *shape), dtype=np.float32)
    labels = segment_volume(FakeEngine(), images, np.ones(shape, bool), Tiling(patch, overlap, blending))
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, images[0] > 0)


def test_patches_without_signal_are_not_run_and_voxels_without_signal_are_background() -> None:
    images = np.ones((1, 32, 32, 32), np.float32)
    mask = np.zeros((32, 32, 32), bool)
    mask[:6, :6, :6] = True
    engine = FakeEngine()
    labels = segment_volume(engine, images, mask, Tiling((8, 8, 8), 0.0))
    assert engine.calls == 1
    np.testing.assert_array_equal(labels, mask)


def test_a_volume_without_signal_is_background_and_runs_nothing() -> None:
    engine = FakeEngine()
    labels = segment_volume(engine, np.ones((1, 9, 9, 9), np.float32), np.zeros((9, 9, 9), bool), Tiling((4, 4, 4)))
    assert engine.calls == 0
    assert not labels.any()


def test_gaussian_blending_trusts_the_middle_of_a_patch_over_the_border_of_its_neighbour() -> None:
    images, mask = np.zeros((1, 20, 20, 20), np.float32), np.ones((20, 20, 20), bool)
    blended = segment_volume(Place(), images, mask, Tiling((12, 12, 12), 0.5, "gaussian"))
    assert (blended[4:-4, 4:-4, 4:-4] == 1).all()
    assert (blended[0] == 2).all()


def test_progress_ends_at_the_number_of_tiles() -> None:
    seen = []
    images, mask = np.zeros((1, 16, 8, 8), np.float32), np.ones((16, 8, 8), bool)
    segment_volume(FakeEngine(), images, mask, Tiling((8, 8, 8), 0.0), lambda *args: seen.append(args))
    assert seen == [(1, 2), (2, 2)]  # one row of tiles after the other


@pytest.mark.parametrize("overlap", [-0.1, 0.8])
def test_an_overlap_out_of_range_is_refused(overlap: float) -> None:
    with pytest.raises(UsageError, match=r"expected an overlap from 0 to 0\.75, got"):
        Tiling((8, 8, 8), overlap)


def test_an_unknown_blending_is_refused() -> None:
    with pytest.raises(UsageError, match="expected the blending gaussian or constant, got 'median'"):
        Tiling((8, 8, 8), 0.5, "median")  # type: ignore[arg-type]
