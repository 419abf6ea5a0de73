"""Memory before the fact: what a network will need for training and inference, told without a GPU or that memory.

Training and torch are predicted: fake tensors, which have a shape and no content, run a step under torch's own
`MemTracker`. The sum of the tensors at the peak is a lower bound: workspaces of kernels, the allocator's blocks and a
CUDA context are no tensors. `TensorBytes.expected` and `GPU_OVERHEAD_BYTES` say how much more was seen.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from segkit.cards import Size
from segkit.errors import UnknownName, UsageError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from torch import nn

Purpose = Literal["training", "inference"]

OVERHEAD_FACTOR, OVERHEAD_BYTES = 1.2, 256 * 2**20
"""What a process on a CPU takes at most: the prediction times the one, plus the other.

That covers each step that was measured: at full patches 1.17 to 1.32 times the prediction (U-Net, V-Net, DenseNet), at
small ones up to 240 MiB more, for libraries that are loaded on first use and for workspaces of kernels.
"""
GPU_OVERHEAD_BYTES = (int(0.8 * 2**30), int(2.9 * 2**30))
"""What GPUs held above the prediction for the networks of the thesis: least and most."""
MOST_SIDE = 256
"""Larger than a head: a patch that `fit` chooses has no longer side."""
OPTIMIZERS = ("adamw", "sgd")

_KINDS = {
    "PARAM": "weights",
    "BUFFER": "weights",
    "GRAD": "gradients",
    "ACT": "activations",
    "OPT": "optimizer",
    "TEMP": "temporaries",
    "OTH": "patches",
}


@dataclass(frozen=True, kw_only=True)
class TensorBytes:
    """Bytes of the tensors that live at the peak, by kind.

    Gradients are near zero where the peak lies at the start of the backward pass, as it does unless weights outweigh
    activations: they come as activations go.

    Attributes:
        weights: parameters and buffers.
        gradients: of the parameters.
        activations: outputs of layers that are kept for the backward pass.
        optimizer: its state, such as momentum.
        temporaries: what the backward pass holds for a while.
        patches: the input and its labels.
    """

    weights: int = 0
    gradients: int = 0
    activations: int = 0
    optimizer: int = 0
    temporaries: int = 0
    patches: int = 0

    @property
    def total(self) -> int:
        """All of them: the lower bound."""
        return sum(vars(self).values())

    @property
    def expected(self) -> int:
        """What a process on a CPU takes at most, by what was measured."""
        return int(OVERHEAD_FACTOR * self.total) + OVERHEAD_BYTES


def predict_training(network: nn.Module, channels: int, patch: Size, batch: int, optimizer: str) -> TensorBytes:
    """Predict the peak of training in fp32 with cross-entropy; the network itself is left as it is.

    Args:
        network: maps (B, C, X, Y, Z) to logits (B, K, X, Y, Z).
        channels: channels C of its input.
        patch: size (x, y, z) in voxels.
        batch: patches per step.
        optimizer: one of `OPTIMIZERS`.

    Raises:
        UnknownName: no such optimizer.
        UsageError: the network does not take that patch.
    """
    if optimizer not in OPTIMIZERS:
        raise UnknownName("optimizer", optimizer, OPTIMIZERS)
    return _track(network, (batch, channels, *patch), optimizer)


def predict_inference(network: nn.Module, channels: int, patch: Size, batch: int = 1) -> TensorBytes:
    """Predict the peak of torch running a network in fp32 without gradients.

    Raises:
        UsageError: the network does not take that patch.
    """
    return _track(network, (batch, channels, *patch), None)


def _track(network: nn.Module, shape: tuple[int, ...], optimizer: str | None) -> TensorBytes:
    """Run a fake twin of a network and add up its tensors at the peak; with an optimizer it takes a step."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.distributed._tools.mem_tracker import _MemRefType

    tracker = _tracker()
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    try:
        # Outside the mode, where a plain tensor that a network keeps beside its weights can be copied.
        twin = _fake_twin(network, mode).train(optimizer is not None)
        with mode:
            images = torch.zeros(shape)
            if optimizer is None:
                tracker.track_external(twin, images)
                with torch.no_grad(), _tracking(tracker):
                    twin(images)
            else:
                _take_step(twin, images, optimizer, tracker)
    except Exception as error:
        batch, _, *sides = shape
        raise UsageError(
            f"expected a network that takes {batch} x {'x'.join(map(str, sides))} voxels, it says: {error}",
            hint="choose another --patch",
        ) from error
    found = dict.fromkeys(_KINDS.values(), 0)
    for device in tracker.get_tracker_snapshot("peak").values():
        for kind, name in _KINDS.items():
            found[name] += device.get(_MemRefType[kind], 0)
    return TensorBytes(**found)


def _tracker() -> Any:
    """Torch's tracker, without the peak of each module, which nobody reads and which takes a third of its time."""
    from torch.distributed._tools.mem_tracker import _TOTAL_KEY, MemTracker

    class Tracker(MemTracker):  # type: ignore[no-untyped-call]
        def _update_peak_stats(self, peak_state: Any) -> None:
            for device, now in self._curr_mem_snap.items():
                if self._peak_mem.get(device, 0) < now[_TOTAL_KEY]:
                    self._peak_mem[device] = now[_TOTAL_KEY]
                    self._peak_mem_snap[device] = dict(now)

    return Tracker()


def _take_step(twin: nn.Module, images: Any, optimizer: str, tracker: Any) -> None:
    """Take a step as every one but the first is: the state of the optimizer, made at the end of that, is there."""
    import torch

    trained = [parameter for parameter in twin.parameters() if parameter.requires_grad]
    steps: torch.optim.Optimizer = (
        torch.optim.SGD(trained, 1e-3, momentum=0.9) if optimizer == "sgd" else torch.optim.AdamW(trained, 1e-3)
    )
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    steps.step()
    steps.zero_grad()
    target = torch.zeros(images.shape[0], *images.shape[2:], dtype=torch.int64)
    tracker.track_external(twin, steps, images, target)
    with _tracking(tracker):
        torch.nn.functional.cross_entropy(twin(images), target).backward()  # type: ignore[no-untyped-call]
        steps.step()


def _tracking(tracker: Any) -> AbstractContextManager[Any]:
    context: AbstractContextManager[Any] = tracker
    return context


def _fake_twin(network: nn.Module, mode: Any) -> nn.Module:
    """Copy a network with its tensors as fakes, without ever copying the tensors themselves."""
    import torch

    # deepcopy looks in the memo first: a tensor that is there is taken as already copied.
    memo: dict[int, Any] = {id(buffer): mode.from_tensor(buffer) for buffer in network.buffers()}
    memo |= {
        id(p): torch.nn.Parameter(mode.from_tensor(p.detach()), requires_grad=p.requires_grad)
        for p in network.parameters()
    }
    return copy.deepcopy(network, memo)


def fit(
    network: nn.Module,
    channels: int,
    budget_bytes: int,
    *,
    patch: Size,
    multiple: int,
    purpose: Purpose = "training",
    optimizer: str = OPTIMIZERS[0],
    bare: bool = False,
) -> tuple[Size, int]:
    """Choose the largest patch, and then the largest batch of such patches, that fit into a budget.

    Args:
        network: the network.
        channels: channels of its input.
        budget_bytes: what may be used.
        patch: the card's patch, whose shape is kept as far as `multiple` allows.
        multiple: each side is a multiple of so many voxels, up to `MOST_SIDE`.
        purpose: what is to fit.
        optimizer: for training.
        bare: let the prediction itself fit, which is a lower bound, and not what it leads to expect.

    Returns:
        The patch and the batch.

    Raises:
        UsageError: not even the smallest patch that the network takes fits; says what that needs.
    """

    @functools.cache
    def need(size: Size, batch: int = 1) -> int:
        if purpose == "training":
            predicted = predict_training(network, channels, size, batch, optimizer)
        else:
            predicted = predict_inference(network, channels, size, batch)
        return predicted.total if bare else predicted.expected

    chosen = _largest_patch(need, budget_bytes, patch, multiple)
    one, two = need(chosen), need(chosen, 2)
    batch = max(1, 1 + (budget_bytes - one) // (two - one))
    while batch > 1 and need(chosen, batch) > budget_bytes:
        batch -= 1
    return chosen, batch


def _largest_patch(need: Callable[[Size], int], budget_bytes: int, patch: Size, multiple: int) -> Size:
    """Close in on the length of the patch: each guess takes memory to grow with the voxels, and each answer counts."""
    units = [max(1, round(side / multiple)) for side in patch]
    least, most = 0, max(1, MOST_SIDE // multiple)

    def sized(length: int) -> Size:
        x, y, z = (multiple * max(1, round(length * unit / max(units))) for unit in units)
        return x, y, z

    length = min(max(units), most)
    needed: dict[int, int | None] = {length: need(sized(length))}  # what the network does not take at all is told here
    while least < most:
        if length not in needed:
            try:
                needed[length] = need(sized(length))
            except UsageError:
                needed[length] = None  # too small for the network to run: look further up
        found = needed[length]
        if found is None or found <= budget_bytes:
            least = length
        else:
            most = length - 1
        guess = int(length * (budget_bytes / found) ** (1 / 3)) if found else length
        length = min(max(guess, least + 1), most)
    if needed.get(least) is None:
        smallest = needed[least + 1] or 0
        raise UsageError(
            f"expected a budget of at least {smallest / 2**20:,.0f} MiB, which the least patch of "
            f"{'x'.join(map(str, sized(least + 1)))} voxels needs, got {budget_bytes / 2**20:,.0f} MiB",
            hint="raise --budget, or choose a smaller network",
        )
    return sized(least)
