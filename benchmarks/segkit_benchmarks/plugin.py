"""The commands that the benchmarks bring."""

from segkit import CommandCard, hookimpl


@hookimpl
def segkit_commands() -> list[CommandCard]:
    """Return the cards of the commands."""
    return [
        CommandCard(
            name="bench",
            factory="segkit_benchmarks.bench:bench",
            summary="Run a benchmark: the thesis' tables then and now, exports, training; compare results.",
        ),
        CommandCard(
            name="profile",
            factory="segkit_benchmarks.cli:profile",
            summary="Measure latency and memory of a bundle on every runtime of this machine.",
        ),
        CommandCard(
            name="report",
            factory="segkit_benchmarks.report:report",
            summary="One HTML page of all results, or the pictures of a run.",
        ),
    ]
