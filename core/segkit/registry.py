"""The registry: what is installed, told from metadata alone, and each plugin loaded only when it is asked for.

It is a pure function of the environment: the entry points that are installed and the switches. Import, validation,
registration and the hook call of a plugin are each guarded, so a broken plugin is a row in a listing and an error only
for who asks for it. Installing a plugin means trusting it: its code runs when it is used.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from segkit.cards import API, Card
from segkit.errors import AmbiguousName, MissingExtra, SegkitError, UnknownName, UsageError
from segkit.installed import Entry, Kind, describe, installed_entries, normalise
from segkit.loader import Failure, Status, load_cards, stdout_kept

if TYPE_CHECKING:
    import torch


CORE_COMMANDS = ("models", "plugins", "data", "train", "evaluate")
"""Sub-commands that are no plugins, and that no plugin replaces."""


@dataclass(frozen=True)
class Switches:
    """What may be loaded, decided before any import. Names are entry points, distributions or `distribution:name`.

    Attributes:
        builtin_only: load nothing but what segkit itself brings.
        only: if not empty, load of third parties only these.
        disabled: never load these.
    """

    builtin_only: bool = False
    only: tuple[str, ...] = ()
    disabled: tuple[str, ...] = ()

    @classmethod
    def from_environment(
        cls, environ: Mapping[str, str] | None = None, *, builtin_only: bool = False, disabled: Sequence[str] = ()
    ) -> Switches:
        """Join the command line's switches with SEGKIT_PLUGINS and SEGKIT_DISABLE_PLUGINS (names, by comma)."""
        environ = os.environ if environ is None else environ
        return cls(
            builtin_only,
            _names(environ.get("SEGKIT_PLUGINS", "")),
            (*disabled, *_names(environ.get("SEGKIT_DISABLE_PLUGINS", ""))),
        )

    def forbid(self, entry: Entry) -> bool:
        """Whether the entry is switched off."""
        if _is_named(entry, self.disabled):
            return True
        return not entry.builtin and (self.builtin_only or (bool(self.only) and not _is_named(entry, self.only)))


@dataclass
class Registry:
    """What is installed and what may be used of it.

    Args:
        entries: all entry points of segkit's groups.
        switches: what may be loaded.

    Raises:
        UnknownName: a switch names nothing that is installed.
    """

    entries: Sequence[Entry]
    switches: Switches = field(default_factory=Switches)
    _loaded: dict[tuple[Kind, str], list[Card] | Failure] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for name in (*self.switches.only, *self.switches.disabled):
            if not any(_is_named(entry, [name]) for entry in self.entries):
                raise UnknownName("plugin", name, {known for e in self.entries for known in (e.name, e.distribution)})

    @classmethod
    def from_environment(cls, switches: Switches | None = None) -> Registry:
        """The registry of this interpreter, from the metadata of what is installed; nothing is imported."""
        return cls(list(installed_entries()), switches or Switches.from_environment())

    def list(self, kind: Kind) -> list[tuple[Entry, Status]]:
        """All entries of a kind and their status as far as metadata tells it, sorted by name."""
        entries = sorted(
            (e for e in self.entries if e.kind == kind), key=lambda e: (e.name, not e.builtin, e.distribution)
        )
        return [(entry, self._status(entry)) for entry in entries]

    def resolve(self, kind: Kind, name: str) -> Entry:
        """Find the entry of a bare or qualified name.

        Raises:
            UnknownName: there is none; carries the nearest name.
            AmbiguousName: several third parties claim the bare name.
            UsageError: it is switched off.
        """
        claims = [e for e in self.entries if e.kind == kind and e.is_called(name)]
        allowed = [e for e in claims if not self.switches.forbid(e)]
        if claims and not allowed:
            raise switched_off(kind, name)
        if not allowed:
            raise UnknownName(
                kind, name, [e.name for e in self.entries if e.kind == kind and not self.switches.forbid(e)]
            )
        builtin = [e for e in allowed if e.builtin]
        if builtin or len(allowed) == 1:
            return (builtin or allowed)[0]
        raise AmbiguousName(
            f"expected one {kind} {name!r}, {len(allowed)} distributions bring it",
            hint="use " + " or ".join(sorted(e.qualified for e in allowed)),
        )

    def card(self, kind: Kind, name: str) -> Any:
        """Load the plugin behind a name and return its card.

        Raises:
            UnknownName, AmbiguousName, UsageError: see `resolve`.
            PluginError: the plugin is broken or incompatible.
        """
        return self.card_of(self.resolve(kind, name))

    def card_of(self, entry: Entry) -> Any:
        """Load the plugin behind an entry and return its card.

        Raises:
            PluginError: the plugin is broken or incompatible.
        """
        card = self.try_card(entry)
        if isinstance(card, Failure):
            card.raise_for()
        return card

    def try_card(self, entry: Entry) -> Card | Failure:
        """Load the plugin behind an entry; a failure is returned, not raised."""
        key = (entry.kind, entry.value)
        if key not in self._loaded:
            self._loaded[key] = load_cards(entry)
        cards = self._loaded[key]
        if isinstance(cards, Failure):
            return Failure(entry, cards.stage, cards.error, cards.status, cards.cause)
        card = next((card for card in cards if card.name == entry.name), None)
        if card is None:
            names = ", ".join(card.name for card in cards) or "none"
            return Failure(entry, "card", f"expected a card named {entry.name!r}, the hook returned {names}")
        if not isinstance(card.api, int) or card.api > API:
            return Failure(
                entry, "card", f"card api {card.api!r}, this segkit knows {API}: upgrade segkit3d", "incompatible"
            )
        return card

    def build(self, kind: Kind, name: str) -> Any:
        """Import the heavy part behind a name and return it.

        Raises:
            PluginError: it cannot be imported.
        """
        built = self.try_build(self.resolve(kind, name))
        if isinstance(built, Failure):
            built.raise_for()
        return built

    def try_build(self, entry: Entry) -> Any | Failure:
        """Import the heavy part behind an entry; a failure is returned, not raised."""
        card = self.try_card(entry)
        if isinstance(card, Failure):
            return card
        try:
            with stdout_kept():
                return card.load()
        except (Exception, SystemExit) as error:
            return Failure(entry, "factory", describe(error), cause=error)

    def build_model(
        self, name: str, in_channels: int, classes: int, options: Mapping[str, Any] | None = None
    ) -> torch.nn.Module:
        """Build a network.

        Args:
            name: bare or qualified name.
            in_channels: number of modalities, and one more where a mask goes with them.
            classes: number of classes, background included.
            options: options of the card, where they differ from its defaults.

        Raises:
            UsageError: the network takes another number of channels.
            UnknownName: an option that the card does not have.
            MissingExtra: torch is not installed.
            PluginError: the plugin does not work, or its network cannot be built with these options.
        """
        entry = self.resolve("model", name)
        card = self.card_of(entry)
        options = dict(options or {})
        for option in options:
            if option not in card.options:
                raise UnknownName(f"option of model {name}", option, card.options)
        if card.in_channels not in (None, in_channels):
            raise UsageError(
                f"expected {card.in_channels} channels for model {name!r}, got {in_channels}",
                hint="choose modalities with --modality; the mask of --background mask is a channel too",
            )
        try:
            from torch import nn
        except ImportError:
            raise MissingExtra("torch", "train", "a network") from None
        factory = self.build("model", name)
        try:
            with stdout_kept():
                network = factory(in_channels, classes, **options)
        except SegkitError:
            raise
        except (Exception, SystemExit) as error:
            chosen = "".join(f", {key}={value!r}" for key, value in options.items())
            built = f"called with ({in_channels}, {classes}{chosen}), {describe(error)}"
            Failure(entry, "factory", built, cause=error).raise_for()
        if not isinstance(network, nn.Module):
            Failure(entry, "factory", f"expected a torch.nn.Module, got {type(network).__name__}").raise_for()
        return network

    def _status(self, entry: Entry) -> Status:
        if self.switches.forbid(entry):
            return "disabled"
        if entry.kind == "command" and entry.name in CORE_COMMANDS:
            return "shadowed"
        rivals = [
            e
            for e in self.entries
            if e is not entry and (e.kind, e.name) == (entry.kind, entry.name) and not self.switches.forbid(e)
        ]
        if entry.builtin or not rivals:
            return "ok"
        return "shadowed" if any(e.builtin for e in rivals) else "ambiguous"


def switched_off(what: str, name: str) -> UsageError:
    """What someone who asked for a plugin that a switch forbids should read."""
    return UsageError(
        f"expected {what} {name!r} to be enabled, it is switched off",
        hint="drop --no-plugin(s), or SEGKIT_PLUGINS and SEGKIT_DISABLE_PLUGINS",
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _is_named(entry: Entry, names: Sequence[str]) -> bool:
    return any(entry.is_called(name) or normalise(name) == entry.distribution for name in names)
