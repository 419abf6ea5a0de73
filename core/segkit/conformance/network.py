"""The network of a candidate: how rules build it, run it, and choose patches for it."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING

from segkit.cards import Size
from segkit.conformance.check import Candidate, NotApplicable
from segkit.conformance.patches import minimal_patch
from segkit.errors import PluginError
from segkit.extras import is_installed
from segkit.installed import describe

if TYPE_CHECKING:
    from torch import Tensor, nn


def seeded(hold: Callable[[Candidate], str | None]) -> Callable[[Candidate], str | None]:
    """Let a rule start from the same random numbers each time, and give the caller's back afterwards."""

    @wraps(hold)
    def with_seed(candidate: Candidate) -> str | None:
        if not is_installed("torch"):
            raise NotApplicable('torch is not installed; run: pip install "segkit3d[train]"')
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return hold(candidate)

    return with_seed


def build(candidate: Candidate, channels: int, classes: int) -> nn.Module:
    """Build a network anew.

    Raises:
        PluginError: the factory fails, or returns something else.
    """
    import torch

    factory = candidate.card.factory
    try:
        network = candidate.card.load()(channels, classes, **candidate.options)
    except (Exception, SystemExit) as error:
        options = "".join(f", {name}={value!r}" for name, value in candidate.options.items())
        raise PluginError(
            f"expected a network from {factory}({channels}, {classes}{options}), got {describe(error)}",
            hint="call it so yourself, and mend what it raises: channels and classes come by position, options by name",
        ) from error
    if not isinstance(network, torch.nn.Module):
        raise PluginError(
            f"expected an nn.Module from {factory}, got {type(network).__name__}", hint="return the network itself"
        )
    return network


def main_network(candidate: Candidate) -> nn.Module:
    """The network, in eval mode, that rules share which leave it as it is."""
    if "network" not in candidate.kept:
        candidate.kept["network"] = build(candidate, *main_shape(candidate)).eval()
    network: nn.Module = candidate.kept["network"]
    return network


def main_shape(candidate: Candidate) -> tuple[int, int]:
    """Channels and classes of the main network: the fewest channels, so that others are the matter of a rule alone."""
    channels = min(candidate.channels)
    return channels, channels + 1


def multiple_of(candidate: Candidate) -> int:
    """What each side of a patch must be a multiple of: an option may change it, and the network then says so itself."""
    return int(getattr(main_network(candidate), "multiple", candidate.card.multiple))


def patch_of(candidate: Candidate, choose: Callable[[int], Size] = minimal_patch) -> Size:
    """A patch that the network takes: chosen by its multiple, unless it takes but one size and says so itself."""
    fixed: Size | None = getattr(main_network(candidate), "fixed_patch", None)
    return fixed or choose(multiple_of(candidate))


SIZE_HINT = "pad the convolutions; where the network halves the sides, put the multiple on the card"
"""What to do about logits of another size."""

_REFUSED_HINT = "pad the convolutions, or mend multiple and in_channels on the card"


def predict(network: nn.Module, images: Tensor, hint: str = _REFUSED_HINT) -> Tensor:
    """Run a network in eval mode.

    Args:
        network: it.
        images: (B, C, X, Y, Z).
        hint: what to do where it raises.

    Raises:
        PluginError: it fails, or returns no tensor.
    """
    import torch

    network.eval()
    shape = tuple(images.shape)
    try:
        with torch.no_grad():
            logits = network(images)
    except Exception as error:
        raise PluginError(f"expected logits for images {shape}, got {describe(error)}", hint=hint) from error
    if not isinstance(logits, torch.Tensor):
        raise PluginError(
            f"expected one tensor of logits, got {type(logits).__name__}", hint="return the main output only"
        )
    return logits
