"""The commands that the benchmarks bring."""

from segkit import CommandCard, hookimpl


@hookimpl
def segkit_commands() -> list[CommandCard]:
    """Return the cards of the commands."""
    return [
        CommandCard(
            name="bench",
            factory="segkit_benchmarks.bench:bench",
            summary="Run a benchmark: the thesis' Dice tables, kills of a training.",
        ),
        CommandCard(
            name="profile",
            factory="segkit_benchmarks.cli:profile",
            summary="Measure latency and memory of a bundle on every runtime of this machine.",
        ),
        CommandCard(
            name="report",
            factory="segkit_benchmarks.report:report",
            summary="Draw a run: learning curves, output volumes, predictions beside the truth.",
        ),
    ]
