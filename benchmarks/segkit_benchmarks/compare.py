"""`segkit bench compare`: two results of two machines or two versions: what changed, beyond noise."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from segkit.cli.options import json_option
from segkit.cli.output import print_json, print_table
from segkit_benchmarks.compare_results import RULE, Finding, compare_results, load

_CONDITIONS = ("quick", "patch", "threads")
"""Settings that change what a figure means."""


@click.command(epilog="Example: segkit bench compare before/table1.json after/table1.json")
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option("--all", "show_all", is_flag=True, help="Also what did not change.")
@json_option
def compare(a: Path, b: Path, show_all: bool, as_json: bool) -> None:
    """Hold result B against result A: table1.json or NAME.profile.json, or a folder that holds one.

    Work that is not the same, such as another patch, is not compared; machines, versions and settings that differ are
    told first.
    """
    differing, findings = compare_results(load(a), load(b))
    if as_json:
        print_json(
            {
                "schema": 1,
                "a": str(a),
                "b": str(b),
                "rule": RULE,
                "conditions": {name: {"a": left, "b": right} for name, (left, right) in differing.items()},
                "findings": [dataclasses.asdict(finding) for finding in findings],
            }
        )
        return
    _print(differing, findings, show_all)


def _print(differing: Mapping[str, tuple[object, object]], findings: Sequence[Finding], show_all: bool) -> None:
    if differing:
        rows = [{"differs": name, "A": left, "B": right} for name, (left, right) in differing.items()]
        print_table(rows, title="measured otherwise")
        click.echo()
    if any(name == f"setting {setting}" for setting in _CONDITIONS for name in differing):
        click.secho("warning: settings differ that change what the figures mean", err=True, bold=True)
    shown = [finding for finding in findings if show_all or finding.verdict != "same"]
    if shown:
        print_table([_line(finding) for finding in shown], title="B against A")
        click.echo()
    changed = sum(finding.verdict == "changed" for finding in findings)
    same = sum(finding.verdict == "same" for finding in findings)
    apart = len(findings) - changed - same
    click.echo(f"{changed} figures changed, {same} did not, {apart} in one file alone or not of the same work")
    click.echo(RULE)


def _line(finding: Finding) -> dict[str, object]:
    interval = "" if finding.ratio_low is None else f" ({finding.ratio_low:.3f} to {finding.ratio_high:.3f})"
    return {
        "cell": finding.cell,
        "figure": finding.figure,
        "verdict": finding.verdict,
        "A": finding.a,
        "B": finding.b,
        "B / A": None if finding.ratio is None else f"{finding.ratio:.3f}{interval}",
    }
