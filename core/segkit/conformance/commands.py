"""Rules of commands: help that comes at once, and shows how it is done."""

from __future__ import annotations

import re
import subprocess
from typing import Any

from segkit.conformance.check import Candidate, Rule
from segkit.conformance.light import HEAVY, run_probe
from segkit.errors import PluginError

_PROBE = """
import importlib, json, os, sys
import click
asked = json.loads(sys.argv[1])
module, _, attribute = asked["factory"].partition(":")
command = getattr(importlib.import_module(module), attribute)

def pages(command, parent, name):
    context = click.Context(command, info_name=name, parent=parent)
    yield context.command_path, command.get_help(context), isinstance(command, click.Group)
    if isinstance(command, click.Group):
        for inner in command.list_commands(context):
            yield from pages(command.get_command(context, inner), context, inner)

found = []
if isinstance(command, click.Command):
    found = list(pages(command, click.Context(click.Group("segkit"), info_name="segkit"), asked["name"]))
loaded = heavy_among(asked["heavy"])
print("\\n" + json.dumps({"type": type(command).__name__, "pages": found, "loaded": loaded}), flush=True)
os._exit(0)
"""


def _shows_help(candidate: Candidate) -> str:
    answer = _ask(candidate)
    if not answer["pages"]:
        raise PluginError(
            f"expected a click command from {candidate.card.factory}, got a {answer['type']}",
            hint="name a function decorated with @click.command() or @click.group()",
        )
    empty = [path for path, page, _ in answer["pages"] if len(page.split("\n\n")) < 2 or "\n\nOptions:" not in page]
    undescribed = [
        path
        for path, page, _ in answer["pages"]
        if path in empty or page.split("\n\n")[1].strip().startswith(("Options:", "Commands:"))
    ]
    if undescribed:
        raise PluginError(
            f"expected help that says what {undescribed[0]!r} does, got a list of options alone",
            hint="begin the docstring of the command with a line on what it does",
        )
    return f"{len(answer['pages'])} pages"


def _shows_help_at_once(candidate: Candidate) -> None:
    if loaded := _ask(candidate)["loaded"]:
        raise PluginError(
            f"expected help without anything heavy, importing {candidate.card.factory} brings {', '.join(loaded)}",
            hint="import it inside the function that uses it",
        )


def _has_examples(candidate: Candidate) -> None:
    for path, page, is_group in _ask(candidate)["pages"]:
        if not is_group and not re.search(r"Examples?:\s+\S", page):
            raise PluginError(
                f"expected an example at the end of the help of {path!r}, got none",
                hint=f'write @click.command(epilog="Example: {path} ...")',
            )


def _ask(candidate: Candidate) -> dict[str, Any]:
    """The pages of help of the command and its sub-commands, from a fresh interpreter."""
    if "pages" not in candidate.kept:
        card = candidate.card
        try:
            answer, said = run_probe(_PROBE, {"factory": card.factory, "name": card.name, "heavy": HEAVY})
        except subprocess.TimeoutExpired:
            answer, said = None, "nothing for a minute"
        if answer is None:
            raise PluginError(
                f"expected the help of the command {card.name!r}, got {said}",
                hint=f"run: python -c 'import {card.factory.partition(':')[0]}'",
            )
        candidate.kept["pages"] = answer
    pages: dict[str, Any] = candidate.kept["pages"]
    return pages


RULES = (
    Rule("help", "a click command whose help says what it does", _shows_help),
    Rule("help-light", "help that imports nothing heavy", _shows_help_at_once, needs="help"),
    Rule("example", "help that ends with an example", _has_examples, needs="help"),
)
