"""A run: the folder that training writes and that evaluation and export read.

RUN/
  config.json        everything that was decided before the first step
  best.safetensors   weights with the highest validation Dice
  last.safetensors   weights, optimizer and step: what `--resume` continues from
  metrics.csv        one row per epoch
  curve.png          the learning curve
  tensorboard/       the same for TensorBoard
  scores.json        written by `segkit evaluate`
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from segkit.cards import Label, Size
from segkit.errors import DataError
from segkit.files import sha256_of, write_bytes
from segkit.preprocess import Normalisation

if TYPE_CHECKING:
    import torch

    from segkit.registry import Registry

OptionValue = int | float | str | bool


class RunConfig(BaseModel):
    """Everything that was decided before the first step of training; sizes in voxels, spacing in mm."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    model_version: str
    options: dict[str, OptionValue]
    dataset: str
    data: Path
    modalities: tuple[str, ...]
    labels: tuple[Label, ...]
    ignored: tuple[int, ...]
    train_subjects: tuple[str, ...]
    train_labels_sha256: tuple[str, ...]
    held_out_subjects: tuple[str, ...]
    normalisation: Normalisation
    least_spacing_mm: tuple[float, float, float]
    most_spacing_mm: tuple[float, float, float]
    patch: Size
    loss: str
    sampler: str
    optimizer: Literal["sgd", "adamw"]
    learning_rate: float
    weight_decay: float
    epochs: int
    patches_per_epoch: int
    batch_size: int
    overlap: float
    seed: int
    software: dict[str, str]

    @property
    def steps(self) -> int:
        """Optimizer steps in the whole training."""
        return self.epochs * self.steps_per_epoch

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch."""
        return max(1, self.patches_per_epoch // self.batch_size)


@dataclass(frozen=True)
class Run:
    """A run folder and its config."""

    folder: Path
    config: RunConfig

    @property
    def best(self) -> Path:
        """Weights with the highest validation Dice."""
        return self.folder / "best.safetensors"

    @property
    def last(self) -> Path:
        """Weights, optimizer and step of the last checkpoint."""
        return self.folder / "last.safetensors"

    @classmethod
    def create(cls, folder: Path, config: RunConfig) -> Run:
        """Write the config of a new run."""
        write_bytes(folder / "config.json", config.model_dump_json(indent=1).encode())
        return cls(folder, config)

    @classmethod
    def open(cls, folder: Path) -> Run:
        """Read a run.

        Raises:
            DataError: there is no run in the folder, or its config is not what this version writes.
        """
        path = folder / "config.json"
        if not path.is_file():
            raise DataError(
                f"expected a run in {folder}, found no config.json", hint="make one: segkit train --out RUN"
            )
        try:
            return cls(folder, RunConfig.model_validate_json(path.read_text()))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise DataError(
                f"expected the config of a run in {path}, found {where}: {first['msg']}",
                hint="train again with this version",
            ) from None

    def build_network(self, registry: Registry) -> torch.nn.Module:
        """Build the network with the best weights, in eval mode on the CPU.

        Raises:
            DataError: no checkpoint has been written yet, or it does not fit the network.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        if not self.best.is_file():
            raise DataError(
                f"expected weights at {self.best}, found none", hint="let the training reach its first validation"
            )
        config = self.config
        network = registry.build_model(config.model, len(config.modalities), len(config.labels), config.options)
        try:
            network.load_state_dict(load_file(self.best))
        except (SafetensorError, RuntimeError) as error:
            raise DataError(
                f"expected weights of {config.model} {config.model_version} in {self.best}, found: {error}",
                hint="install the version of the plugin that trained them, or train again",
            ) from error
        return network.eval()

    def weights_sha256(self) -> str:
        """Hash of the best weights."""
        return sha256_of(self.best)
