"""Builds the networks of MONAI: `segkit_monai.network:UNet` is the factory of the row that names MONAI's `UNet`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from segkit.cards import OptionValue, Size
from segkit.errors import UsageError
from segkit_monai.lookup import find_in_monai, options_told
from segkit_monai.networks_table import NETWORKS, NetworkRow, read_size


def __getattr__(name: str) -> Callable[..., nn.Module]:
    if name not in NETWORKS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return partial(build, NETWORKS[name])


def build(row: NetworkRow, in_channels: int, classes: int, **options: OptionValue) -> nn.Module:
    """Build a network; its parameters keep MONAI's names.

    Args:
        row: the network.
        in_channels: modalities.
        classes: classes, background included.
        options: options of the card, where they differ from its defaults.

    Returns:
        MONAI's module. It maps `(B, C, X, Y, Z)` to logits `(B, K, X, Y, Z)`, in training too: outputs for deep
        supervision are dropped, and layers that feed nothing else. With an option `levels` it has `multiple`.

    Raises:
        MissingExtra: MONAI, or what it needs for this network, is not installed.
        UsageError: the installed MONAI has no such network, or refuses the options.
    """
    kind = find_in_monai("monai.networks.nets", row.monai, row.name, *row.modules)
    chosen = {**row.options, **options}
    with options_told(row.monai, chosen, row.options):
        network: nn.Module = kind(in_channels=in_channels, out_channels=classes, **row.arguments(**chosen))
    for path, _ in list(network.named_modules()):
        if f".{path}".endswith(tuple(f".{end}" for end in row.unused)):
            network.set_submodule(path, nn.Identity())
    if "levels" in chosen:
        network.multiple = 2 ** (int(chosen["levels"]) - 1)
    if "size" in chosen:
        size: Any = read_size(str(chosen["size"]))
        network.fixed_patch = size
        network.register_forward_pre_hook(partial(_require_size, size, row.name))
    network.register_forward_hook(_main_output)
    return network


def _main_output(network: nn.Module, inputs: Any, output: Any) -> Tensor:
    """BasicUNetPlusPlus gives a list, its main output last."""
    logits: Tensor = output[-1] if isinstance(output, list) else output
    return logits


def _require_size(size: Size, name: str, network: nn.Module, inputs: tuple[Tensor]) -> None:
    found = tuple(inputs[0].shape[2:])
    if found != size:
        wanted, got = ("x".join(map(str, sides)) for sides in (size, found))
        raise UsageError(
            f"expected patches of {wanted} voxels for {name}, as its option size says, got {got}",
            hint=f"choose --patch {wanted}, or --option size={got}",
        )
