"""`segkit plugins`: what is installed, what one says of itself, and what is wrong with it."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from typing import Any

import click

from segkit.cli.options import json_option
from segkit.cli.output import print_json, print_table, progress_bar
from segkit.conformance import HEAVY
from segkit.errors import UnknownName
from segkit.installed import KINDS, Entry, normalise, shadowed_distributions, unreadable_distributions
from segkit.loader import Failure
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


@click.group()
def plugins() -> None:
    """List, show and diagnose plugins. Installing a plugin means trusting its code."""


@plugins.command("list", epilog="Example: segkit plugins list --json")
@json_option
@click.pass_obj
def list_(registry: Registry, as_json: bool) -> None:
    """List all plugins, from metadata alone: none is imported, so a broken one shows only in `doctor`."""
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


@plugins.command(epilog="Example: segkit plugins show phantom")
@click.argument("name")
@json_option
@click.pass_obj
def show(registry: Registry, name: str, as_json: bool) -> None:
    """Load the plugins of a NAME (entry point or distribution) and print their cards."""
    facts = []
    for entry in _named(registry, name):
        card = registry.try_card(entry)
        facts.append({"kind": entry.kind, "from": f"{entry.distribution} {entry.version}", "module": entry.value})
        if isinstance(card, Failure):
            facts[-1] |= {"name": entry.name, "status": card.status, "stage": card.stage, "error": card.error}
        else:
            facts[-1] |= {"status": "ok", **dataclasses.asdict(card)}
    if as_json:
        print_json({"schema": 1, "plugins": facts})
    else:
        for fact in facts:
            print_table([{"": key, fact["name"]: _text(value)} for key, value in fact.items() if key != "name"])
            click.echo()
    if any(fact["status"] != "ok" for fact in facts):
        sys.exit(1)


@plugins.command(epilog="Example: segkit plugins doctor segkit-example")
@click.argument("name", required=False)
@json_option
@click.pass_obj
def doctor(registry: Registry, name: str | None, as_json: bool) -> None:
    """Load every plugin, or those of NAME, each in a process of its own; exit 1 if one does not work.

    With NAME what it builds is imported too, such as the module of its network.
    """
    entries = (
        _named(registry, name)
        if name
        else [e for kind in KINDS for e, status in registry.list(kind) if status != "disabled"]
    )
    with progress_bar() as bar:
        rows = [
            {"kind": entry.kind, "name": entry.qualified, "version": entry.version, **_probe(entry, factory=bool(name))}
            for entry in bar.track(entries, description="probing plugins")
        ]
    shadowed, unreadable = shadowed_distributions(), unreadable_distributions()
    bad = [row for row in rows if row["status"] != "ok"]
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
            click.echo(f"\n{row['kind']} {row['name']}: {row['status']} at stage {row['stage']}: {row['error']}")
        for distribution, places in shadowed.items():
            click.echo(f"\n{distribution} is installed {len(places)} times, the first is used: {', '.join(places)}")
        for folder, error in unreadable.items():
            click.echo(f"\n{folder} is left out, its metadata cannot be read: {error}")
        click.echo(f"\n{len(rows) - len(bad)} of {len(rows)} work")
    if bad:
        sys.exit(1)


def _named(registry: Registry, name: str) -> list[Entry]:
    """The entries of a name that may be loaded."""
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


def _probe(entry: Entry, *, factory: bool) -> dict[str, Any]:
    """Load one plugin in a process of its own: a crash in a native library cannot be caught in ours."""
    asked = {"entry": dataclasses.asdict(entry), "heavy": HEAVY, "factory": factory}
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
    return str(value)
