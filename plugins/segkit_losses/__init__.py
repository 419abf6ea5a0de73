"""Cross-entropy, Dice and their sum, as segkit losses. A listing imports this module only, `losses` comes on use."""

from __future__ import annotations

from segkit import LossCard, hookimpl


@hookimpl
def segkit_losses() -> list[LossCard]:
    """Return the cards of the three losses."""
    return [
        LossCard(
            name="cross-entropy",
            factory="segkit_losses.losses:CrossEntropy",
            summary="cross-entropy, the mean over the voxels that count",
        ),
        LossCard(
            name="dice",
            factory="segkit_losses.losses:Dice",
            summary="one minus soft Dice, the mean over classes, background included",
        ),
        LossCard(
            name="dice-ce",
            factory="segkit_losses.losses:DiceCrossEntropy",
            summary="the sum of dice and cross-entropy",
        ),
    ]
