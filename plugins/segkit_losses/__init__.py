"""Seven losses for segkit. A listing imports this module only; `losses` and `border` come on use."""

from __future__ import annotations

from segkit import LossCard, hookimpl


@hookimpl
def segkit_losses() -> list[LossCard]:
    """Return the cards of the losses."""
    return [
        LossCard(
            name="cross-entropy",
            factory="segkit_losses.losses:CrossEntropy",
            summary="cross-entropy, the mean over the voxels that count; classes may be weighted",
            options={"weights": "none"},
            class_shares=True,
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
            options={"weights": "none"},
            class_shares=True,
        ),
        LossCard(
            name="generalised-dice",
            factory="segkit_losses.losses:GeneralisedDice",
            summary="one minus the Dice of all classes together, each weighted by its inverse squared volume",
        ),
        LossCard(
            name="focal",
            factory="segkit_losses.losses:Focal",
            summary="cross-entropy that counts a voxel the less, the surer the network is of its class",
            options={"gamma": 2.0},
        ),
        LossCard(
            name="tversky",
            factory="segkit_losses.losses:Tversky",
            summary="dice with weights alpha of false positives and beta of false negatives",
            options={"alpha": 0.3, "beta": 0.7},
        ),
        LossCard(
            name="border-ce",
            factory="segkit_losses.losses:BorderCrossEntropy",
            summary="cross-entropy with the U-Net's weights: rare classes and thin layers count more",
            options={"w0": 10.0, "sigma_mm": 5.0},
            weight_map="segkit_losses.border:weight_map",
        ),
    ]
