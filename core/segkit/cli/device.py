"""Where torch runs: the option and its check."""

from __future__ import annotations

import click

from segkit.errors import MissingExtra, UsageError

device_option = click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True, help="Where torch runs."
)


def choose_device(name: str) -> str:
    """The torch device for a choice of `device_option`, checked.

    Raises:
        MissingExtra: torch is not installed.
        UsageError: CUDA was asked for and there is none.
    """
    try:
        import torch
    except ImportError:
        raise MissingExtra("torch", "train", "training") from None
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise UsageError(
            "expected a CUDA device for --device cuda, torch finds none",
            hint="use --device cpu, or install a CUDA build of torch",
        )
    return "cuda" if there and name != "cpu" else "cpu"
