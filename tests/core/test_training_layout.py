"""What the layout of training promises: the same function, the right gradients, the same weights, no turning back."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from segkit.training.layout import to_channels_last
from segkit_unet3d.residual import ResidualUNet3D

LAST = torch.channels_last_3d
CHANNELS = [4, 16, 32]


def norm_of(channels: int) -> nn.InstanceNorm3d:
    torch.manual_seed(0)
    norm = nn.InstanceNorm3d(channels, affine=True)
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    return norm


def random(batch: int, channels: int) -> Tensor:
    return 3 + torch.randn(batch, channels, 6, 8, 10, generator=torch.Generator().manual_seed(batch))


def learn(norm: nn.Module, patches: Tensor, towards: Tensor) -> dict[str, Tensor]:
    """The output, and all gradients."""
    patches = patches.detach().requires_grad_()
    output = norm(patches)
    output.backward(towards)
    found = {name: p.grad for name, p in norm.named_parameters() if p.grad is not None}
    assert patches.grad is not None
    return {"output": output.detach(), "patches": patches.grad, **found}


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("gradient_layout", [LAST, torch.contiguous_format])
@pytest.mark.parametrize("layout", [LAST, torch.contiguous_format])
def test_a_norm_has_the_output_and_the_gradients_of_torch_in_float64(
    channels: int, batch: int, layout: torch.memory_format, gradient_layout: torch.memory_format
) -> None:
    norm = norm_of(channels)
    patches, towards = random(batch, channels), torch.randn(batch, channels, 6, 8, 10)
    expected = learn(copy.deepcopy(norm).double(), patches.double(), towards.double())
    to_channels_last(norm, "cpu")
    found = learn(norm, patches.contiguous(memory_format=layout), towards.contiguous(memory_format=gradient_layout))
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-4, atol=1e-4)


def test_norms_of_a_network_keep_the_layout() -> None:
    network = ResidualUNet3D(2, 3, width=16)
    to_channels_last(network, "cpu")
    kept = []

    def look(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if inputs[0].is_contiguous(memory_format=LAST):
            kept.append(output.is_contiguous(memory_format=LAST))

    for module in network.modules():
        if isinstance(module, nn.InstanceNorm3d):
            module.register_forward_hook(look)
    network(torch.randn(2, 2, 32, 32, 32).contiguous(memory_format=LAST))
    assert len(kept) > 10
    assert all(kept)


def test_weights_keep_their_names_and_a_copy_is_its_own() -> None:
    norm = norm_of(16)
    names = list(norm.state_dict())
    to_channels_last(norm, "cpu")
    assert list(norm.state_dict()) == names
    other = copy.deepcopy(norm)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.zero_()
    assert other(random(1, 16)).abs().max() > 0


def test_a_norm_with_running_statistics_goes_on_keeping_them() -> None:
    norm = nn.InstanceNorm3d(16, track_running_stats=True)
    to_channels_last(norm, "cpu")
    norm(random(2, 16).contiguous(memory_format=LAST))
    assert norm.running_mean is not None
    assert norm.running_mean.mean() > 0.1


def test_a_norm_of_other_channels_is_refused_as_by_torch() -> None:
    norm = norm_of(16)
    to_channels_last(norm, "cpu")
    with pytest.raises(RuntimeError, match="weight"):
        norm(random(1, 32).contiguous(memory_format=LAST))
