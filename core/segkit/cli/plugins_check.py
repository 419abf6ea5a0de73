"""`segkit plugins check`: whether a plugin keeps its contract."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from segkit.cli.options import json_option
from segkit.cli.output import print_json, print_table, progress_bar
from segkit.cli.plugins import named
from segkit.conformance import Outcome, checks_for, rules_of
from segkit.errors import UnknownName, UsageError
from segkit.installed import KINDS, Entry
from segkit.loader import Failure
from segkit.registry import Registry

_LOADS = "loads"


@click.command(epilog="Example: segkit plugins check vnet --only light --only onnx")
@click.argument("name")
@click.option("--kind", type=click.Choice(list(KINDS)), help="Where one name means several kinds, only this one.")
@click.option(
    "--only", multiple=True, metavar="CHECK", help="Only this check and those that it needs; may be repeated."
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="A folder for the checks of a data set.",
)
@json_option
@click.pass_obj
def check(
    registry: Registry, name: str, kind: str | None, only: tuple[str, ...], data: Path | None, as_json: bool
) -> None:
    """Hold the plugins of a NAME (entry point or distribution) to their contract; exit 1 if a check fails.

    Runs the plugins' code, on small volumes and the CPU. The tests of an author run the same checks:
    segkit.conformance.checks_for(card).
    """
    entries = [entry for entry in named(registry, name) if kind in (None, entry.kind)]
    if not entries:
        raise UsageError(f"expected a {kind} of the name {name!r}, there is none", hint="leave --kind out")
    known = {_LOADS, *(rule.id for entry in entries for rule in rules_of(entry.kind))}
    for id_ in only:
        if id_ not in known:
            raise UnknownName("check", id_, known)
    rows: list[dict[str, Any]] = []
    try:
        with progress_bar() as bar:
            for entry in entries:
                task = bar.add_task(f"checking {entry.kind} {entry.name}", total=None)
                for row in _run(registry, entry, only, data):
                    rows.append(row)
                    bar.advance(task)
    finally:  # stopped by Ctrl-C, what is known so far is told
        _print(rows, as_json)
    if any(row["status"] == "failed" for row in rows):
        sys.exit(1)


def _run(registry: Registry, entry: Entry, only: tuple[str, ...], data: Path | None) -> Iterator[dict[str, Any]]:
    card = registry.try_card(entry)
    if isinstance(card, Failure):
        found = f"expected a plugin that loads, it is {card.status} at stage {card.stage!r}: {card.error}"
        fix = f"run: segkit plugins doctor {entry.distribution}"
        yield _row(entry, _LOADS, "a plugin that loads", Outcome("failed", found, fix))
        return
    if not only or _LOADS in only:
        yield _row(entry, _LOADS, "a plugin that loads", Outcome("passed"))
    told: set[str] = set()
    for one in checks_for(card, plugin=entry.value, data=data):
        if only and one.id not in only:
            continue
        outcome = one.run()
        # A check that cannot be run for the failure of another is no pass: that one is told, asked for or not.
        for which in (one.blocker, one) if one.blocker is not None else (one,):
            if which.id not in told:
                told.add(which.id)
                yield _row(entry, which.id, which.rule.promise, outcome if which is one else which.run())


def _row(entry: Entry, id_: str, promise: str, outcome: Outcome) -> dict[str, Any]:
    return {
        "kind": entry.kind,
        "name": entry.qualified,
        "check": id_,
        "promise": promise,
        "status": outcome.status,
        "found": outcome.found,
        "fix": outcome.fix,
        "seconds": outcome.seconds,
    }


def _print(rows: list[dict[str, Any]], as_json: bool) -> None:
    failed = [row for row in rows if row["status"] == "failed"]
    if as_json:
        print_json({"schema": 1, "conforms": not failed, "checks": rows})
        return
    several = len({(row["kind"], row["name"]) for row in rows}) > 1
    print_table(
        [
            {
                **({"plugin": f"{row['kind']} {row['name']}"} if several else {}),
                "check": row["check"],
                "status": row["status"],
                "s": f"{row['seconds']:.1f}",
                "": f"expects {row['promise']}" if row["status"] == "failed" else row["found"],
            }
            for row in rows
        ]
    )
    for row in failed:
        click.echo(f"\n{row['kind']} {row['name']}, {row['check']}:\n  {row['found']}\n  to do: {row['fix']}")
    counts = {status: sum(row["status"] == status for row in rows) for status in ("passed", "failed", "not applicable")}
    click.echo("\n" + ", ".join(f"{count} {status}" for status, count in counts.items()))
