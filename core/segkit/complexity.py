"""How large a network is and how much it computes, without computing anything."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from segkit.cards import Size
from segkit.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

RULES: Mapping[str, str] = {
    "module_calls": "every module call but containers (Sequential, ModuleList, ModuleDict, the network itself)",
    "leaf_calls": "calls of modules that contain no other module",
}
"""By which rule each count of layers in `Complexity` is counted; a report prints the rule beside the number."""


@dataclass(frozen=True, kw_only=True)
class Complexity:
    """The size of a network and the work of one forward pass at batch size 1.

    Attributes:
        parameters: parameters, shared ones once.
        trainable_parameters: those that training changes.
        module_calls: layers, counted by `RULES["module_calls"]`.
        leaf_calls: layers, counted by `RULES["leaf_calls"]`.
        calls_by_kind: `module_calls` split by the class of the module.
        macs: multiply-accumulate operations of convolutions and matrix products; norms, activations, pooling,
            interpolation and sums are not in it.
        weights_mib: parameters and buffers as they are stored, in MiB.
    """

    parameters: int
    trainable_parameters: int
    module_calls: int
    leaf_calls: int
    calls_by_kind: Mapping[str, int]
    macs: int
    weights_mib: float


def measure(model: nn.Module, in_channels: int, patch: Size) -> Complexity:
    """Measure a network on an input `(1, in_channels, *patch)` that has a shape but no memory.

    The network itself is left as it is: its mode, its weights, its hooks. A weightless copy of it runs, in eval
    mode, on torch's meta device, so a network of any size takes about as long as its Python code. The first call of a
    process also waits for torch to import its meta kernels, which takes seconds.

    Args:
        model: maps `(B, C, X, Y, Z)` to logits.
        in_channels: channels of the input.
        patch: size (x, y, z) of the input in voxels.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    twin = _weightless(model).eval()
    calls: Counter[str] = Counter()
    leaf_calls = 0

    def count(module: nn.Module, *_: Any) -> None:
        nonlocal leaf_calls
        leaf_calls += not any(module.children())
        if module is not twin and not isinstance(
            module, torch.nn.Sequential | torch.nn.ModuleList | torch.nn.ModuleDict
        ):
            calls[type(module).__name__] += 1

    for module in twin.modules():
        module.register_forward_hook(count)
    flops = FlopCounterMode(display=False)
    with torch.no_grad(), flops:
        twin(torch.empty(1, in_channels, *patch, device="meta"))

    parameters = list(model.parameters())
    return Complexity(
        parameters=sum(p.numel() for p in parameters),
        trainable_parameters=sum(p.numel() for p in parameters if p.requires_grad),
        module_calls=calls.total(),
        leaf_calls=leaf_calls,
        calls_by_kind=dict(calls),
        macs=flops.get_total_flops() // 2,
        weights_mib=sum(t.numel() * t.element_size() for t in [*parameters, *model.buffers()]) / 2**20,
    )


def require_trainable(model: nn.Module, in_channels: int, patch: Size, batch_size: int) -> None:
    """Refuse a patch that a network cannot be trained on, before any work: a twin without memory runs it once.

    Raises:
        UsageError: the forward pass fails, for example because a norm is left with one voxel.
    """
    import torch

    try:
        with torch.no_grad():
            _weightless(model).train()(torch.empty(batch_size, in_channels, *patch, device="meta"))
    except Exception as error:
        raise UsageError(
            f"expected a network that takes {batch_size} x {'x'.join(map(str, patch))} voxels, it says: {error}",
            hint="choose a larger --patch",
        ) from error


def _weightless(model: nn.Module) -> nn.Module:
    """Copy a network with its tensors on the meta device, without ever copying the tensors themselves."""
    import torch

    # deepcopy looks in the memo first: a tensor that is there is taken as already copied.
    memo: dict[int, Any] = {id(b): b.to("meta") for b in model.buffers()}
    memo |= {
        id(p): torch.nn.Parameter(p.detach().to("meta"), requires_grad=p.requires_grad) for p in model.parameters()
    }
    return copy.deepcopy(model, memo)
