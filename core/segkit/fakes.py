"""A fake of every kind: the smallest plugin that keeps each contract, for tests and for plugin authors to read.

It is a whole plugin module, registered under no entry point. `fake_registry()` holds its six entries, so whatever takes
a registry can be tried in milliseconds:

    registry = fake_registry()
    network = registry.build_model("fake", in_channels=1, classes=2)
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from numpy.typing import NDArray

from segkit.cards import CommandCard, DatasetCard, Label, LossCard, ModelCard, Reference, RuntimeCard, SamplerCard
from segkit.hookspecs import hookimpl
from segkit.installed import KINDS, Entry
from segkit.registry import Registry

if TYPE_CHECKING:
    import torch

    from segkit.cards import Size
    from segkit.dataset import Subject
    from segkit.store import PreparedSubject

SIDE_VOXELS = 24
"""Side of the fake data set's cubic volumes."""


def fake_registry() -> Registry:
    """A registry that holds one entry named "fake" of each kind, and nothing else."""
    return Registry([Entry(kind, "fake", "segkit.fakes", "segkit-fakes", "1.0") for kind in KINDS])


@hookimpl
def segkit_models() -> list[ModelCard]:
    """Return the card of the fake network."""
    return [
        ModelCard(
            name="fake",
            factory="segkit.fakes:build_network",
            summary="one 1^3 convolution",
            patch=(16, 16, 16),
            licence="Apache-2.0",
            reference=Reference(
                title="Fully convolutional networks for semantic segmentation",
                year=2015,
                doi="10.1109/CVPR.2015.7298965",
            ),
        )
    ]


@hookimpl
def segkit_datasets() -> list[DatasetCard]:
    """Return the card of the fake data set."""
    return [
        DatasetCard(
            name="fake",
            factory="segkit.fakes:find_subjects",
            summary="bright balls in noise",
            labels=(Label(code=0, name="background"), Label(code=10, name="ball")),
            ignored=(99,),
            make="segkit.fakes:make_subjects",
            presets={"ball": "one ball a subject"},
            reference=Reference(title="The Perceptron", year=1958, doi="10.1037/h0042519"),
        )
    ]


@hookimpl
def segkit_losses() -> list[LossCard]:
    """Return the card of the fake loss."""
    return [LossCard(name="fake", factory="segkit.fakes:build_loss", summary="squared error of the probabilities")]


@hookimpl
def segkit_samplers() -> list[SamplerCard]:
    """Return the card of the fake sampler."""
    return [SamplerCard(name="fake", factory="segkit.fakes:build_sampler", summary="any corner")]


@hookimpl
def segkit_runtimes() -> list[RuntimeCard]:
    """Return the card of the fake runtime."""
    return [
        RuntimeCard(
            name="fake",
            factory="segkit.fakes:FakeEngine",
            summary="torch, one call at a time",
            module="torch",
            extra="train",
            takes="network",
        )
    ]


@hookimpl
def segkit_commands() -> list[CommandCard]:
    """Return the card of the fake command."""
    return [CommandCard(name="fake", factory="segkit.fakes:greet", summary="greet")]


def build_network(in_channels: int, classes: int) -> torch.nn.Module:
    """Keeps the model contract: `(B, C, X, Y, Z)` to logits `(B, K, X, Y, Z)`."""
    from torch import nn

    return nn.Conv3d(in_channels, classes, 1)


def find_subjects(root: Path) -> list[Subject]:
    """Keeps the data set contract: every folder with an image is a subject."""
    from segkit.dataset import Subject

    return [
        Subject(id=image.parent.name, images={"T1": image}, label=image.with_name("label.nii.gz"))
        for image in sorted(root.glob("*/T1.nii.gz"))
    ]


def make_subjects(root: Path, preset: str, subjects: int, seed: int, progress: Callable[[str], None]) -> None:
    """Keeps the contract of a data set that can be made: bright balls of code 10 in noise, zero outside a cube."""
    from segkit.nifti import write_volume
    from segkit.volume import Volume

    grid = np.stack(np.meshgrid(*[np.arange(SIDE_VOXELS)] * 3, indexing="ij"))
    for index in range(subjects):
        rng = np.random.default_rng([seed, index])
        centre = rng.integers(8, SIDE_VOXELS - 8, 3)[:, None, None, None]
        ball = ((grid - centre) ** 2).sum(0) < 25
        image = (100 + 200 * ball + rng.normal(0, 10, ball.shape)).astype(np.int16)
        image[:2] = 0
        folder = root / f"ball-{index + 1}"
        write_volume(folder / "T1.nii.gz", Volume(image, np.eye(4)))
        write_volume(folder / "label.nii.gz", Volume((10 * ball).astype(np.uint8), np.eye(4)))
        progress(folder.name)


def build_loss() -> Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]:
    """Keeps the loss contract: ignored voxels count nothing."""

    def loss(logits: torch.Tensor, target: torch.Tensor, ignore: int) -> torch.Tensor:
        from torch.nn.functional import one_hot

        counts = target != ignore
        truth = one_hot(target.where(counts, 0), logits.shape[1]).movedim(-1, 1)
        return ((logits.softmax(1) - truth) ** 2 * counts.unsqueeze(1)).mean()

    return loss


def build_sampler() -> Callable[[PreparedSubject, Size, np.random.Generator], Size]:
    """Keeps the sampler contract: the same random state gives the same corner."""

    def corner(subject: PreparedSubject, patch: Size, rng: np.random.Generator) -> Size:
        x, y, z = (int(rng.integers(max(0, size - side) + 1)) for size, side in zip(subject.shape, patch, strict=True))
        return x, y, z

    return corner


class FakeEngine:
    """Keeps the engine contract: runs a torch network; without one, class 1 where the first channel is above zero."""

    runtime, device, precision, version = "fake", "cpu", "fp32", "1.0"
    batch = 3

    def __init__(
        self, network: torch.nn.Module | None = None, *, device: str = "cpu", threads: int | None = None
    ) -> None:
        self.calls = 0
        self._network = network

    def run(self, patches: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map patches (B, C, X, Y, Z) to logits (B, K, X, Y, Z)."""
        self.calls += 1
        if self._network is None:
            return np.stack([np.zeros_like(patches[:, 0]), patches[:, 0]], axis=1)
        import torch

        with torch.inference_mode():
            logits: NDArray[np.float32] = self._network.eval()(torch.from_numpy(patches)).numpy()
        return logits

    def close(self) -> None:
        """Let go of the network."""
        self._network = None


@click.command(epilog="Example: segkit fake")
@click.pass_obj
def greet(registry: Any) -> None:
    """Keeps the command contract: a click command that gets the registry."""
    click.echo(f"hello from {len(registry.entries)} plugins")
