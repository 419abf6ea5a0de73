"""Rules of networks. They run on small patches on the CPU, from fixed seeds: what fails, fails again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from segkit.cards import Size
from segkit.conformance.check import Candidate, NotApplicable, Rule
from segkit.conformance.network import (
    SIZE_HINT,
    build,
    main_network,
    main_shape,
    multiple_of,
    patch_of,
    predict,
    seeded,
)
from segkit.conformance.patches import even_patch, odd_patch
from segkit.errors import PluginError
from segkit.installed import describe

if TYPE_CHECKING:
    from torch import Tensor

_CLASS_COUNTS = (2, 4)
_RELATIVE_TOLERANCE = 1e-4
"""Of logits that should be equal but may be summed in another order, as a share of the largest."""


def _random_images(candidate: Candidate, patch: Size, batch: int = 1) -> Tensor:
    import torch

    return torch.randn(batch, main_shape(candidate)[0], *patch)


def _require_size(logits: Tensor, images: Tensor) -> None:
    if logits.ndim != 5 or len(logits) != len(images) or logits.shape[2:] != images.shape[2:]:
        expected = ", ".join(map(str, (len(images), "classes", *images.shape[2:])))
        raise PluginError(
            f"expected logits ({expected}) for images {tuple(images.shape)}, got {tuple(logits.shape)}",
            hint=SIZE_HINT,
        )


def _builds(candidate: Candidate) -> str:
    network = main_network(candidate)
    parameters = sum(p.numel() for p in network.parameters())
    return f"{parameters:,} parameters with {main_shape(candidate)[0]} channels and {main_shape(candidate)[1]} classes"


def _keeps_even_size(candidate: Candidate) -> str:
    return _keeps_size(candidate, patch_of(candidate, even_patch))


def _keeps_odd_size(candidate: Candidate) -> str:
    if fixed := getattr(main_network(candidate), "fixed_patch", None):
        raise NotApplicable(f"it takes patches of {'x'.join(map(str, fixed))} alone")
    patch = odd_patch(multiple_of(candidate))
    if patch is None:
        raise NotApplicable(f"no multiple of {multiple_of(candidate)} is odd")
    return _keeps_size(candidate, patch)


def _keeps_minimal_size(candidate: Candidate) -> str:
    return _keeps_size(candidate, patch_of(candidate))


def _keeps_size(candidate: Candidate, patch: Size) -> str:
    images = _random_images(candidate, patch)
    _require_size(predict(main_network(candidate), images), images)
    return "x".join(map(str, patch))


def _takes_channels(candidate: Candidate) -> str:
    import torch

    patch = patch_of(candidate)
    for channels in candidate.channels:
        if channels == main_shape(candidate)[0]:
            continue  # the main network, whose size has been checked
        images = torch.randn(1, channels, *patch)
        hint = "build the first convolution for in_channels, or put the only number that works on the card"
        _require_size(predict(build(candidate, channels, channels + 1), images, hint), images)
    return ", ".join(map(str, candidate.channels)) + (" alone, by the card" if candidate.card.in_channels else "")


def _takes_classes(candidate: Candidate) -> str:
    images = _random_images(candidate, patch_of(candidate))
    for classes in _CLASS_COUNTS:
        same = classes == main_shape(candidate)[1]
        network = main_network(candidate) if same else build(candidate, images.shape[1], classes)
        logits = predict(network, images)
        if logits.shape[1] != classes:
            raise PluginError(
                f"expected {classes} logits per voxel from {candidate.card.factory}({images.shape[1]}, {classes}), got "
                f"{logits.shape[1]}",
                hint="give the last convolution as many filters as the factory is told classes",
            )
    return " and ".join(map(str, _CLASS_COUNTS))


def _is_finite(candidate: Candidate) -> None:
    import torch

    logits = predict(main_network(candidate), _random_images(candidate, patch_of(candidate)))
    if logits.dtype != torch.float32:
        raise PluginError(
            f"expected float32 logits, got {logits.dtype}",
            hint="return float32: where less is asked for, segkit lowers it",
        )
    if not torch.isfinite(logits).all():
        raise PluginError(
            "expected finite logits, got NaN or infinity", hint="keep divisions and roots off zero, and weights small"
        )


def _gives_logits(candidate: Candidate) -> str:
    import torch

    # Large inputs make probabilities of 0 and 1, and logits that are clearly neither.
    images = 100 * _random_images(candidate, patch_of(candidate))
    logits = predict(main_network(candidate), images)
    least, most = logits.min().item(), logits.max().item()
    if least >= 0 and torch.allclose(logits.sum(1), torch.ones(()), atol=1e-4):
        raise PluginError(
            "expected logits, got probabilities: at every voxel the classes add up to 1",
            hint="drop the softmax at the end: losses and inference apply their own",
        )
    if least >= 0 and most <= 1 and least < most:
        raise PluginError(
            f"expected logits, got numbers from {least:.3g} to {most:.3g} alone, as a sigmoid gives",
            hint="drop the sigmoid at the end: losses and inference apply their own softmax",
        )
    return f"from {least:.3g} to {most:.3g}"


def _is_deterministic(candidate: Candidate) -> None:
    import torch

    network = main_network(candidate)
    images = _random_images(candidate, patch_of(candidate))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    first = predict(network, images)
    torch.manual_seed(1)
    second = predict(network, images)
    if not torch.equal(first, second):
        raise PluginError(
            "expected equal logits twice in eval mode, got logits that differ by up to "
            f"{(first - second).abs().max().item():.3g}",
            hint="use nn.Dropout, which eval mode turns off, or F.dropout(..., training=self.training); draw no random "
            "numbers in forward",
        )
    after = network.state_dict()
    changed = [name for name, tensor in before.items() if not torch.equal(tensor, after[name])]
    if changed:
        raise PluginError(
            f"expected weights and buffers that eval mode leaves alone, got changes in {', '.join(changed)}",
            hint="update buffers only where self.training is true",
        )


def _treats_samples_alone(candidate: Candidate) -> str:
    import torch

    network = main_network(candidate)
    # Not the minimal patch: a norm over the last two voxels makes large differences of rounding.
    images = _random_images(candidate, patch_of(candidate, even_patch), batch=2)
    images[1] = 3 * images[1] + 1
    together = predict(network, images)
    alone = torch.cat([predict(network, images[:1]), predict(network, images[1:])])
    difference = ((together - alone).abs().max() / alone.abs().max().clamp(min=1e-30)).item()
    if difference > _RELATIVE_TOLERANCE:
        raise PluginError(
            f"expected a batch of 2 to give what two batches of 1 give, got logits that differ by {difference:.2g} "
            f"times the largest, where {_RELATIVE_TOLERANCE:g} is allowed",
            hint="in eval mode normalise with the running statistics (track_running_stats=True) or within each sample",
        )
    return f"within {difference:.1g} of the largest logit"


def _reaches_every_parameter(candidate: Candidate) -> str:
    import torch

    network = build(candidate, *main_shape(candidate)).train()
    logits = network(_random_images(candidate, patch_of(candidate)))
    if not isinstance(logits, torch.Tensor):
        raise PluginError(
            f"expected one tensor of logits in train mode too, got {type(logits).__name__}",
            hint="return the main output only",
        )
    loss = logits.float().square().mean()
    if not loss.requires_grad:
        raise PluginError(
            "expected parameters to train, got none", hint="assign layers to attributes or to an nn.ModuleList"
        )
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = {name: p.grad for name, p in network.named_parameters() if p.requires_grad}
    if missed := [name for name, grad in gradients.items() if grad is None]:
        raise PluginError(
            f"expected a gradient on every parameter, got none on {_some(missed)}",
            hint="use them in forward, drop them, or set requires_grad to False",
        )
    if broken := [name for name, grad in gradients.items() if grad is not None and not torch.isfinite(grad).all()]:
        raise PluginError(
            f"expected finite gradients, got NaN or infinity on {_some(broken)}",
            hint="keep divisions and roots off zero, and weights small",
        )
    return f"{len(gradients)} tensors"


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _comes_back_from_its_state(candidate: Candidate) -> str:
    import torch
    from safetensors.torch import load, save

    network = main_network(candidate)
    images = _random_images(candidate, patch_of(candidate))
    file = save({name: tensor.contiguous().clone() for name, tensor in network.state_dict().items()})
    torch.manual_seed(2)
    twin = build(candidate, *main_shape(candidate))
    try:
        twin.load_state_dict(load(file))
    except RuntimeError as error:
        raise PluginError(
            f"expected a new network to take the weights of the first, got {describe(error)}",
            hint="make all parameters and buffers in __init__, of sizes that depend on its arguments alone",
        ) from error
    first, second = predict(network, images), predict(twin, images)
    if not torch.equal(first, second):
        raise PluginError(
            "expected equal logits, to the bit, from weights that were saved and loaded, got logits that differ by up "
            f"to {(first - second).abs().max().item():.3g}",
            hint="register each tensor as a parameter or, with register_buffer, as a buffer",
        )
    return f"{len(file) / 2**20:.1f} MiB of safetensors"


def _segments_a_volume(candidate: Candidate) -> str:
    from segkit.inference import Tiling, segment_volume
    from segkit.inference.torch_engine import TorchEngine

    x, y, z = patch = patch_of(candidate)
    channels, classes = main_shape(candidate)
    shape = (x + 3, y - 1, z)  # two tiles, one of them beyond the edge, and an axis that is padded
    images = np.random.default_rng(0).standard_normal((channels, *shape), dtype=np.float32)
    mask = np.ones(shape, bool)
    mask[0] = False
    labels = segment_volume(TorchEngine(main_network(candidate)), images, mask, Tiling(patch, overlap=0.0))
    if labels.shape != shape or labels.max() >= classes:
        raise PluginError(
            f"expected labels from 0 to {classes - 1} of size {shape}, got up to {labels.max()} of size {labels.shape}",
            hint="return logits of the size of the images, one channel per class",
        )
    return "x".join(map(str, shape)) + " in patches of " + "x".join(map(str, patch))


RULES = tuple(
    Rule(id_, promise, seeded(hold), needs)
    for id_, promise, hold, needs in (
        ("builds", "a network from the factory with the options of the card", _builds, "factory"),
        ("size-even", "logits of the size of the images, on even sides", _keeps_even_size, "builds"),
        ("size-odd", "logits of the size of the images, on odd sides", _keeps_odd_size, "size-even"),
        ("size-minimal", "logits of the size of the images, on the shortest sides", _keeps_minimal_size, "size-even"),
        ("channels", "every number of channels that the card allows", _takes_channels, "size-minimal"),
        ("classes", "as many logits per voxel as the factory is told classes", _takes_classes, "size-minimal"),
        ("finite", "finite float32 numbers", _is_finite, "size-minimal"),
        ("logits", "logits, not probabilities", _gives_logits, "finite"),
        (
            "deterministic",
            "the same logits each time in eval mode, from weights that stay",
            _is_deterministic,
            "finite",
        ),
        ("batch", "logits of a sample that do not depend on its batch", _treats_samples_alone, "deterministic"),
        ("gradient", "a finite gradient on every parameter in train mode", _reaches_every_parameter, "finite"),
        ("state", "a state dict that holds all there is to know", _comes_back_from_its_state, "deterministic"),
        ("volume", "labels of a whole volume of odd size", _segments_a_volume, "classes"),
    )
)
"""In the order in which they make sense: what follows from a defect is not told again."""
