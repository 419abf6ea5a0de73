"""MONAI's 3D segmentation networks and its losses for label maps. A listing reads their tables, MONAI comes on use."""

from __future__ import annotations

from segkit import LossCard, ModelCard, hookimpl
from segkit_monai.losses_table import LOSSES
from segkit_monai.networks_table import NETWORKS


@hookimpl
def segkit_models() -> list[ModelCard]:
    """Return the cards of the networks."""
    return [row.card() for row in NETWORKS.values()]


@hookimpl
def segkit_losses() -> list[LossCard]:
    """Return the cards of the losses."""
    return [row.card() for row in LOSSES.values()]
