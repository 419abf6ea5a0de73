from __future__ import annotations

import time

import numpy as np
import pytest
import torch
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


class Labels(FakeEngine):
    """Finds the largest class itself."""

    def run(self, patches: np.ndarray) -> np.ndarray:
        return super().run(patches).argmax(1).astype(np.uint8)


class Hasty(FakeEngine):
    """Takes a different time for each batch, and gives its answers in two arrays in turn, as real engines do."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = [np.empty(0), np.empty(0)]

    def run(self, patches: np.ndarray) -> np.ndarray:
        time.sleep(0.003 * (self.calls % 3))
        answer = self.answers[self.calls % 2]
        logits = super().run(patches)
        if answer.shape != logits.shape:
            answer = self.answers[(self.calls - 1) % 2] = logits.copy()
        answer[...] = logits
        return answer


class Inner(FakeEngine):
    """A random convolution network that says nothing of voxels whose surroundings it does not see."""

    def __init__(self, seed: int, reach: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.reach = reach
        layers = [
            [torch.nn.Conv3d(4 if i else 1, 4, 3), torch.nn.BatchNorm3d(4), torch.nn.ReLU()] for i in range(reach)
        ]
        self.network = torch.nn.Sequential(
            *(layer for three in layers for layer in three), torch.nn.Conv3d(4, 3, 1)
        ).eval()

    def run(self, patches: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            seen = self.network(torch.from_numpy(patches))
        return torch.nn.functional.pad(seen, [self.reach] * 6).numpy()


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.tuples(*[st.integers(8, 18)] * 3),
    st.tuples(*[st.sampled_from([8, 9, 12])] * 3),
    st.sampled_from([(1, 0.25), (1, 0.5), (2, 0.5), (2, 0.75)]),
    st.sampled_from(["gaussian", "constant"]),
)
def test_tiles_that_overlap_enough_say_what_the_network_says_of_the_volume_as_a_whole(
    seed, shape, patch, kind, blending
) -> None:
    """A network without global operations: what it sees of a voxel is the same in every tile that sees all of it."""
    reach, overlap = kind
    engine = Inner(seed, reach)
    shape = tuple(max(n, side) for n, side in zip(shape, patch, strict=True))
    images = np.random.default_rng(seed).standard_normal((1, *shape), dtype=np.float32)
    labels = segment_volume(engine, images, np.ones(shape, bool), Tiling(patch, overlap, blending))
    inside = tuple(slice(reach, n - reach) for n in shape)
    logits = np.sort(engine.run(images[None])[0], axis=0)[(slice(None), *inside)]
    whole = engine.run(images[None])[0].argmax(0)[inside]
    unsure = logits[-1] - logits[-2] < 1e-4  # rounding decides
    np.testing.assert_array_equal(np.where(unsure, whole, labels[inside]), whole)


@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_the_answer_does_not_depend_on_how_long_the_engine_takes(overlap: float) -> None:
    images = np.random.default_rng(0).standard_normal((1, 30, 20, 25), dtype=np.float32)
    for _ in range(3):
        labels = segment_volume(Hasty(), images, np.ones(images.shape[1:], bool), Tiling((8, 8, 8), overlap))
        np.testing.assert_array_equal(labels, images[0] > 0)


@pytest.mark.parametrize("shape", [(17, 30, 9), (5, 6, 30), (3, 3, 3)])
def test_labels_of_an_engine_are_stitched_to_what_its_logits_give(shape) -> None:
    images, mask = np.random.default_rng(0).standard_normal((1, *shape), dtype=np.float32), np.ones(shape, bool)
    labels = segment_volume(Labels(), images, mask, Tiling((8, 8, 8), 0.0))
    np.testing.assert_array_equal(labels, segment_volume(FakeEngine(), images, mask, Tiling((8, 8, 8), 0.0)))


def test_labels_of_an_engine_cannot_be_blended() -> None:
    with pytest.raises(UsageError, match="expected logits where tiles overlap, got labels; open the engine for logits"):
        segment_volume(Labels(), np.zeros((1, 9, 9, 9), np.float32), np.ones((9, 9, 9), bool), Tiling((8, 8, 8), 0.5))


def test_without_overlap_the_tile_whose_middle_is_nearest_tells_a_voxel() -> None:
    images, mask = np.zeros((1, 20, 12, 12), np.float32), np.ones((20, 12, 12), bool)
    labels = segment_volume(Place(), images, mask, Tiling((12, 12, 12), 0.0))
    # Tiles at 0 and 8 have four voxels in common: each tells the two next to it, and all but their borders say 1.
    assert (labels[2:18, 2:-2, 2:-2] == 1).all()


def test_an_engine_that_fails_ends_the_volume_with_its_error() -> None:
    class Failing(FakeEngine):
        def run(self, patches: np.ndarray) -> np.ndarray:
            if self.calls:
                raise MemoryError("no more")
            return super().run(patches)

    with pytest.raises(MemoryError, match="no more"):
        segment_volume(Failing(), np.ones((1, 40, 8, 8), np.float32), np.ones((40, 8, 8), bool), Tiling((8, 8, 8), 0.0))


def test_a_caller_can_stop_between_tiles() -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    engine = FakeEngine()
    with pytest.raises(KeyboardInterrupt):
        segment_volume(
            engine, np.ones((1, 99, 8, 8), np.float32), np.ones((99, 8, 8), bool), Tiling((8, 8, 8), 0.0), stop
        )
    assert engine.calls <= 2


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
    engine = FakeEngine()
    engine.batch = 1
    segment_volume(engine, images, mask, Tiling((8, 8, 8), 0.0), lambda *args: seen.append(args))
    assert seen == [(1, 2), (2, 2)]


@pytest.mark.parametrize("overlap", [-0.1, 0.8])
def test_an_overlap_out_of_range_is_refused(overlap: float) -> None:
    with pytest.raises(UsageError, match=r"expected an overlap from 0 to 0\.75, got"):
        Tiling((8, 8, 8), overlap)


def test_an_unknown_blending_is_refused() -> None:
    with pytest.raises(UsageError, match="expected the blending gaussian or constant, got 'median'"):
        Tiling((8, 8, 8), 0.5, "median")  # type: ignore[arg-type]
