"""The public names, which only ever grow; hooks and cards are in `test_contract`."""

from __future__ import annotations

import importlib

import pytest

import segkit
from segkit import registry

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


def test_public_names_are_these():
    assert sorted(segkit.__all__) == NAMES
    assert dir(segkit) == sorted(segkit.__all__)


@pytest.mark.parametrize("name", NAMES)
def test_public_name_loads(name):
    assert getattr(segkit, name) is not None


def test_name_that_is_not_public_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"module 'segkit' has no attribute 'read_volumes'"):
        _ = segkit.read_volumes


def test_core_commands_of_the_registry_are_those_of_the_command_line():
    command_line = importlib.import_module("segkit.cli")
    assert tuple(command_line._BUILTIN) == registry.CORE_COMMANDS
