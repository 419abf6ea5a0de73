"""What others build on: names and signatures that only ever grow."""

from __future__ import annotations

import dataclasses
import importlib
import inspect

import pytest

import segkit
from segkit import cards, hookspecs, installed, loader, registry

NAMES = [
    "Card",
    "CommandCard",
    "DatasetCard",
    "Engine",
    "Label",
    "LossCard",
    "ModelCard",
    "Reference",
    "Registry",
    "RuntimeCard",
    "SamplerCard",
    "SegkitError",
    "Subject",
    "Volume",
    "__version__",
    "hookimpl",
    "read_volume",
    "segment_volume",
    "write_volume",
]

HOOKS = {
    "segkit_models": "() -> 'list[ModelCard]'",
    "segkit_datasets": "() -> 'list[DatasetCard]'",
    "segkit_losses": "() -> 'list[LossCard]'",
    "segkit_samplers": "() -> 'list[SamplerCard]'",
    "segkit_runtimes": "() -> 'list[RuntimeCard]'",
    "segkit_commands": "() -> 'list[CommandCard]'",
}

BASE = {"name": True, "factory": True, "summary": True, "api": False}
FIELDS = {
    "ModelCard": BASE
    | {"patch": True, "multiple": False, "in_channels": False, "options": False, "licence": False, "reference": False},
    "DatasetCard": BASE
    | dict.fromkeys(("labels", "ignored", "read_labels", "options", "make", "presets", "contrast", "reference"), False),
    "LossCard": BASE | {"options": False, "class_shares": False, "weight_map": False},
    "SamplerCard": BASE,
    "RuntimeCard": BASE | {"module": True, "extra": True, "takes": False},
    "CommandCard": BASE,
    "Label": {"code": True, "name": True, "merged": False},
    "Reference": {"title": True, "year": True, "doi": True},
}
"""The fields of each card, and whether a plugin must give them. A new one must have a default."""


def test_public_names_are_these():
    assert sorted(segkit.__all__) == NAMES
    assert dir(segkit) == sorted(segkit.__all__)


@pytest.mark.parametrize("name", NAMES)
def test_public_name_loads(name):
    assert getattr(segkit, name) is not None


def test_name_that_is_not_public_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"module 'segkit' has no attribute 'read_volumes'"):
        _ = segkit.read_volumes


def test_hooks_are_these_with_these_signatures():
    hooks = {name: value for name, value in vars(hookspecs).items() if name.startswith("segkit_")}
    assert {name: str(inspect.signature(hook)) for name, hook in hooks.items()} == HOOKS
    assert all(hook.__doc__ for hook in hooks.values())


def test_every_kind_has_a_hook_and_a_card():
    assert {f"segkit_{plural}" for plural in installed.KINDS.values()} == set(HOOKS)
    assert {kind: card.__name__ for kind, card in loader.CARDS.items()} == {
        kind: HOOKS[f"segkit_{plural}"].partition("[")[2].rstrip("]'") for kind, plural in installed.KINDS.items()
    }


@pytest.mark.parametrize("card", FIELDS)
def test_cards_have_these_fields_and_ask_for_no_more(card):
    fields = {
        field.name: field.default is field.default_factory is dataclasses.MISSING
        for field in dataclasses.fields(getattr(cards, card))
    }
    assert fields == FIELDS[card]


def test_core_commands_of_the_registry_are_those_of_the_command_line():
    command_line = importlib.import_module("segkit.cli")
    assert tuple(command_line._BUILTIN) == registry.CORE_COMMANDS
