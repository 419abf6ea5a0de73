"""The command that the benchmarks bring."""

from segkit import CommandCard, hookimpl


@hookimpl
def segkit_commands() -> list[CommandCard]:
    """Return the card of `segkit profile`."""
    return [
        CommandCard(
            name="profile",
            factory="segkit_benchmarks.cli:profile",
            summary="Measure latency and memory of a bundle on every runtime of this machine.",
        )
    ]
