"""Fine-tuning: weights taken over from another run, and weights that stay as they are."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from segkit.errors import DataError, UsageError
from segkit.files import sha256_of
from segkit.run import InitialWeights, Run

if TYPE_CHECKING:
    import torch


def take_over(network: torch.nn.Module, source: Path) -> tuple[InitialWeights, dict[str, torch.Tensor]]:
    """Find the tensors of another run or file that fit a network, by name and shape.

    Args:
        network: the new network; it may have other classes or channels.
        source: a run, whose best weights are taken, or a safetensors file.

    Returns:
        What was found, and the tensors.

    Raises:
        DataError: the run has no weights, the file is not safetensors, or nothing in it fits.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Run.open(source).best if source.is_dir() else source
    if not path.is_file():
        raise DataError(f"expected weights at {path}, found none", hint="name a run or a .safetensors file")
    try:
        stored = load_file(path)
    except SafetensorError as error:
        raise DataError(
            f"expected safetensors in {path}, found: {error}", hint="pickled weights are never read"
        ) from None
    wanted = network.state_dict()
    fitting = {name: stored[name] for name in wanted if name in stored and stored[name].shape == wanted[name].shape}
    if not fitting:
        raise DataError(
            f"expected weights of this network in {path}, found none of its names and shapes among {len(stored)}",
            hint="take weights of the same model",
        )
    left = tuple(name for name in wanted if name not in fitting)
    return InitialWeights(source=str(source), sha256=sha256_of(path), matched=len(fitting), left=left), fitting


def freeze(network: torch.nn.Module, patterns: Sequence[str]) -> tuple[str, ...]:
    """Take the parameters whose names match a pattern (`encoder.*`) out of training.

    A batch norm all of whose parameters are frozen keeps its running statistics too: see `train_mode`.

    Returns:
        The names that are frozen.

    Raises:
        UsageError: a pattern matches nothing, or everything is frozen.
    """
    names = [name for name, _ in network.named_parameters()]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UsageError(
                f"expected a parameter that matches {pattern!r}, found none",
                hint=f"names are such as {names[0]}, {names[-1]}",
            )
    frozen = tuple(name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns))
    if len(frozen) == len(names):
        raise UsageError("expected parameters to train, all are frozen", hint="narrow the patterns of --freeze")
    for name, parameter in network.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
    return frozen


def train_mode(network: torch.nn.Module) -> None:
    """Put a network into train mode, but for batch norms that are frozen: their statistics belong to their weights."""
    from torch.nn.modules.batchnorm import _BatchNorm

    network.train()
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            parameters = list(module.parameters(recurse=False))
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                module.eval()
