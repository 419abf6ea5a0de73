"""Loading one plugin: import, registration, validation and the hook call, each guarded, in a manager of its own."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

from segkit.cards import Card, CommandCard, DatasetCard, LossCard, ModelCard, RuntimeCard, SamplerCard
from segkit.errors import PluginError
from segkit.installed import KINDS, Entry, Kind, describe

Status = Literal["ok", "disabled", "ambiguous", "shadowed", "broken", "incompatible"]

Stage = Literal["import", "validate", "register", "call", "card", "factory"]

CARDS: Mapping[Kind, type[Card]] = {
    "model": ModelCard,
    "dataset": DatasetCard,
    "loss": LossCard,
    "sampler": SamplerCard,
    "runtime": RuntimeCard,
    "command": CommandCard,
}
"""The card that the hook of each kind returns."""


@dataclass(frozen=True)
class Failure:
    """Why a plugin does not work."""

    entry: Entry
    stage: Stage
    error: str
    status: Status = "broken"
    cause: BaseException | None = field(default=None, repr=False, compare=False)

    def raise_for(self) -> NoReturn:
        """Raise what someone who asked for this plugin should read."""
        entry = self.entry
        raise PluginError(
            f"expected {entry.kind} {entry.name!r} from {entry.distribution} {entry.version}, "
            f"it is {self.status} at stage {self.stage!r}: {self.error}",
            hint=f"run: segkit plugins doctor {entry.distribution}",
        ) from self.cause


def load_cards(entry: Entry) -> list[Card] | Failure:
    """Import, register, validate and call one plugin module in a manager of its own: failing leaves nothing behind."""
    import pluggy

    from segkit import hookspecs

    stage: Stage = "import"
    if ":" in entry.value:
        got = f"expected the name of a module in the entry point {entry.name!r}, got {entry.value!r}"
        return Failure(entry, stage, f"{got}: drop what stands behind the colon")
    try:
        with stdout_kept():
            module = importlib.import_module(entry.value)
        stage = "register"
        manager = pluggy.PluginManager("segkit")
        manager.add_hookspecs(hookspecs)
        manager.register(module, entry.value)
        stage = "validate"
        unknown = _unknown_hooks(module)
        if unknown:
            return Failure(entry, stage, unknown)
        stage = "call"
        hook = f"segkit_{KINDS[entry.kind]}"
        with stdout_kept():
            returned = getattr(manager.hook, hook)()
    except (Exception, SystemExit) as error:
        return Failure(entry, stage, describe(error), cause=error)
    kind = CARDS[entry.kind]
    cards: list[Card] = []
    for found in returned:
        strange = [found] if not isinstance(found, (list, tuple)) else [c for c in found if not isinstance(c, kind)]
        if strange:
            got = f"a {type(strange[0]).__name__}" + ("" if isinstance(found, (list, tuple)) else " and no list")
            return Failure(entry, "card", f"expected a list of {kind.__name__} from {hook}, got {got}")
        cards += found
    for card in cards:
        options = card.options if isinstance(card, ModelCard) else {}
        odd = [name for name, value in options.items() if not isinstance(value, (bool, int, float, str))]
        if odd:
            return Failure(entry, "card", f"expected numbers, texts or truth values as options, {odd[0]!r} is none")
    return cards


def _unknown_hooks(module: Any) -> str:
    """What is wrong with the names of a module's hooks, or an empty string."""
    from segkit import hookspecs

    known = [name for name in vars(hookspecs) if name.startswith("segkit_")]
    marks = {name: getattr(value, "segkit_impl", None) for name, value in vars(module).items()}
    marked = [mark.get("specname") or name for name, mark in marks.items() if isinstance(mark, dict)]
    for name in marked:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            return f"unknown hook {name!r}" + (
                f", did you mean {close[0]!r}?" if close else f", known: {', '.join(known)}"
            )
    return "" if marked else f"no hook: expected one of {', '.join(known)} marked with @segkit.hookimpl"


def stdout_kept() -> contextlib.AbstractContextManager[object]:
    """What a plugin prints while it loads goes to standard error: standard output is the answer, often JSON."""
    return contextlib.redirect_stdout(sys.stderr)
