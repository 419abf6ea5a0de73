from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from segkit.errors import VerificationFailed
from segkit.inference import Engine, Tiling
from segkit.inference.torch_engine import TorchEngine
from segkit.patches import pad_to, plan_tiles
from segkit.preprocess import Preprocessing
from segkit_export.reference import Reference, run_reference
from segkit_export.tolerances import TOLERANCES, Bounds, describe_tolerance
from segkit_export.verify import describe
from segkit_export.verify import prove as find
from segkit_export.volumes import Head, make_head
from segkit_runtime.engines import open_engine
from segkit_runtime.manifest import Proof

from .conftest import PATCH

TILING = Tiling(PATCH)
ZERO = Preprocessing(background="zero")


def prove(engine: Engine, reference: Reference, **chosen: Any) -> Proof:
    return find(engine, reference, **chosen).proof


ZERO = Preprocessing(background="zero")
RAW = Preprocessing(background="zero", normalisation="none")


class Changed:
    """An engine that does something to what torch says."""

    runtime, version, device, precision = "changed", "1", "cpu", "fp32"
    batch = 1

    def __init__(self, network: torch.nn.Module, change: Any) -> None:
        self._engine = TorchEngine(network)
        self._change = change

    def run(self, patches: NDArray[np.float32]) -> NDArray[np.float32]:
        result: NDArray[np.float32] = self._change(self._engine.run(patches))
        return result

    def close(self) -> None: ...


def scale_an_initializer(content: bytes, factor: float) -> bytes:
    model = onnx.load_from_string(content)
    first = max(model.graph.initializer, key=lambda weights: len(weights.raw_data))
    first.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(first) * np.float32(factor), first.name))
    return bytes(model.SerializeToString())


@pytest.fixture(scope="module")
def reference(unet: torch.nn.Module) -> Reference:
    heads = [Head("a head", partial(make_head, 1, PATCH, ZERO))]
    return run_reference(TorchEngine(unet), heads, TILING, 4)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_good_export_is_proven(reference: Reference, unet_onnx: bytes, runtime: str) -> None:
    engine = open_engine(runtime, unet_onnx)
    proof = prove(engine, reference)
    assert proof.proven
    assert (proof.runtime, proof.device, proof.precision) == (runtime, "cpu", "fp32")
    assert 0 < proof.max_abs_logit_difference < 1e-3 < proof.max_abs_logit
    assert proof.label_agreement >= 0.9999
    assert proof.least_dice > 0.99
    assert proof.volumes == ["a head"]
    _, mask = make_head(1, PATCH, ZERO)
    assert proof.voxels == mask.sum()


def test_torch_held_against_itself_does_not_differ(reference: Reference, unet: torch.nn.Module) -> None:
    proof = prove(TorchEngine(unet), reference)
    assert (proof.max_abs_logit_difference, proof.label_agreement, proof.least_dice) == (0.0, 1.0, 1.0)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_an_initializer_scaled_by_five_percent_is_caught(reference: Reference, unet_onnx: bytes, runtime: str) -> None:
    engine = open_engine(runtime, scale_an_initializer(unet_onnx, 1.05))
    proof = prove(engine, reference)
    assert not proof.proven
    assert "logits within 0.001" in describe_tolerance(proof)
    assert "differs by up to" in describe(proof)


def test_labels_that_change_are_caught_though_logits_hardly_do() -> None:
    """Two classes a hundredth of the logit tolerance apart: swapping them changes every label, but hardly a logit."""
    network = torch.nn.Conv3d(1, 2, 1)
    torch.nn.init.zeros_(network.weight)
    network.bias = torch.nn.Parameter(torch.tensor([0.0, 1e-5]))
    heads = [Head("a head", partial(make_head, 1, PATCH, RAW))]
    proof = prove(
        Changed(network, lambda logits: logits[:, ::-1]), run_reference(TorchEngine(network), heads, TILING, 2)
    )
    assert 0 < proof.max_abs_logit_difference < 1e-3
    assert (proof.label_agreement, proof.least_dice) == (0.0, 0.0)
    assert not proof.proven


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda logits: logits * np.float32("nan"), "expected finite logits from changed, got NaN or infinity"),
        (lambda logits: logits[:, :3], r"expected logits \(1, 4, 16, 16, 16\) from changed, got \(1, 3, 16, 16, 16\)"),
        (lambda logits: logits.nothing, "expected changed to run a patch of .*has no attribute 'nothing'"),
    ],
    ids=["nan", "shape", "crash"],
)
def test_an_engine_without_figures_is_refused(
    reference: Reference, unet: torch.nn.Module, change: Any, said: str
) -> None:
    with pytest.raises(VerificationFailed, match=said):
        prove(Changed(unet, change), reference)


def test_a_network_that_gives_nan_is_refused() -> None:
    network = torch.nn.Conv3d(1, 2, 1)
    torch.nn.init.constant_(network.weight, float("nan"))
    heads = [Head("a head", partial(make_head, 1, PATCH, RAW))]
    with pytest.raises(VerificationFailed, match="expected finite logits from torch on a head"):
        run_reference(TorchEngine(network), heads, TILING, 2)


def test_a_volume_of_zeros_proves_nothing(unet: torch.nn.Module) -> None:
    empty = Head("nobody", lambda: (np.zeros((1, *PATCH), np.float32), np.zeros(PATCH, bool)))
    with pytest.raises(VerificationFailed, match="expected voxels other than zero in nobody"):
        run_reference(TorchEngine(unet), [empty], TILING, 4)


def test_torch_runs_each_tile_once_and_progress_tells_of_all(unet: torch.nn.Module) -> None:
    seen: list[tuple[str, int, int]] = []
    heads = [Head("a head", partial(make_head, 1, PATCH, ZERO))]
    run_reference(TorchEngine(unet), heads, TILING, 4, lambda *step: seen.append(step))
    assert seen == [("compare: torch, a head", 1, 1)]


@pytest.mark.parametrize("patch", [(16, 16, 16), (48, 32, 16), (27, 28, 29)])
def test_a_made_head_is_odd_shaped_takes_one_tile_and_is_stored_whole(patch: tuple[int, int, int]) -> None:
    images, mask = make_head(2, patch, ZERO)
    assert images.shape == (2, *mask.shape)
    assert images.dtype == np.float32
    assert all(side % 2 for side in mask.shape)
    assert len(plan_tiles(pad_to(mask, patch), patch, TILING.overlap)) == 1
    assert not images[0][~mask].any()
    assert not np.array_equal(images[0], images[1])
    assert np.array_equal(images, make_head(2, patch, ZERO)[0])
    assert np.array_equal(images, images.astype(np.float16).astype(np.float32))


def test_the_figures_of_logits_are_what_numpy_says(reference: Reference, unet: torch.nn.Module) -> None:
    rng = np.random.default_rng(0)
    noise = np.abs(rng.normal(0, 0.01, (1, 4, *PATCH))).astype(np.float32)
    proof = prove(Changed(unet, lambda logits: logits + noise), reference)
    assert proof.mean_abs_logit_difference == pytest.approx(noise.mean(), rel=1e-3)
    assert proof.max_abs_logit_difference == pytest.approx(noise.max(), rel=1e-3)
    assert np.quantile(noise, 0.999) * 0.99 <= proof.p999_abs_logit_difference <= np.quantile(noise, 0.999) * 1.07
    assert proof.patch_ms is not None
    assert proof.patch_ms > 0


def two_classes(threshold: float) -> torch.nn.Module:
    """Class 1 wherever the image is above a threshold."""
    network = torch.nn.Conv3d(1, 2, 1)
    network.weight = torch.nn.Parameter(torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1, 1))
    network.bias = torch.nn.Parameter(torch.tensor([0.0, -threshold]))
    return network


def with_truth(threshold: float) -> Head:
    images, mask = make_head(1, PATCH, ZERO)
    return Head("a head", lambda: (images, mask), lambda: (images[0] > threshold).astype(np.uint8))


def test_a_change_of_dice_against_the_truth_is_what_decides() -> None:
    reference = run_reference(TorchEngine(two_classes(0.0)), [with_truth(0.0)], TILING, 2)
    loose = Bounds(least_label_agreement=0.5).tolerance("bf16", trained=True)
    finding = find(TorchEngine(two_classes(0.3)), reference, precision="bf16", tolerance=loose)
    assert finding.proof.label_agreement > 0.5
    assert finding.proof.dice_difference is not None
    assert finding.proof.dice_difference > 0.05
    assert not finding.proof.proven
    assert "changes the Dice of a class by" in describe(finding.proof)
    worst = finding.worst
    assert worst is not None
    assert worst.voxels == (worst.torch != worst.engine).sum() > 0
    looser = Bounds(0.5, 1.0).tolerance("bf16", trained=True)
    assert prove(TorchEngine(two_classes(0.3)), reference, precision="bf16", tolerance=looser).proven


def test_a_volume_without_a_truth_has_no_change_of_dice(reference: Reference, unet: torch.nn.Module) -> None:
    assert prove(TorchEngine(unet), reference).dice_difference is None


def test_labels_of_random_weights_may_differ_ten_times_as_often_but_not_in_fp32() -> None:
    random, trained = (Bounds().tolerance("bf16", trained=trained) for trained in (False, True))
    assert trained == TOLERANCES["bf16"]
    assert random.least_label_agreement == pytest.approx(0.95)
    assert Bounds().tolerance("fp32", trained=False) == TOLERANCES["fp32"]


def test_the_bound_of_logits_grows_with_the_logits() -> None:
    """A millionth of logits of 10,000 is 0.01: the same digits, and labels that agree."""
    network = torch.nn.Conv3d(1, 2, 1)
    network.bias = torch.nn.Parameter(torch.tensor([0.0, 1e4]))
    reference = run_reference(TorchEngine(network), [Head("a head", partial(make_head, 1, PATCH, ZERO))], TILING, 2)
    proof = prove(Changed(network, lambda logits: logits * np.float32(1 + 1e-6)), reference)
    assert proof.max_abs_logit_difference > 1e-3
    assert proof.proven
    assert not prove(Changed(network, lambda logits: logits * np.float32(1 + 1e-3)), reference).proven
