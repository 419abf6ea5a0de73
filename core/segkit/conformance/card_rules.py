"""Rules on cards: what a listing shows is there, is of its type, and is true of the factory."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from typing import Any

from segkit.cards import API, load_attribute
from segkit.conformance.check import Candidate, NotApplicable, Rule
from segkit.conformance.light import LIGHT
from segkit.errors import PluginError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_SPDX = re.compile(r"\(?[A-Za-z0-9][A-Za-z0-9.+-]*\)?( (AND|OR|WITH) \(?[A-Za-z0-9][A-Za-z0-9.+-]*\)?)*")


def _has_basics(candidate: Candidate) -> None:
    card = candidate.card
    _require(
        isinstance(card.name, str) and _NAME.fullmatch(card.name),
        f"expected a name of letters, digits, dots and dashes, got {card.name!r}",
        "give the card the name of its entry point",
    )
    _require(
        isinstance(card.summary, str) and card.summary.strip() and "\n" not in card.summary,
        f"expected a summary of one line, got {card.summary!r}",
        "say on the card in one line what it is",
    )
    paths = {name: getattr(card, name, None) for name in ("factory", "make", "read_labels", "contrast", "weight_map")}
    for name, path in paths.items():
        _require(
            (path is None and name != "factory") or (isinstance(path, str) and _FACTORY.fullmatch(path)),
            f"expected {name} to be 'package.module:attribute', got {path!r}",
            "name what is built as a string, so that nothing heavy is imported before it is needed",
        )
    _require(
        type(card.api) is int and 1 <= card.api <= API,
        f"expected the card contract api from 1 to {API}, got {card.api!r}",
        "leave api out: the card is then for the segkit that is installed",
    )
    for name, value in getattr(card, "options", {}).items():
        _require(
            isinstance(value, (bool, int, float, str)),
            f"expected a number, a text or a truth value as the default of option {name!r}, got {value!r}",
            "the command line and JSON hold nothing else: build what it stands for in the factory",
        )


def _is_model(candidate: Candidate) -> None:
    _has_basics(candidate)
    card = candidate.card
    _require(
        type(card.multiple) is int and card.multiple >= 1,
        f"expected a multiple of 1 voxel or more, got {card.multiple!r}",
        "give the number by which the network halves and doubles each side without rest",
    )
    _require(
        len(card.patch) == 3 and all(type(n) is int and n > 0 and n % card.multiple == 0 for n in card.patch),
        f"expected a patch of three multiples of {card.multiple} voxels, got {card.patch!r}",
        "choose such a patch, or mend the multiple on the card",
    )
    _require(
        card.in_channels is None or (type(card.in_channels) is int and card.in_channels >= 1),
        f"expected in_channels to be None, or 1 or more, got {card.in_channels!r}",
        "leave it out where the network takes any number of channels",
    )


def _is_dataset(candidate: Candidate) -> None:
    _has_basics(candidate)
    card = candidate.card
    codes = Counter(code for label in card.labels for code in (label.code, *label.merged)) + Counter(card.ignored)
    for what, counts in (("code", codes), ("name", Counter(label.name for label in card.labels))):
        twice = next((key for key, count in counts.items() if count > 1), None)
        _require(
            twice is None,
            f"expected each label {what} once, got {twice!r} twice",
            "mend labels, merged and ignored on the card",
        )
    _require(
        not card.labels or len(card.labels) > 1,
        f"expected background and at least one class, got {len(card.labels)} label",
        "list background first, then the classes in the order of their indices",
    )
    _require(
        (card.make is None) == (not card.presets),
        f"expected make and presets together, got make={card.make!r} with {len(card.presets)} presets",
        "name at least one preset that make takes, or drop both",
    )


def _is_runtime(candidate: Candidate) -> None:
    _has_basics(candidate)
    card = candidate.card
    _require(
        card.takes in ("onnx", "network"),
        f"expected takes to be 'onnx' or 'network', got {card.takes!r}",
        "say whether the factory gets the bytes of an ONNX file or the torch network",
    )
    _require(
        card.module.isidentifier() and card.extra,
        f"expected the module that it needs and the extra that brings it, got {card.module!r} and {card.extra!r}",
        "name the top-level module that must be importable, and the extra to install",
    )


def _imports(candidate: Candidate) -> None:
    paths = [
        getattr(candidate.card, name, None) for name in ("factory", "make", "read_labels", "contrast", "weight_map")
    ]
    for path in filter(None, paths):
        _require(
            isinstance(path, str) and _FACTORY.fullmatch(path),
            f"expected 'package.module:attribute' on the card, got {path!r}",
            "write the module, a colon, and the name in it",
        )
        try:
            built = load_attribute(path)
        except ImportError as error:
            module = getattr(error, "name", None) if isinstance(error, ModuleNotFoundError) else None
            own = path.partition(":")[0]
            if module and module != own and not own.startswith(f"{module}."):
                hint = f"install {module}, and name what brings it in dependencies in pyproject.toml"
            else:
                hint = f"see what it raises: python -c 'import {own}'; mend that, or the string on the card"
            raise PluginError(f"expected {path} to import, got {type(error).__name__}: {error}", hint=hint) from error
        except AttributeError as error:
            raise PluginError(
                f"expected {path} to be there, got AttributeError: {error}", hint="mend the string on the card"
            ) from error
        _require(
            callable(built), f"expected {path} to be callable, got {type(built).__name__}", "name a function or class"
        )


def _takes_its_options(candidate: Candidate) -> None:
    """A default on the card is shown in listings; the factory's own is what counts."""
    options = candidate.card.options
    if not options:
        raise NotApplicable("the card has no options")
    parameters = inspect.signature(candidate.card.load()).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        raise NotApplicable(f"{candidate.card.factory} takes any option, so its defaults cannot be told")
    for name, default in options.items():
        _require(
            name in parameters,
            f"expected {candidate.card.factory} to take the option {name!r}, it takes {', '.join(parameters)}",
            "give the factory an argument of that name, or drop the option from the card",
        )
        own = parameters[name].default
        _require(
            own is inspect.Parameter.empty or own == default,
            f"expected the option {name!r} to have one default, the card says {default!r} and the factory {own!r}",
            "write the same default in both places",
        )


def _states_licence(candidate: Candidate) -> str:
    licence = candidate.card.licence
    _require(
        licence != "not stated",
        "expected the licence of the code, the card states none",
        "write its SPDX name on the card, for example licence='Apache-2.0'",
    )
    _require(
        _SPDX.fullmatch(licence),
        f"expected the SPDX name of a licence, got {licence!r}",
        "take it from spdx.org/licenses, for example 'MIT' or 'BSD-3-Clause'",
    )
    return str(licence)


def _states_reference(candidate: Candidate) -> str:
    reference = candidate.card.reference
    _require(
        reference is not None,
        "expected where it was published, the card has no reference",
        "write reference=Reference(title=..., year=..., doi='10. ...') on the card; where it is your own and not yet "
        "published, the paper that it builds on",
    )
    _require(
        reference.title.strip() and type(reference.year) is int and reference.doi.startswith("10."),
        f"expected a title, a year and a DOI, got {reference.title!r}, {reference.year!r} and {reference.doi!r}",
        "write the DOI without https://doi.org/; it begins with 10.",
    )
    return f"doi {reference.doi}"


def _states_reference_if_any(candidate: Candidate) -> str:
    if candidate.card.reference is None:
        raise NotApplicable("the card names no publication")
    return _states_reference(candidate)


def _require(holds: Any, found: str, fix: str) -> None:
    if not holds:
        raise PluginError(found, hint=fix)


_CARD = "a card whose fields are of their types"
_FACTORY_RULE = Rule("factory", "what the card names to be there", _imports)
_OPTIONS = Rule(
    "options", "the options of the card in the factory, with the same defaults", _takes_its_options, "factory"
)
_LICENCE = Rule("licence", "the licence of the code on the card", _states_licence)
_REFERENCE = Rule("reference", "where it was published on the card", _states_reference)

MODEL = (Rule("card", _CARD, _is_model), LIGHT, _LICENCE, _REFERENCE, _FACTORY_RULE, _OPTIONS)
DATASET = (
    Rule("card", _CARD, _is_dataset),
    LIGHT,
    Rule(_REFERENCE.id, _REFERENCE.promise, _states_reference_if_any),
    _FACTORY_RULE,
    _OPTIONS,
)
LOSS = (Rule("card", _CARD, _has_basics), LIGHT, _FACTORY_RULE, _OPTIONS)
SAMPLER = (Rule("card", _CARD, _has_basics), LIGHT, _FACTORY_RULE)
RUNTIME = (Rule("card", _CARD, _is_runtime), LIGHT, _FACTORY_RULE)
COMMAND = (Rule("card", _CARD, _has_basics), LIGHT)
