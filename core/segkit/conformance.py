"""The check that a network keeps the contract of `ModelCard`: for the tests of plugin authors, and for ours.

    def test_my_network_conforms():
        assert_model_conforms(card)

It runs small networks on the CPU and takes seconds. A problem reads: what was expected, what was found, what to do.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from segkit.cards import ModelCard, Size
from segkit.errors import PluginError

if TYPE_CHECKING:
    from torch import Tensor, nn

HEAVY = (
    "torch",
    "monai",
    "onnx",
    "onnxruntime",
    "openvino",
    "tensorrt",
    "tensorrt_rtx",
    "SimpleITK",
    "matplotlib",
    "scipy",
)
"""What no plugin module may import at its top: every listing would wait for it."""


def assert_model_conforms(
    card: ModelCard, *, plugin: str | None = None, channels: Iterable[int] = (1, 2, 3, 4), **options: Any
) -> None:
    """Raise unless the network keeps the contract; arguments as for `check_model`.

    Raises:
        PluginError: it does not; the message has one line per problem.
    """
    problems = check_model(card, plugin=plugin, channels=channels, **options)
    if problems:
        raise PluginError("\n".join([f"the model {card.name!r} breaks the contract of ModelCard:", *problems]))


def check_model(
    card: ModelCard, *, plugin: str | None = None, channels: Iterable[int] = (1, 2, 3, 4), **options: Any
) -> list[str]:
    """Return what is wrong with a network, one line per problem; an empty list where nothing is.

    For each number of input channels it is built, run in eval mode on batches of one and three, run again from its own
    state dict, and taken through one backward pass at batch size 1, on a `small_patch`.

    Args:
        card: the card of the network.
        plugin: the module that the entry point names; the package of the factory where it is left out.
        channels: numbers of input channels to try, where the card allows any.
        options: options of the factory, over the card's own.
    """
    import torch

    problems = _heavy_imports(plugin or card.factory.partition(":")[0].partition(".")[0])
    for number in [card.in_channels] if card.in_channels else channels:
        # The caller's random state stays as it was, and a problem shows again on the next run.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(number)
            try:
                found = list(_check_at(card, number, options))
            except Exception as error:  # a network can fail in any way: what it raised is the finding
                found = [
                    f"expected a network that builds, runs and trains, got {type(error).__name__}: {error}; "
                    f"try {card.factory} with {number} channels on a patch of {small_patch(card.multiple)}"
                ]
        problems += [f"with {number} input channels: {problem}" for problem in found]
    return problems


def small_patch(multiple: int) -> Size:
    """Return three different sides, the smallest multiples from 8 voxels up."""
    shortest = math.ceil(8 / multiple) * multiple
    return shortest, shortest + multiple, shortest + 2 * multiple


def _check_at(card: ModelCard, channels: int, options: dict[str, Any]) -> Iterator[str]:
    import torch

    classes = channels + 1  # two numbers that differ, so that a fixed one shows
    build = partial(card.load(), channels, classes, **{**card.options, **options})
    model = build()
    if not isinstance(model, torch.nn.Module):
        yield f"expected an nn.Module from the factory, got {type(model).__name__}; return the network itself"
        return
    # An option may change the multiple; the network then says so itself.
    images = torch.randn(3, channels, *small_patch(getattr(model, "multiple", card.multiple)))
    logits = _predict(model, images[:1])
    if not isinstance(logits, torch.Tensor):
        yield f"expected one tensor of logits, got {type(logits).__name__}; return the main output only"
        return
    yield from _check_logits(model, images, logits, classes)
    twin = build()
    twin.load_state_dict(model.state_dict())
    if not torch.equal(logits, _predict(twin, images[:1])):
        yield "expected equal logits from the same state dict, got different ones; register each tensor as a buffer"
    yield from _check_gradients(model, images[:1])


def _check_logits(model: nn.Module, images: Tensor, logits: Tensor, classes: int) -> Iterator[str]:
    import torch

    for batch, out in ((images[:1], logits), (images, _predict(model, images))):
        expected = (len(batch), classes, *batch.shape[2:])
        if tuple(out.shape) != expected:
            yield (
                f"expected logits {expected} for images {tuple(batch.shape)}, got {tuple(out.shape)}; "
                "pad the convolutions, and check the multiple on the card"
            )
    if logits.dtype != torch.float32:
        yield f"expected float32 logits, got {logits.dtype}; leave the precision to segkit"
    if not torch.isfinite(logits).all():
        yield "expected finite logits, got NaN or infinity; check the initial weights"
    if not torch.equal(logits, _predict(model, images[:1])):
        yield "expected equal logits twice in eval mode, got different ones; use nn.Dropout, which eval mode turns off"


def _check_gradients(model: nn.Module, images: Tensor) -> Iterator[str]:
    """A backward pass in train mode reaches every parameter."""
    import torch

    model.train()
    loss = model(images).square().mean()
    if not loss.requires_grad:
        yield "expected parameters to train, got none; assign layers to attributes or to an nn.ModuleList"
        return
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    if missed := [name for name, grad in gradients.items() if grad is None]:
        yield f"expected a gradient on every parameter, got none on {', '.join(missed)}; use or drop them"
    if broken := [name for name, grad in gradients.items() if grad is not None and not torch.isfinite(grad).all()]:
        yield f"expected finite gradients, got NaN or infinity on {', '.join(broken)}; check the initial weights"


def _predict(model: nn.Module, images: Tensor) -> Any:
    import torch

    model.eval()
    with torch.no_grad():
        return model(images)


def _heavy_imports(plugin: str) -> list[str]:
    """Import the plugin module in a fresh interpreter, and see which heavy packages came along."""
    code = f"import sys, {plugin}; print(*sorted(sys.modules.keys() & {set(HEAVY)!r}))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        last = " ".join(done.stderr.strip().splitlines()[-1:])
        return [f"expected the module {plugin} to import, got {last}; run: python -c 'import {plugin}'"]
    if loaded := done.stdout.split():
        return [
            f"expected the module {plugin} to import nothing heavy, got {', '.join(loaded)}; "
            "name the network as a string on the card, and import what it needs in that string's module"
        ]
    return []
