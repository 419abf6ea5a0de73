"""Cards: what a plugin says about a thing before the thing is built.

A card is light: a frozen dataclass of plain values. The heavy part is named by a string, `"package.module:attribute"`,
and imported only when it is built, so a plugin module never imports torch at its top.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

API = 1
"""The version of the card contract that this core knows. A card with a higher one is incompatible, not an error."""

Size = tuple[int, int, int]

OptionValue = int | float | str | bool
"""What an option of a card may be: a value that the command line and JSON can hold."""

Options = Mapping[str, OptionValue]


@dataclass(frozen=True, kw_only=True)
class Card:
    """What every card has.

    Attributes:
        name: the public name, equal to the name of the entry point.
        factory: `"package.module:attribute"`, imported on use.
        summary: one line for listings.
        api: the version of the card contract it was written for.
    """

    name: str
    factory: str
    summary: str
    api: int = API

    def load(self) -> Any:
        """Import the heavy part and return it.

        Raises:
            ImportError: the module cannot be imported.
            AttributeError: it has no such attribute.
        """
        return load_attribute(self.factory)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Where a network or a method was published."""

    title: str
    year: int
    doi: str


@dataclass(frozen=True, kw_only=True)
class ModelCard(Card):
    """A network: `factory(in_channels, classes, **options)` returns an `nn.Module`.

    The module maps `(B, C, X, Y, Z)` float32 to logits `(B, K, X, Y, Z)`.

    Attributes:
        patch: the patch size (x, y, z) in voxels it is trained on by default.
        multiple: each side of a patch must be a multiple of this many voxels; a network whose options change that
            says so in an attribute `multiple` of its own, and one that takes a single size in `fixed_patch` (x, y, z).
        in_channels: the only number of input channels it takes, or None for any number from 1 up.
        options: further arguments of the factory, with their defaults: numbers, texts, true or false.
        licence: SPDX name of the licence of the code.
        reference: where the network was published.
    """

    patch: Size
    multiple: int = 1
    in_channels: int | None = None
    options: Options = field(default_factory=dict)
    licence: str = "not stated"
    reference: Reference | None = None


@dataclass(frozen=True, kw_only=True)
class Label:
    """A class of a data set. The class index is its place in the tuple of labels.

    Attributes:
        code: its code in label files, and the one that is written.
        name: what people call it.
        merged: further codes that are read as this class.
    """

    code: int
    name: str
    merged: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DatasetCard(Card):
    """A data set: `factory(root, **options) -> list[Subject]` finds the subjects of a folder. Core reads the files.

    Attributes:
        labels: the classes in the order of their indices; index 0 is background. Empty where there are none, or where
            `read_labels` finds them.
        ignored: codes in label files that are neither trained on nor scored.
        read_labels: `"package.module:attribute"` of `read_labels(root, **options) -> (labels, ignored)`, for a data
            set whose classes depend on the folder or on the options.
        options: further arguments of the factory, with their defaults.
        make: `"package.module:attribute"` of a function that makes the data set, if it can be made:
            `make(root, preset, subjects, seed, progress)`.
        presets: names that `make` takes, with a line on each.
        contrast: `"package.module:attribute"` of `contrast(seed) -> Sequence[segkit.contrast.ContrastSeries]`, for a
            data set that computes its images: how the timing of a sequence changes the contrast of a slice.
        reference: where the data set was published.
    """

    labels: tuple[Label, ...] = ()
    ignored: tuple[int, ...] = ()
    read_labels: str | None = None
    options: Options = field(default_factory=dict)
    make: str | None = None
    presets: Mapping[str, str] = field(default_factory=dict)
    contrast: str | None = None
    reference: Reference | None = None


@dataclass(frozen=True, kw_only=True)
class LossCard(Card):
    """A loss: `factory(**options)` returns a callable `(logits, target, ignore) -> scalar`.

    Logits are `(B, K, X, Y, Z)` float32, the target `(B, X, Y, Z)` int64; voxels of target `ignore` count nothing.

    Attributes:
        options: arguments of the factory, with their defaults.
        class_shares: the factory also takes `class_shares`: of each class, its share (0 to 1) of the training voxels
            that are not ignored.
        weight_map: `"package.module:attribute"` of `weight_map(label, spacing_mm, **options)`, which gives each voxel
            of a subject, `(X, Y, Z)` uint8 classes, a float32 weight. It is computed once per subject and stored; the
            loss is then called with a fourth argument, `weights` `(B, X, Y, Z)`.
    """

    options: Options = field(default_factory=dict)
    class_shares: bool = False
    weight_map: str | None = None


@dataclass(frozen=True, kw_only=True)
class SamplerCard(Card):
    """A sampler: `factory()` returns a callable `(subject, patch, rng) -> start corner (x, y, z)`.

    `subject` is a `segkit.store.PreparedSubject`, `rng` a `numpy.random.Generator`; one state gives one corner.
    """


@dataclass(frozen=True, kw_only=True)
class RuntimeCard(Card):
    """An engine: `factory(model, *, threads)` returns a `segkit.inference.Engine`.

    `segkit profile` measures every runtime. Proof and segmentation keep to the closed table of
    `segkit_runtime.engines`, since beside a scanner nothing is looked up by name.

    Attributes:
        takes: what `model` is: the bytes of an ONNX file, or the torch network itself, whose factory also takes a
            `device`.
        module: the module that must be importable for it to run.
        extra: the extra of segkit3d that brings that module.
    """

    module: str
    extra: str
    takes: Literal["onnx", "network"] = "onnx"


@dataclass(frozen=True, kw_only=True)
class CommandCard(Card):
    """A sub-command of `segkit`: the factory is a `click.Command`."""


def load_attribute(path: str) -> Any:
    """Import `"package.module:attribute"`."""
    if not isinstance(path, str) or ":" not in path:
        raise TypeError(f"expected 'package.module:attribute' on the card, got {path!r}")
    module, _, attribute = path.partition(":")
    return getattr(importlib.import_module(module), attribute)
