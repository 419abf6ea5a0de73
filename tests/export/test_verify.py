from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from segkit.errors import VerificationFailed
from segkit.inference import Tiling
from segkit.inference.torch_engine import TorchEngine
from segkit.patches import plan_tiles
from segkit.preprocess import Preprocessing
from segkit_export.verify import Reference, prove, require_proven, run_reference
from segkit_export.volumes import Head, make_head
from segkit_runtime.engines import open_engine

from .conftest import PATCH

TILING = Tiling(PATCH)


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
    heads = [Head("a head", partial(make_head, 1, PATCH, Preprocessing()))]
    return run_reference(unet, heads, TILING, 4)


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
    _, mask = make_head(1, PATCH, Preprocessing())
    assert proof.voxels == mask.sum()
    require_proven(proof)


def test_torch_held_against_itself_does_not_differ(reference: Reference, unet: torch.nn.Module) -> None:
    proof = prove(TorchEngine(unet), reference)
    assert (proof.max_abs_logit_difference, proof.label_agreement, proof.least_dice) == (0.0, 1.0, 1.0)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_an_initializer_scaled_by_five_percent_is_caught(reference: Reference, unet_onnx: bytes, runtime: str) -> None:
    engine = open_engine(runtime, scale_an_initializer(unet_onnx, 1.05))
    proof = prove(engine, reference)
    assert not proof.proven
    with pytest.raises(
        VerificationFailed, match=rf"expected {runtime} to differ from torch by less than 0\.001"
    ) as info:
        require_proven(proof)
    assert info.value.exit_code == 3


def test_labels_that_change_are_caught_though_logits_hardly_do() -> None:
    """Two classes a hundredth of the logit tolerance apart: swapping them changes every label, but hardly a logit."""
    network = torch.nn.Conv3d(1, 2, 1)
    torch.nn.init.zeros_(network.weight)
    network.bias = torch.nn.Parameter(torch.tensor([0.0, 1e-5]))
    heads = [Head("a head", partial(make_head, 1, PATCH, Preprocessing(normalisation="none")))]
    proof = prove(Changed(network, lambda logits: logits[:, ::-1]), run_reference(network, heads, TILING, 2))
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
    heads = [Head("a head", partial(make_head, 1, PATCH, Preprocessing(normalisation="none")))]
    with pytest.raises(VerificationFailed, match="expected finite logits from torch on a head"):
        run_reference(network, heads, TILING, 2)


def test_a_volume_of_zeros_proves_nothing(unet: torch.nn.Module) -> None:
    empty = Head("nobody", lambda: (np.zeros((1, *PATCH), np.float32), np.zeros(PATCH, bool)))
    with pytest.raises(VerificationFailed, match="expected voxels other than zero in nobody"):
        run_reference(unet, [empty], TILING, 4)


def test_torch_runs_each_tile_once_and_progress_tells_of_all(unet: torch.nn.Module) -> None:
    seen: list[tuple[str, int, int]] = []
    heads = [Head("a head", partial(make_head, 1, PATCH, Preprocessing()))]
    run_reference(unet, heads, TILING, 4, lambda *step: seen.append(step))
    assert seen == [("compare: torch, a head", 1, 2), ("compare: torch, a head", 2, 2)]


@pytest.mark.parametrize("patch", [(16, 16, 16), (48, 32, 16), (128, 128, 64)])
def test_a_made_head_is_odd_shaped_and_takes_two_blended_tiles(patch: tuple[int, int, int]) -> None:
    images, mask = make_head(2, patch, Preprocessing())
    assert images.shape == (2, *mask.shape)
    assert images.dtype == np.float32
    assert all(side % 2 for side in mask.shape)
    assert all(side > wanted for side, wanted in zip(mask.shape, patch, strict=True))
    assert len(plan_tiles(mask, patch, TILING.overlap)) == 2
    assert len({images[0][voxel] for voxel in zip(*np.where(~mask), strict=True)}) == 1
    assert not np.array_equal(images[0], images[1])
    assert np.array_equal(images, make_head(2, patch, Preprocessing())[0])
