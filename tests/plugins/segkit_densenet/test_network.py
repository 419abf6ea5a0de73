"""3D DenseNets: the sizes of the thesis' table, streams that see one modality each, and what the contract asks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from segkit import ModelCard, Registry
from segkit.complexity import measure
from segkit.conformance import assert_model_conforms
from segkit.errors import UsageError
from segkit_densenet import segkit_models
from segkit_densenet.network import DenseNet3D, EarlyFusion, LateFusion

CARDS = {card.name: card for card in segkit_models()}
FUSED = [name for name, card in CARDS.items() if card.in_channels]


@pytest.mark.parametrize(
    ("name", "channels", "parameters", "leaf_calls"),
    [
        ("densenet3d", 1, 2_685_243, 34),
        ("densenet3d", 2, 2_697_811, 34),
        ("densenet3d", 3, 2_710_379, 34),
        ("densenet3d-2stream-late", 2, 5_370_486, 67),
        ("densenet3d-3stream-late", 3, 8_055_729, 100),
        ("densenet3d-2stream-early", 2, 3_327_565, 40),
        ("densenet3d-3stream-early", 3, 3_655_010, 43),
    ],
)
def test_size(name: str, channels: int, parameters: int, leaf_calls: int) -> None:
    found = measure(CARDS[name].load()(channels, 4), channels, CARDS[name].patch)
    assert (found.parameters, found.leaf_calls) == (parameters, leaf_calls)


def test_convolutions_of_one_stream() -> None:
    convs = [m for m in DenseNet3D(1, 4).modules() if isinstance(m, nn.Conv3d)]
    assert [(c.kernel_size[0], c.out_channels) for c in convs] == [
        *[(3, 25)] * 3,
        *[(3, 50)] * 3,
        *[(3, 75)] * 3,
        *[(1, 400), (1, 200), (1, 150), (1, 4)],
    ]


def test_layers_of_the_dense_block_see_all_before_them_and_the_images() -> None:
    norms = [m for m in DenseNet3D(2, 4).modules() if isinstance(m, nn.BatchNorm3d)]
    assert [norm.num_features for norm in norms] == [2, 27, 52, 77, 127, 177, 227, 302, 377]


@pytest.mark.parametrize("card", CARDS.values(), ids=CARDS)
def test_keeps_the_contract(card: ModelCard) -> None:
    assert_model_conforms(card, channels=[1], export=False)  # the other numbers change its first layer only, see below


@pytest.mark.parametrize("size", [(3, 5, 7), (6, 4, 2)])
@pytest.mark.parametrize(
    ("name", "channels"),
    [*(("densenet3d", number) for number in (1, 2, 3, 4)), *((name, CARDS[name].in_channels) for name in FUSED)],
)
def test_odd_and_even_sizes_are_kept_forward_and_backward(name: str, channels: int, size: tuple[int, int, int]) -> None:
    images = torch.randn(1, channels, *size, requires_grad=True)
    logits = CARDS[name].load()(channels, 3)(images)
    assert logits.shape == (1, 3, *size)
    logits.square().mean().backward()
    assert images.grad is not None
    assert images.grad.abs().amax((0, 2, 3, 4)).min() > 0  # every modality matters


@pytest.mark.parametrize("changed", [0, 1, 2])
@pytest.mark.parametrize(("network", "parts"), [(EarlyFusion, "stems"), (LateFusion, "streams")])
def test_each_stream_sees_its_own_modality_alone(
    network: type[EarlyFusion] | type[LateFusion], parts: str, changed: int
) -> None:
    model = network(3, 2).eval()
    outputs: list[Tensor] = []
    for part in getattr(model, parts):
        part.register_forward_hook(lambda _module, _args, output: outputs.append(output))
    images = torch.randn(1, 3, 5, 6, 7)
    other = images.clone()
    other[:, changed] = torch.randn(5, 6, 7)
    with torch.no_grad():
        model(images)
        model(other)
    same = [torch.equal(before, after) for before, after in zip(outputs[:3], outputs[3:], strict=True)]
    assert same == [stream != changed for stream in range(3)]


@pytest.mark.parametrize(("network", "parts"), [(EarlyFusion, "stems"), (LateFusion, "streams")])
def test_no_two_streams_share_a_weight(network: type[EarlyFusion] | type[LateFusion], parts: str) -> None:
    first, second = ({id(p) for p in part.parameters()} for part in getattr(network(2, 2), parts))
    assert first
    assert not first & second


@pytest.mark.parametrize("name", FUSED)
def test_another_number_of_modalities_is_refused(name: str, registry: Registry) -> None:
    streams = CARDS[name].in_channels
    with pytest.raises(UsageError, match=f"expected {streams} channels for model '{name}', got 1"):
        registry.build_model(name, 1, 4)


@pytest.mark.parametrize("network", [DenseNet3D, EarlyFusion, LateFusion])
def test_dropout_acts_in_training_only(network: Any) -> None:
    model = network(2, 2).train()
    images = torch.randn(1, 2, 6, 6, 6)
    with torch.no_grad():
        assert not torch.equal(model(images), model(images))
        model.eval()
        assert torch.equal(model(images), model(images))


@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning")  # torch.export, about torch itself
def test_onnx_file_computes_the_same(tmp_path: Path) -> None:
    model = EarlyFusion(2, 4).eval()
    images = torch.randn(1, 2, 5, 6, 7)
    file = tmp_path / "model.onnx"
    torch.onnx.export(model, (images,), file, input_names=["images"], opset_version=18, dynamo=True, verbose=False)
    (logits,) = onnxruntime.InferenceSession(file).run(None, {"images": images.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(logits, model(images).numpy(), atol=1e-5)
