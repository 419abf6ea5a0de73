"""What segkit itself brings keeps its contracts, by the checks that third parties use.

Networks are run through all checks by their own tests; here are their cards, and all of the kinds that are quick.
"""

from __future__ import annotations

from typing import Any

import pytest

from segkit import Registry
from segkit.conformance import checks_for
from segkit.installed import KINDS, Entry
from segkit.registry import Switches

BUILT_IN = Registry.from_environment(Switches(builtin_only=True))
ENTRIES = [entry for kind in KINDS for entry, _ in BUILT_IN.list(kind)]
MODULES = {(entry.value, entry.kind): entry for entry in ENTRIES}

CHEAP = ("card", "licence", "reference", "factory", "options", "empty")


def ids(value: Any) -> str:
    return f"{value.kind}-{value.name}" if isinstance(value, Entry) else ""


def assert_passed(entry: Entry, *ids: str) -> None:
    checks = checks_for(BUILT_IN.card_of(entry), plugin=entry.value)
    asked = [check for check in checks if not ids or check.id in ids]
    assert asked
    assert {check.id: str(check.run()) for check in asked if check.run().status == "failed"} == {}


@pytest.mark.parametrize("entry", ENTRIES, ids=ids)
def test_every_card_is_true(entry: Entry) -> None:
    assert_passed(entry, *CHEAP)


@pytest.mark.parametrize("entry", MODULES.values(), ids=ids)
def test_every_plugin_module_is_light(entry: Entry) -> None:
    assert_passed(entry, "light")


@pytest.mark.parametrize("entry", [e for e in ENTRIES if e.kind in ("sampler", "loss")], ids=ids)
def test_every_sampler_and_loss_conforms(entry: Entry) -> None:
    rest = {check.id for check in checks_for(BUILT_IN.card_of(entry))} - {"light", *CHEAP}
    assert_passed(entry, *rest)


@pytest.mark.parametrize("entry", [e for e in ENTRIES if e.kind == "command"], ids=ids)
def test_every_command_has_light_help_with_an_example(entry: Entry) -> None:
    assert_passed(entry, "help", "help-light", "example")


@pytest.mark.parametrize("entry", [e for e in ENTRIES if e.kind == "runtime"], ids=ids)
def test_every_runtime_computes_as_the_reference(entry: Entry) -> None:
    assert_passed(entry, "computes", "says", "close")


def test_the_phantom_conforms() -> None:
    assert_passed(BUILT_IN.resolve("dataset", "phantom"), "make", "subjects", "labels", "geometry")
