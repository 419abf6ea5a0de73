"""`segkit plugins`: what is installed, what one says of itself, and what is wrong with it."""

from __future__ import annotations

import importlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import click

from segkit.cli.options import json_option
from segkit.cli.output import print_json, print_table, progress_bar
from segkit.conformance import HEAVY
from segkit.errors import UnknownName
from segkit.installed import KINDS, OWN_DISTRIBUTION, Entry, normalise, shadowed_distributions, unreadable_distributions
from segkit.loader import CARDS, Failure
from segkit.registry import Registry, switched_off

_TIMEOUT_SECONDS = 120

_PROBE = """
import json, os, sys, time
from segkit.installed import Entry
from segkit.loader import Failure
from segkit.registry import Registry, Switches
asked = json.loads(sys.argv[1])
entry = Entry(**asked["entry"])
registry = Registry([entry], Switches())
began = time.perf_counter()
card = registry.try_card(entry)
seconds = round(time.perf_counter() - began, 3)
row = {"status": "ok", "import_seconds": seconds, "imports": sorted(sys.modules.keys() & set(asked["heavy"]))}
if asked["factory"]:
    card = registry.try_build(entry)
if isinstance(card, Failure):
    row |= {"status": card.status, "stage": card.stage, "error": card.error}
print(json.dumps(row), flush=True)
os._exit(0)  # whatever threads and exit handlers the plugin has left
"""


_ELSEWHERE = {
    "check": "segkit.cli.plugins_check:check",
    "freeze": "segkit.cli.plugins_freeze:freeze",
    "new": "segkit.cli.plugins_new:new",
    "update": "segkit.cli.plugins_new:update",
}
"""Sub-commands in files of their own, imported when they are called."""


class _Group(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), *_ELSEWHERE]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _ELSEWHERE:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = _ELSEWHERE[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command


@click.group(cls=_Group)
def plugins() -> None:
    """List, show, diagnose and check plugins. Installing a plugin means trusting its code."""


@plugins.command("list", epilog="Example: segkit plugins list --json")
@json_option
@click.pass_obj
def list_(registry: Registry, as_json: bool) -> None:
    """List all plugins, from metadata alone, so a broken one shows only in `doctor`. Runs no plugin code."""
    rows = [
        {
            "kind": entry.kind,
            "name": entry.name,
            "from": entry.distribution,
            "version": entry.version,
            "status": status,
            "module": entry.value,
        }
        for kind in KINDS
        for entry, status in registry.list(kind)
    ]
    if as_json:
        print_json({"schema": 1, "plugins": rows})
    else:
        print_table(rows)
        click.echo("\nstatus by metadata alone; whether they load: segkit plugins doctor")


@plugins.command(epilog="Example: segkit plugins show phantom")
@click.argument("name")
@json_option
@click.pass_obj
def show(registry: Registry, name: str, as_json: bool) -> None:
    """Load the plugins of a NAME (entry point or distribution) and print their cards. Runs plugin code."""
    facts = []
    for entry in named(registry, name):
        card = registry.try_card(entry)
        facts.append({"kind": entry.kind, "from": f"{entry.distribution} {entry.version}", "module": entry.value})
        if isinstance(card, Failure):
            facts[-1] |= {"name": entry.name, "status": card.status, "stage": card.stage, "error": card.error}
        else:
            facts[-1] |= {"status": "ok", **asdict(card)}
    if as_json:
        print_json({"schema": 1, "plugins": facts})
    else:
        for fact in facts:
            print_table([{"": key, fact["name"]: _text(value)} for key, value in fact.items() if key != "name"])
            if fact["status"] != "ok":
                click.echo(f"\nnext: segkit plugins doctor {fact['from'].partition(' ')[0]}")
            click.echo()
    if any(fact["status"] != "ok" for fact in facts):
        sys.exit(1)


@plugins.command(epilog="Example: segkit plugins doctor segkit-example")
@click.argument("name", required=False)
@json_option
@click.pass_obj
def doctor(registry: Registry, name: str | None, as_json: bool) -> None:
    """Load every plugin, or those of NAME, each in a process of its own; exit 1 if one does not work. Runs plugin code.

    With NAME what it builds is imported too, such as the module of its network.
    """
    entries = (
        named(registry, name)
        if name
        else [e for kind in KINDS for e, status in registry.list(kind) if status != "disabled"]
    )
    with progress_bar() as bar:
        rows = [
            {
                "kind": entry.kind,
                "name": entry.qualified,
                "version": entry.version,
                "entry_point": f"{entry.name} = {entry.value}",
                **_probe(entry, factory=bool(name)),
            }
            for entry in bar.track(entries, description="probing plugins")
        ]
    shadowed, unreadable = shadowed_distributions(), unreadable_distributions()
    bad = [row for row in rows if row["status"] != "ok"]
    for row in bad:
        row["next"] = _next_step(row)
    if as_json:
        print_json(
            {
                "schema": 1,
                "plugins": rows,
                "shadowed_distributions": shadowed,
                "unreadable_distributions": unreadable,
            }
        )
    else:
        print_table(
            [
                {
                    **{k: r.get(k) for k in ("kind", "name", "version", "status", "import_seconds")},
                    "imports": ", ".join(r["imports"]),
                }
                for r in rows
            ]
        )
        for row in bad:
            whose = f"{row['kind']} {row['name']} {row['version']} ({row['entry_point']})"
            click.echo(f"\n{whose} is {row['status']} at stage {row['stage']}: {row['error']}\nnext: {row['next']}")
        for row in rows:
            if row["imports"]:
                click.echo(
                    f"\n{row['name']} imports {', '.join(row['imports'])} with its card, so whoever shows it waits\n"
                    "next: name what is built as a string on the card, and import what it needs in that string's module"
                )
        for distribution, places in shadowed.items():
            click.echo(
                f"\n{distribution} is installed {len(places)} times, the first is used: {', '.join(places)}\n"
                f"next: pip uninstall {distribution} until none is left, then install it once"
            )
        for folder, error in unreadable.items():
            click.echo(f"\n{folder} is left out, its metadata cannot be read: {error}")
        click.echo(f"\n{len(rows) - len(bad)} of {len(rows)} work")
    if bad:
        sys.exit(1)


def named(registry: Registry, name: str) -> list[Entry]:
    """Return the entries of a name, an entry point's or a distribution's, that may be loaded.

    Raises:
        UnknownName: nothing that is installed is called so.
        UsageError: it is switched off.
    """
    found = [
        (entry, status)
        for kind in KINDS
        for entry, status in registry.list(kind)
        if entry.is_called(name) or normalise(name) == entry.distribution
    ]
    if not found:
        raise UnknownName("plugin", name, {known for e in registry.entries for known in (e.name, e.distribution)})
    allowed = [entry for entry, status in found if status != "disabled"]
    if not allowed:
        raise switched_off("plugin", name)
    return allowed


def _next_step(row: Mapping[str, Any]) -> str:
    """What to do about a plugin that does not work."""
    distribution, module = row["name"].partition(":")[0], row["entry_point"].rpartition(" ")[2]
    if row["status"] == "incompatible":
        return f"pip install --upgrade {OWN_DISTRIBUTION}"
    if f"No module named {module!r}" in row["error"]:
        package = module.partition(".")[0]
        if package != module and importlib.util.find_spec(package) is not None:
            return _yours(
                distribution, f"name a module of {package} in the entry point in pyproject.toml, and install it again"
            )
        return f"its code is gone: pip install --force-reinstall {distribution}, or pip uninstall {distribution}"
    if row["stage"] == "import" and ":" not in module:
        return f"python -c 'import {module}'; install what is missing, or upgrade {distribution}"
    card = CARDS[row["kind"]]
    hook = f"segkit_{KINDS[row['kind']]}() -> list[{card.__name__}], marked with @segkit.hookimpl"
    mend = {
        "import": "mend the entry point in pyproject.toml, and install it again",
        "call": f"mend what the hook raises; fields of {card.__name__}: {', '.join(f.name for f in fields(card))}",
        "card": f"return a list of {card.__name__}, one with the name of the entry point",
        "factory": f"mend the factory on the card, or what it raises; see: segkit plugins check {distribution}",
    }
    return _yours(distribution, mend.get(row["stage"], f"write the hook in {module} so: {hook}"))


def _yours(distribution: str, mend: str) -> str:
    """What authors do about their plugin, and others."""
    return (
        f"if it is yours, {mend}; else upgrade {distribution}, or tell its authors; "
        f"until then: segkit --no-plugin {distribution} ..."
    )


def _probe(entry: Entry, *, factory: bool) -> dict[str, Any]:
    """Load one plugin in a process of its own: a crash in a native library cannot be caught in ours."""
    asked = {"entry": asdict(entry), "heavy": HEAVY, "factory": factory}
    command = [sys.executable, "-P", "-c", _PROBE, json.dumps(asked)]
    failed: dict[str, Any] = {"status": "broken", "stage": "import", "imports": [], "import_seconds": None}
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return {**failed, "error": f"still importing after {_TIMEOUT_SECONDS} s"}
    try:
        return dict(json.loads(result.stdout.splitlines()[-1]))
    except (IndexError, TypeError, ValueError):
        last = (result.stderr.strip().splitlines() or [""])[-1]
        return {**failed, "error": f"the process ended with code {result.returncode}: {last}"}


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{key}: {item}" for key, item in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(_text(item) for item in value) or "none"
    return "not set" if value is None else str(value)
