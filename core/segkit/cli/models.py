"""`segkit models`: the networks that are installed."""

from __future__ import annotations

import json
from typing import Any

import click

from segkit.cli.options import json_option, parse_options
from segkit.cli.output import print_json, print_table
from segkit.registry import Registry


@click.group(invoke_without_command=True, epilog="Example: segkit models show vnet --json")
@json_option
@click.pass_context
def models(ctx: click.Context, as_json: bool) -> None:
    """List the networks, from metadata alone: none is imported."""
    if ctx.invoked_subcommand is not None:
        return
    rows = [
        {"name": entry.name, "from": entry.distribution, "version": entry.version, "status": status}
        for entry, status in ctx.obj.list("model")
    ]
    if as_json:
        print_json({"schema": 1, "models": rows})
    else:
        print_table(rows)
        click.echo("\nmore on one: segkit models show NAME")


@models.command(epilog="Example: segkit models show unet3d --option width=8 --channels 2")
@click.argument("name")
@click.option("--channels", type=click.IntRange(1), help="Input channels.  [default: the fewest it takes]")
@click.option("--classes", type=click.IntRange(2), default=4, show_default=True, help="Classes, background included.")
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="An option of the network.")
@json_option
@click.pass_obj
def show(
    registry: Registry, name: str, channels: int | None, classes: int, options: tuple[str, ...], as_json: bool
) -> None:
    """Build a network and show its size, patch and reference."""
    entry = registry.resolve("model", name)
    card = registry.card_of(entry)
    chosen = {**card.options, **parse_options(options)}
    channels = channels or card.in_channels or 1
    network = registry.build_model(name, channels, classes, chosen)
    from segkit.complexity import RULES, measure

    size = measure(network, channels, card.patch)
    facts: dict[str, Any] = {
        "name": card.name,
        "summary": card.summary,
        "from": f"{entry.distribution} {entry.version}",
        "licence": card.licence,
        "reference": card.reference and f"{card.reference.title} ({card.reference.year}), doi:{card.reference.doi}",
        "options": dict(chosen),
        "in_channels": channels,
        "takes_channels": "any" if card.in_channels is None else card.in_channels,
        "classes": classes,
        "patch": list(card.patch),
        "multiple": getattr(network, "multiple", card.multiple),
        "parameters": size.parameters,
        "layers": {rule: {"count": getattr(size, rule), "rule": text} for rule, text in RULES.items()},
        "macs": size.macs,
        "weights_mib": round(size.weights_mib, 2),
    }
    if as_json:
        print_json({"schema": 1, **facts})
        return
    facts["patch"] = "x".join(map(str, card.patch)) + " voxels"
    facts["layers"] = "; ".join(f"{getattr(size, rule)} ({text})" for rule, text in RULES.items())
    facts["parameters"] = f"{size.parameters:,}"
    facts["macs"] = f"{size.macs / 1e9:,.1f} G for one patch"
    facts["options"] = json.dumps(facts["options"]) if chosen else "none"
    print_table([{"": key.replace("_", " "), name: value} for key, value in facts.items() if key != "name"])
