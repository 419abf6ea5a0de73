"""A run: the folder that training writes and that evaluation and export read.

RUN/
  config.json        everything that was decided before the first step
  initial.safetensors  weights taken over from elsewhere, if any
  store/             the prepared subjects, unless --store named another place
  best.safetensors   weights with the highest validation Dice
  last.safetensors   weights, optimizer and step: what `--resume` continues from
  metrics.csv        one row per epoch
  curve.png          the learning curve
  tensorboard/       the same for TensorBoard
  scores.json        written by `segkit evaluate`, as are scores.csv and pictures/
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from segkit.cards import Label, OptionValue, Size
from segkit.dataset import LabelScheme
from segkit.errors import DataError, UsageError
from segkit.extras import require
from segkit.files import cannot_write, sha256_of, write_bytes
from segkit.preprocess import Preprocessing

if TYPE_CHECKING:
    import torch

    from segkit.registry import Registry

Schedule = Literal["constant", "cosine", "polynomial"]
Precision = Literal["fp32", "bf16", "fp16"]


class InitialWeights(BaseModel):
    """Weights that training began from.

    Attributes:
        source: the run or file they came from.
        sha256: hash of that file.
        matched: number of tensors that were taken over.
        left: names of the network's tensors that kept their random start: the file has none of that name and shape.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    sha256: str
    matched: int
    left: tuple[str, ...]


class RunConfig(BaseModel):
    """Everything that was decided before the first step of training; sizes in voxels, spacing in mm.

    Attributes:
        recipe: the protocol whose settings were the defaults.
        train_labels_sha256: hashes of the label files trained on: whatever folder they turn up in, they are not scored.
        batch_size: patches in one forward pass of one process.
        accumulation: forward passes of each process before an optimizer step.
        processes: processes that trained together.
        fixed_patches: whether every epoch sees the same patches, as the thesis drew them once.
        validation_patches: fixed patches of the held-out subjects, on which the validation loss is taken.
        patience: epochs without a better held-out Dice after which training stops; 0 for never.
        frozen: name patterns of weights that were not trained.
        initial: where the first weights came from, if not from the seed.
        threads: of torch, on a CPU; another number sums in another order.
        deterministic: whether torch may use algorithms that give other bits each time.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    recipe: str
    model: str
    model_version: str
    options: dict[str, OptionValue]
    dataset: str
    dataset_options: dict[str, OptionValue]
    data: Path
    store: Path
    modalities: tuple[str, ...]
    labels: tuple[Label, ...]
    ignored: tuple[int, ...]
    train_subjects: tuple[str, ...]
    train_labels_sha256: tuple[str, ...]
    held_out_subjects: tuple[str, ...]
    preprocessing: Preprocessing
    least_spacing_mm: tuple[float, float, float]
    most_spacing_mm: tuple[float, float, float]
    patch: Size
    loss: str
    loss_options: dict[str, OptionValue]
    sampler: str
    augmentation: tuple[str, ...]
    optimizer: Literal["sgd", "adamw"]
    momentum: float
    learning_rate: float
    schedule: Schedule
    weight_decay: float
    precision: Precision
    epochs: int
    patches_per_epoch: int
    batch_size: int
    accumulation: int
    processes: int
    fixed_patches: bool
    validation_patches: int
    patience: int
    frozen: tuple[str, ...]
    initial: InitialWeights | None
    overlap: float
    seed: int
    threads: int
    deterministic: bool
    software: dict[str, str]

    @property
    def scheme(self) -> LabelScheme:
        """What the codes of label files mean."""
        return LabelScheme(self.labels, self.ignored)

    @property
    def channels(self) -> int:
        """Channels of the network's input."""
        return self.preprocessing.channels(len(self.modalities))

    @property
    def patches_per_step(self) -> int:
        """Patches that one optimizer step learns from, over all processes."""
        return self.batch_size * self.accumulation * self.processes

    @property
    def steps(self) -> int:
        """Optimizer steps in the whole training."""
        return self.epochs * self.steps_per_epoch

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch."""
        return max(1, self.patches_per_epoch // self.patches_per_step)


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

    @property
    def initial(self) -> Path:
        """Weights taken over from elsewhere before the first step."""
        return self.folder / "initial.safetensors"

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
        network = registry.build_model(config.model, config.channels, len(config.labels), config.options)
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


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold a folder that training writes to: a second one is refused. A process that dies lets go of it.

    Raises:
        UsageError: another process trains in it, or it cannot be written.
        MissingExtra: filelock is not installed.
    """
    require("filelock", "train", "training")
    from filelock import FileLock, Timeout

    path = folder / ".lock"
    new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = FileLock(path, blocking=False)
        held.acquire()
    except Timeout:
        raise UsageError(
            f"expected {folder} to itself, another process trains in it", hint="wait for it, or choose another --out"
        ) from None
    except OSError as error:
        raise cannot_write(folder, error) from error
    try:
        yield
    finally:
        if new and list(folder.iterdir()) == [path]:
            path.unlink()
            folder.rmdir()
        held.release()
