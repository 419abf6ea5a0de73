"""The six hooks a plugin may implement. They only grow: a signature never changes, a hook never goes."""

from __future__ import annotations

import pluggy

from segkit.cards import CommandCard, DatasetCard, LossCard, ModelCard, RuntimeCard, SamplerCard

hookspec = pluggy.HookspecMarker("segkit")
hookimpl = pluggy.HookimplMarker("segkit")


@hookspec
def segkit_models() -> list[ModelCard]:  # type: ignore[empty-body]
    """Return the cards of the plugin's networks."""


@hookspec
def segkit_datasets() -> list[DatasetCard]:  # type: ignore[empty-body]
    """Return the cards of the plugin's data sets."""


@hookspec
def segkit_losses() -> list[LossCard]:  # type: ignore[empty-body]
    """Return the cards of the plugin's losses."""


@hookspec
def segkit_samplers() -> list[SamplerCard]:  # type: ignore[empty-body]
    """Return the cards of the plugin's samplers."""


@hookspec
def segkit_runtimes() -> list[RuntimeCard]:  # type: ignore[empty-body]
    """Return the cards of the plugin's runtimes."""


@hookspec
def segkit_commands() -> list[CommandCard]:  # type: ignore[empty-body]
    """Return the cards of the plugin's sub-commands."""
