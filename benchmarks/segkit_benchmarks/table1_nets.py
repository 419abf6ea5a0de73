"""What `segkit bench table1` measures: the networks of the thesis' Table 1, or any other model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from segkit.cards import ModelCard, OptionValue, Size
from segkit.errors import UnknownName
from segkit.patches import require_multiple
from segkit.training.recipes import SMALL_PATCH_VOXELS
from segkit_benchmarks.table1_result import Printed, Row
from segkit_benchmarks.thesis import ISEG, MRBRAINS, REASONS, ROWS
from segkit_benchmarks.thesis import Row as ThesisRow

if TYPE_CHECKING:
    import torch

    from segkit.registry import Registry

CLASSES = 4
"""Background, CSF, GM, WM."""

SEED = 0
"""Of random weights: each process builds the same network."""


@dataclass(frozen=True, kw_only=True)
class Net:
    """A network that is measured.

    Attributes:
        model: name of the plugin.
        channels: of its input.
        classes: of its output.
        patch: (x, y, z) voxels that are measured.
        patches: of the thesis, whose training memory is predicted besides.
        options: of the network.
        thesis: its row of the thesis' tables, if it has one.
    """

    model: str
    channels: int
    classes: int = CLASSES
    patch: Size
    patches: tuple[Size, ...] = ()
    options: Mapping[str, OptionValue] = field(default_factory=dict)
    thesis: ThesisRow | None = None

    @property
    def voxels(self) -> int:
        """Of a patch."""
        return math.prod(self.patch)

    def row(self) -> Row:
        """An empty row of the table."""
        printed = None
        if self.thesis:
            facts = dataclasses.asdict(self.thesis.table1)
            printed = Printed.model_validate({"title": self.thesis.title, **facts})
        return Row(
            model=self.model,
            printed=printed,
            reasons=dict(REASONS.get(self.model, {})) if printed else {},
            channels=self.channels,
            classes=self.classes,
            options=dict(self.options),
            patch=self.patch,
        )


def choose_nets(registry: Registry, models: Sequence[str], patch: Size | None, quick: bool) -> list[Net]:
    """The networks to measure.

    Args:
        registry: finds them.
        models: names; none for all of the thesis.
        patch: takes the place of the thesis' patch, or of the card's.
        quick: halve the sides of large patches.

    Raises:
        UnknownName: no such model.
        UsageError: a network does not take the patch.
    """
    thesis = {model: row for row in ROWS for model in row.models}
    return [_net(registry, model, thesis.get(model), patch, quick) for model in dict.fromkeys(models or thesis)]


def _net(registry: Registry, model: str, row: ThesisRow | None, patch: Size | None, quick: bool) -> Net:
    card: ModelCard = registry.card("model", model)
    printed = tuple(dict.fromkeys(row.table1.patches.values())) if row else ()
    measured = patch or (printed[0] if printed else card.patch)
    if quick and patch is None and math.prod(measured) > SMALL_PATCH_VOXELS:
        x, y, z = (max(card.multiple, side // 2 // card.multiple * card.multiple) for side in measured)
        measured = (x, y, z)
    require_multiple(measured, card.multiple, model)
    channels = card.in_channels or (row.modalities[ISEG] or row.modalities[MRBRAINS] if row else 1)
    return Net(model=model, channels=channels, patch=measured, patches=printed, thesis=row)


def build(registry: Registry, net: Net) -> torch.nn.Module:
    """The network with the same random weights each time, in eval mode."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return registry.build_model(net.model, net.channels, net.classes, net.options).eval()


@dataclass(frozen=True, kw_only=True)
class Way:
    """A runtime and a precision.

    Attributes:
        runtime: its name.
        precision: what it computes in.
        file: the file it takes: a precision, or "int8." and a recipe; "" for the network itself.
    """

    runtime: str
    precision: str
    file: str


TORCH = "torch"
ENGINE_RUNTIMES = ("tensorrt_rtx", "tensorrt")
RUNTIMES = (TORCH, "onnxruntime", "openvino", "tensorrt_rtx")
"""Measured where nobody chooses."""


def require_runtimes(registry: Registry, runtimes: Sequence[str]) -> None:
    """Refuse a runtime that nobody knows.

    Raises:
        UnknownName: it is neither built in nor a plugin.
    """
    known = [*RUNTIMES, *ENGINE_RUNTIMES, *(entry.name for entry, _ in registry.list("runtime"))]
    for runtime in runtimes:
        if runtime not in known:
            raise UnknownName("runtime", runtime, known)


def ways(runtimes: Sequence[str], precisions: Sequence[str]) -> Iterator[Way]:
    """Every runtime in every precision, precision by precision."""
    for precision in precisions:
        for runtime in runtimes:
            yield Way(runtime=runtime, precision=precision, file=_file(runtime, precision))


def _file(runtime: str, precision: str) -> str:
    if runtime == TORCH:
        return ""
    if precision == "int8":
        return f"int8.{'tensorrt' if runtime in ENGINE_RUNTIMES else runtime}"
    if runtime in ENGINE_RUNTIMES and precision in ("fp16", "bf16"):
        return precision
    return "fp32"  # OpenVINO lowers it itself
