"""What is exported: a run with its best weights, or the bare architecture of a model with random ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from segkit.cards import Label, ModelCard, OptionValue, Size
from segkit.errors import DataError, UnknownName, UsageError
from segkit.inference import Tiling
from segkit.patches import require_multiple
from segkit.preprocess import Preprocessing
from segkit.run import Run
from segkit_runtime.manifest import Network, Spacing, Weights

if TYPE_CHECKING:
    import torch

    from segkit.installed import Entry
    from segkit.registry import Registry

SEED = 0
"""The seed of random weights: the same architecture gives the same bundle each time."""

CLASSES = 4


@dataclass(frozen=True, kw_only=True)
class BareOptions:
    """What a run would say and a bare architecture cannot; None stands for the default.

    Attributes:
        modalities: their names, in channel order.
        classes: number of classes, background included.
        options: options of the network.
    """

    modalities: tuple[str, ...] | None = None
    classes: int | None = None
    options: Mapping[str, OptionValue] | None = None

    @property
    def given(self) -> bool:
        """Whether any of them was chosen."""
        return any(value is not None for value in (self.modalities, self.classes, self.options))


@dataclass(frozen=True, kw_only=True)
class Source:
    """A network and all that its bundle must say of it.

    Attributes:
        name: public name of the model.
        network: in eval mode, on the CPU.
        modalities: their names, in channel order.
        labels: the classes, in the order of the output channels.
        multiple: what each side of a patch is a multiple of.
        tiling: how whole volumes are cut and put together.
        preprocessing: of the modalities of a volume.
        spacing: voxel sizes it was trained for, or None for random weights.
        origin: where the network comes from and how large it is.
        weights: what the weights are worth.
        run: the run it comes from, or None for a bare architecture.
    """

    name: str
    network: torch.nn.Module
    modalities: tuple[str, ...]
    labels: tuple[Label, ...]
    multiple: int
    tiling: Tiling
    preprocessing: Preprocessing
    spacing: Spacing | None
    origin: Network
    weights: Weights
    run: Run | None

    @property
    def channels(self) -> int:
        """Channels of the network's input."""
        return self.preprocessing.channels(len(self.modalities))


@dataclass(frozen=True, kw_only=True)
class Target:
    """What was named on the command line, before anything is built: a run, or a model if `run` is None."""

    entry: Entry
    run: Run | None

    @property
    def default_out(self) -> Path:
        """Where the bundle goes if nobody says otherwise: into the run, or into the current folder."""
        return (self.run.folder if self.run else Path()) / f"{self.entry.name}.segkit"


def find_target(name: str, registry: Registry) -> Target:
    """Tell a run from a model: a folder with a `config.json` is a run, everything else should be the name of a model.

    Raises:
        UnknownName: it is neither; carries the nearest model as its hint.
        DataError: it is a folder but no run, or the config of the run is not what this version writes.
        AmbiguousName, UsageError: see `Registry.resolve`.
    """
    folder = Path(name)
    if (folder / "config.json").is_file():
        run = Run.open(folder)
        return Target(entry=registry.resolve("model", run.config.model), run=run)
    try:
        return Target(entry=registry.resolve("model", name), run=None)
    except UnknownName as error:
        if folder.is_dir():
            Run.open(folder)
        raise UnknownName("run folder or model", name, (), hint=error.hint) from None


def open_source(
    target: Target, registry: Registry, *, patch: Size | None = None, bare: BareOptions | None = None
) -> Source:
    """Build what is exported.

    Args:
        target: a run or a model.
        registry: where models are found.
        patch: size (x, y, z) in voxels, or None for the run's or the card's.
        bare: what a run says itself; refused for a run.

    Raises:
        UsageError: the patch does not fit the network, a run is given options of a bare architecture, or the network
            takes another number of modalities.
        DataError: the run has no weights yet, or its scores cannot be read.
        PluginError: the plugin of the model does not work.
    """
    card: ModelCard = registry.card_of(target.entry)
    bare = bare or BareOptions()
    if target.run is None:
        return _from_card(target.entry, card, registry, patch or card.patch, bare)
    if bare.given:
        raise UsageError(
            f"expected {target.run.folder} to say its modalities, classes and options itself, got them again",
            hint="leave out --modality, --modalities, --classes and --option, which are for a bare model",
        )
    return _from_run(target.run, target.entry, card, registry, patch or target.run.config.patch)


def _from_run(run: Run, entry: Entry, card: ModelCard, registry: Registry, patch: Size) -> Source:
    config = run.config
    network = run.build_network(registry)
    multiple = getattr(network, "multiple", card.multiple)
    require_multiple(patch, multiple, card.name)
    return Source(
        name=card.name,
        network=network,
        modalities=config.modalities,
        labels=config.labels,
        multiple=multiple,
        tiling=Tiling(patch, config.overlap),
        preprocessing=config.preprocessing,
        spacing=Spacing(least_mm=config.least_spacing_mm, most_mm=config.most_spacing_mm),
        origin=_describe(entry, network, {**card.options, **config.options}, config.channels, patch),
        weights=Weights(
            trained=True,
            dataset=config.dataset,
            train_subjects=list(config.train_subjects),
            held_out_subjects=list(config.held_out_subjects),
            dice=_read_dice(run),
            sha256=run.weights_sha256(),
        ),
        run=run,
    )


def _from_card(entry: Entry, card: ModelCard, registry: Registry, patch: Size, bare: BareOptions) -> Source:
    import torch

    modalities = bare.modalities or default_modalities(card.in_channels or 1)
    if len(set(modalities)) < len(modalities):
        raise UsageError(f"expected each modality once, got {', '.join(modalities)}")
    classes = CLASSES if bare.classes is None else bare.classes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        network = registry.build_model(entry.qualified, len(modalities), classes, bare.options).eval()
    multiple = getattr(network, "multiple", card.multiple)
    require_multiple(patch, multiple, card.name)
    return Source(
        name=card.name,
        network=network,
        modalities=tuple(modalities),
        labels=(
            Label(code=0, name="background"),
            *(Label(code=code, name=f"class {code}") for code in range(1, classes)),
        ),
        multiple=multiple,
        tiling=Tiling(patch),
        preprocessing=Preprocessing(background="zero"),  # of a mask a bare architecture knows nothing
        spacing=None,
        origin=_describe(entry, network, {**card.options, **(bare.options or {})}, len(modalities), patch),
        weights=Weights(trained=False),
        run=None,
    )


def default_modalities(count: int) -> tuple[str, ...]:
    """Names for channels of which nothing is known: "image", or "image1", "image2" ..."""
    return ("image",) if count == 1 else tuple(f"image{index + 1}" for index in range(count))


def _describe(
    entry: Entry, network: torch.nn.Module, options: Mapping[str, OptionValue], in_channels: int, patch: Size
) -> Network:
    from segkit.complexity import RULES, measure

    try:
        size = measure(network, in_channels, patch)
    except (ValueError, RuntimeError) as error:
        raise UsageError(
            f"expected a patch that {entry.name} takes, {'x'.join(map(str, patch))} gives {type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}",
            hint="choose a larger --patch",
        ) from error
    return Network(
        model=entry.qualified,
        version=entry.version,
        options=dict(options),
        parameters=size.parameters,
        layers={rule: getattr(size, rule) for rule in RULES},
        layer_rules=dict(RULES),
        macs=size.macs,
    )


def _read_dice(run: Run) -> dict[str, float] | None:
    """Mean Dice of each class that occurs on held-out subjects, if these very weights were evaluated."""
    path = run.folder / "scores.json"
    if not path.is_file():
        return None
    try:
        scores = json.loads(path.read_text())
        if scores["weights_sha256"] != run.weights_sha256():
            return None
        return {str(name): float(value) for name, value in scores["mean"].items() if value is not None}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"expected scores with the mean Dice of each class in {path}, found {type(error).__name__}: {error}",
            hint="write them again: segkit evaluate",
        ) from None
