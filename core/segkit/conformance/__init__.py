"""The checks that a plugin keeps its contract: for `segkit plugins check`, for the tests of authors, and for ours.

    @pytest.mark.parametrize("check", checks_for(card), ids=str)
    def test_my_network_conforms(check):
        check()                               # one test for each promise; what does not apply is skipped

    def test_my_network_conforms_in_one_test():
        assert_model_conforms(card)

It works on small volumes on the CPU. A failure says what was expected, what was found, and what to do.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from segkit.cards import Card, ModelCard, Options, load_attribute
from segkit.conformance.check import Candidate, Check, NotApplicable, Outcome, Rule
from segkit.conformance.light import HEAVY
from segkit.conformance.patches import small_patch
from segkit.errors import PluginError
from segkit.installed import OWN_DISTRIBUTION, Kind, normalise

__all__ = [
    "HEAVY",
    "Check",
    "NotApplicable",
    "Outcome",
    "Rule",
    "assert_conforms",
    "assert_model_conforms",
    "checks_for",
    "small_patch",
]

_RULES: dict[Kind, tuple[str, ...]] = {
    "model": ("card_rules:MODEL", "models:RULES"),
    "dataset": ("card_rules:DATASET", "datasets:RULES"),
    "loss": ("card_rules:LOSS", "losses:RULES"),
    "sampler": ("card_rules:SAMPLER", "samplers:RULES"),
    "runtime": ("card_rules:RUNTIME",),
    "command": ("card_rules:COMMAND", "commands:RULES"),
}
"""Where core keeps the rules of each kind."""

_GROUP = "segkit.checks"
"""Entry points of segkit's own rooms above core: modules whose `RULES` adds rules to a kind. No door for plugins."""


def checks_for(
    card: Card,
    *,
    plugin: str | None = None,
    channels: Iterable[int] = (1, 2, 3, 4),
    options: Options | None = None,
    data: Path | None = None,
    export: bool = True,
) -> list[Check]:
    """Return the checks of a card, in the order in which they make sense. None has run, and nothing heavy is imported.

    Args:
        card: of any kind.
        plugin: the module that the entry point names; the package of the factory where it is left out.
        channels: numbers of input channels to try with a network, where its card allows any.
        options: of the factory, over the card's own.
        data: a folder in the layout of a data set, for checks that read it.
        export: with the checks that need the export layer: ONNX, TensorRT, memory, and what a runtime computes.
    """
    kind = kind_of(card)
    fixed = getattr(card, "in_channels", None)
    candidate = Candidate(
        kind=kind,
        card=card,
        plugin=plugin or str(card.factory).partition(":")[0].partition(".")[0],
        names_plugin=plugin is not None,
        channels=(fixed,) if fixed else tuple(channels),
        options={**getattr(card, "options", {}), **(options or {})},
        data=data,
    )
    return [candidate.add(rule) for rule in rules_of(kind, export=export)]


def rules_of(kind: Kind, *, export: bool = True) -> Iterator[Rule]:
    """The rules of a kind, core's first."""
    for place in _RULES[kind]:
        yield from load_attribute(f"segkit.conformance.{place}")
    if export:
        for point in importlib.metadata.entry_points(group=_GROUP):
            if point.dist is not None and normalise(point.dist.name) == OWN_DISTRIBUTION:
                yield from point.load().RULES.get(kind, ())


def kind_of(card: Card) -> Kind:
    """The kind that a card is of."""
    from segkit.loader import CARDS

    for kind, card_class in CARDS.items():
        if isinstance(card, card_class):
            return kind
    raise PluginError(
        f"expected a card of one of the kinds {', '.join(CARDS)}, got {type(card).__name__}",
        hint="return a ModelCard, a DatasetCard ... from the hook",
    )


def assert_conforms(card: Card, *, skip: Collection[str] = (), **settings: Any) -> None:
    """Raise unless a card and what it names keep the contract of its kind.

    Args:
        card: of any kind.
        skip: ids of checks that are left out.
        settings: as for `checks_for`.

    Raises:
        PluginError: they do not; the message has a line for each check that failed.
    """
    checks = [check for check in checks_for(card, **settings) if check.id not in skip]
    failed = {check.id: outcome for check in checks if (outcome := check.run()).status == "failed"}
    if failed:
        head = f"the {kind_of(card)} {card.name!r} breaks the contract of {type(card).__name__}:"
        raise PluginError("\n".join([head, *(f"{id_}: {outcome}" for id_, outcome in failed.items())]))


def assert_model_conforms(
    card: ModelCard,
    *,
    plugin: str | None = None,
    channels: Iterable[int] = (1, 2, 3, 4),
    export: bool = True,
    **options: Any,
) -> None:
    """Raise unless a network keeps the contract of `ModelCard`; arguments as for `checks_for`.

    Raises:
        PluginError: it does not; the message has a line for each check that failed.
    """
    assert_conforms(card, plugin=plugin, channels=channels, export=export, options=options)
