"""Optimizers, and the learning rate as a function of the step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from segkit.run import RunConfig

if TYPE_CHECKING:
    import torch

POWER = 0.9
"""Exponent of the polynomial schedule, as in nnU-Net (doi:10.1038/s41592-020-01008-z)."""


def build_optimizer(config: RunConfig, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer of a run over the parameters that it trains."""
    import torch

    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            trained, config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay
        )
    return torch.optim.AdamW(trained, config.learning_rate, weight_decay=config.weight_decay)


def learning_rate(config: RunConfig, step: int) -> float:
    """Learning rate of a step: constant, a cosine down to zero (Loshchilov 2017, arXiv:1608.03983), or polynomial."""
    done = step / config.steps
    factor: float = {
        "constant": 1.0,
        "cosine": 0.5 * (1 + math.cos(math.pi * done)),
        "polynomial": (1 - done) ** POWER,
    }[config.schedule]
    return config.learning_rate * factor
