"""Checkpoints: safetensors with JSON in their metadata. No pickle is ever written or read."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segkit.errors import DataError
from segkit.files import write_bytes

if TYPE_CHECKING:
    import torch


@dataclass
class Progress:
    """How far a training is.

    Attributes:
        step: optimizer steps done.
        losses: losses of the steps of the epoch that is under way.
        rows: one record per finished epoch, as in metrics.csv.
        best: highest validation Dice so far, 0 to 1, or -1.
        seconds: time spent training and validating.
    """

    step: int = 0
    losses: list[float] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    best: float = -1.0
    seconds: float = 0.0


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    """A copy of its own: safetensors refuses tensors that share memory, as tied weights do."""
    return tensor.detach().cpu().contiguous().clone()


def save_weights(path: Path, network: torch.nn.Module) -> None:
    """Write a network's weights in one step."""
    from safetensors.torch import save

    write_bytes(path, save({name: _plain(tensor) for name, tensor in network.state_dict().items()}))


def save_checkpoint(
    path: Path,
    network: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    progress: Progress,
) -> None:
    """Write all that training needs to go on, in one file and one step."""
    import torch
    from safetensors.torch import save

    tensors = {f"network.{name}": _plain(tensor) for name, tensor in network.state_dict().items()}
    scalars: dict[str, Any] = {}
    for index, state in optimizer.state_dict()["state"].items():
        for key, value in state.items():
            name = f"optimizer.{index}.{key}"
            if isinstance(value, torch.Tensor):
                tensors[name] = _plain(value)
            else:
                scalars[name] = value
    texts = {"progress": asdict(progress), "scalars": scalars, "scaler": scaler.state_dict()}
    write_bytes(path, save(tensors, {name: json.dumps(value) for name, value in texts.items()}))


def load_checkpoint(
    path: Path, network: torch.nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler
) -> Progress:
    """Restore network, optimizer and loss scale from a checkpoint and return how far it was.

    Raises:
        DataError: the file is not a checkpoint of this network.
    """
    from safetensors import SafetensorError, safe_open

    weights, states = {}, dict[int, dict[str, Any]]()
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            for name in file.keys():  # noqa: SIM118 - not a dict
                kind, _, rest = name.partition(".")
                if kind == "network":
                    weights[rest] = file.get_tensor(name)
                else:
                    index, _, key = rest.partition(".")
                    states.setdefault(int(index), {})[key] = file.get_tensor(name)
        for name, value in json.loads(metadata["scalars"]).items():
            _, index, key = name.split(".", 2)
            states.setdefault(int(index), {})[key] = value
        network.load_state_dict(weights)
        optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
        scaler.load_state_dict(json.loads(metadata["scaler"]))
        return Progress(**json.loads(metadata["progress"]))
    except (SafetensorError, KeyError, TypeError, RuntimeError, ValueError) as error:
        raise DataError(
            f"expected a checkpoint of this network in {path}, found: {error}", hint="start a new run"
        ) from None
