"""`segkit doctor`: what this environment is, what does not match in it, and the commands that mend it."""

from __future__ import annotations

import dataclasses
import sys

import click

from segkit.cli.options import json_option
from segkit.cli.output import print_json, print_table
from segkit.installed import KINDS
from segkit.registry import Registry
from segkit_export.diagnosis import Finding, diagnose
from segkit_export.environment import Facts, collect

_HIDDEN = ("distributions", "floors")
"""Facts that are long and of which only a few entries matter."""


@click.command(epilog="Example: segkit doctor --json. Exit code 1: something is broken.")
@json_option
@click.pass_obj
def doctor(registry: Registry, as_json: bool) -> None:
    """Look for packages, drivers and devices that do not match, and say what mends them.

    Every heavy library is imported and every plugin loaded, in processes of their own. Nothing is changed.
    """
    facts = collect(entry for kind in KINDS for entry, status in registry.list(kind) if status != "disabled")
    findings = diagnose(facts)
    broken = any(finding.broken for finding in findings)
    if as_json:
        shown = {key: value for key, value in dataclasses.asdict(facts).items() if key not in _HIDDEN}
        rows = [dataclasses.asdict(finding) for finding in findings]
        print_json({"schema": 1, "broken": broken, "findings": rows, "facts": shown})
    else:
        _print_facts(facts)
        _print_findings(findings)
    if broken:
        sys.exit(1)


def _print_facts(facts: Facts) -> None:
    driver = facts.driver
    if driver is None:
        gpu = "no NVIDIA driver"
    else:
        names = ", ".join(f"{gpu.name} (compute capability {gpu.capability})" for gpu in driver.gpus)
        gpu = f"driver for CUDA {'.'.join(map(str, driver.cuda))}: {names or 'no GPU'}"
    rows = {
        "Python": facts.python,
        "system": f"{facts.platform}, {facts.processors} processors",
        "NVIDIA": gpu,
    }
    print_table([{"": name, "environment": value} for name, value in rows.items()])
    click.echo()
    print_table(
        [
            {
                "module": probe.module,
                "version": probe.version,
                "from": ", ".join(facts.modules.get(probe.module, ())),
                "import": "fails" if probe.error else f"{probe.seconds} s",
                "finds": "; ".join(_detail(key, value) for key, value in probe.details.items() if value != ""),
            }
            for probe in facts.probes
        ]
    )


def _detail(key: str, value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return f"{key.replace('_', ' ')}: {text}"


def _print_findings(findings: list[Finding]) -> None:
    if not findings:
        click.echo("\nnothing is wrong")
    for finding in findings:
        click.echo()
        label = click.style("broken:", fg="red") if finding.broken else click.style("note:", fg="yellow")
        click.echo(f"{label} {finding.problem}\n  {finding.evidence}\n  mend it: {finding.command}")
