"""`segkit bench`: the benchmarks; each is imported when it is called."""

from __future__ import annotations

import importlib

import click

_BENCHMARKS = {
    "compare": ("segkit_benchmarks.compare:compare", "Two results: what changed, beyond noise."),
    "dsc": ("segkit_benchmarks.dsc:dsc", "The thesis' Dice tables, ours beside theirs."),
    "exports": ("segkit_benchmarks.exports:exports", "Networks, runtimes, precisions: proven, built, or why not."),
    "io": ("segkit_benchmarks.io:io", "Reading images and writing labels, beside other software."),
    "kills": ("segkit_benchmarks.kills:kills", "Kill training at random moments, go on, compare the bits."),
    "peers": ("segkit_benchmarks.peers.command:peers", "Whole volumes, process start and whole runs, beside others."),
    "table1": ("segkit_benchmarks.table1:table1", "The thesis' Table 1, then and now."),
    "training": ("segkit_benchmarks.training:training", "Training patches and steps, beside other software."),
}
"""Where they are, and the line that help shows."""


class _Benchmarks(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_BENCHMARKS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _BENCHMARKS:
            return None
        module, _, attribute = _BENCHMARKS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Benchmarks"):
            formatter.write_dl([(name, line) for name, (_, line) in _BENCHMARKS.items()])


@click.group(cls=_Benchmarks, epilog="Example: segkit bench dsc --data phantom --quick")
def bench() -> None:
    """Run a benchmark."""
