"""What plugins are built against only ever grows: the hooks and the cards, held against `contract.json`.

A new hook, a new field with a default, or a new argument of a hook is added to that file by hand, or with:

    python tests/core/test_contract.py
"""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from segkit import cards, dataset, hookspecs, installed, loader

SNAPSHOT = Path(__file__).with_name("contract.json")

CLASSES = (*loader.CARDS.values(), cards.Label, cards.Reference, dataset.Subject)
"""What plugins make."""


def contract() -> dict[str, Any]:
    """Hooks with what they take and return; classes with their fields, and whether a plugin must give them."""
    hooks = {name: value for name, value in vars(hookspecs).items() if name.startswith("segkit_")}
    return {
        "api": cards.API,
        "hooks": {
            name: {
                "arguments": list(inspect.signature(hook).parameters),
                "returns": inspect.signature(hook).return_annotation,
            }
            for name, hook in hooks.items()
        },
        "classes": {
            made.__name__: {
                field.name: {
                    "type": field.type,
                    "required": field.default is field.default_factory is dataclasses.MISSING,
                }
                for field in dataclasses.fields(made)
            }
            for made in CLASSES
        },
    }


def breaks(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What a plugin that was built against `before` would trip over."""
    found = []
    for name, hook in before["hooks"].items():
        if name not in now["hooks"]:
            found.append(f"the hook {name} is gone")
        elif missing := [a for a in hook["arguments"] if a not in now["hooks"][name]["arguments"]]:
            found.append(f"the hook {name} has lost {', '.join(missing)}")
        elif hook["returns"] != now["hooks"][name]["returns"]:
            found.append(f"the hook {name} returned {hook['returns']}, now {now['hooks'][name]['returns']}")
    for name, fields in before["classes"].items():
        found += [f"{name} {problem}" for problem in field_breaks(fields, now["classes"].get(name, {}))]
    return found


def field_breaks(before: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    """The same for the fields of one class."""
    for field in before:
        if field not in now:
            yield f"has lost the field {field}"
    for field, said in now.items():
        if said["required"] and not before.get(field, {"required": False})["required"]:
            yield f"must now be given {field}"


def test_no_hook_and_no_field_has_gone_or_asks_for_more():
    found = breaks(json.loads(SNAPSHOT.read_text()), contract())
    assert found == [], (
        "plugins that are out there would break; keep the old name beside the new one, and give it a default"
    )


def test_what_is_new_is_in_the_snapshot():
    assert json.loads(SNAPSHOT.read_text()) == contract(), f"write it down, it stays: python {Path(__file__).name}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda now: now["hooks"].pop("segkit_losses"), "the hook segkit_losses is gone"),
        (lambda now: now["classes"]["ModelCard"].pop("licence"), "ModelCard has lost the field licence"),
        (
            lambda now: now["classes"]["LossCard"]["options"].update(required=True),
            "LossCard must now be given options",
        ),
        (
            lambda now: now["classes"]["Label"].update(colour={"type": "str", "required": True}),
            "Label must now be given colour",
        ),
        (
            lambda now: now["hooks"]["segkit_models"].update(returns="ModelCard"),
            "the hook segkit_models returned list[ModelCard], now ModelCard",
        ),
    ],
)
def test_a_break_is_named(change, message):
    now = contract()
    change(now)
    assert breaks(contract(), now) == [message]


def test_growing_breaks_nothing():
    now = contract()
    now["hooks"]["segkit_models"]["arguments"].append("width")
    now["hooks"]["segkit_metrics"] = {"arguments": [], "returns": "list[MetricCard]"}
    now["classes"]["Label"]["colour"] = {"type": "str", "required": False}
    assert breaks(contract(), now) == []


def test_every_kind_has_a_hook_that_returns_its_cards():
    returned = {name: hook["returns"] for name, hook in contract()["hooks"].items()}
    assert returned == {
        f"segkit_{plural}": f"list[{loader.CARDS[kind].__name__}]" for kind, plural in installed.KINDS.items()
    }


if __name__ == "__main__":
    SNAPSHOT.write_text(json.dumps(contract(), indent=1) + "\n")
