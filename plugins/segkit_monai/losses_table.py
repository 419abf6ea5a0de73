"""The losses, one row each: MONAI's class, what it is built with, and what its card says.

Left out of `monai.losses`, of what compares a segmentation with a label map:

- AsymmetricUnifiedFocalLoss and AUCMLoss know two classes only.
- GeneralizedWassersteinDiceLoss needs a matrix of distances between the classes.
- NACLLoss and LogHausdorffDTLoss average over all voxels inside, so ignored ones would count.
- MaskedDiceLoss is DiceLoss with the mask that every loss has here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from segkit import LossCard
from segkit.cards import Options

Sees = Literal["voxels", "volume", "volume-mean"]


@dataclass(frozen=True, kw_only=True)
class LossRow:
    """A loss of MONAI.

    Attributes:
        name: of the card.
        monai: name in `monai.losses`, and the attribute that the card's factory names.
        summary: one line for listings.
        sees: "voxels" in any order; or the "volume", since neighbours or distances count; "volume-mean" where its value
            is a mean over the voxels of the volume.
        options: options of the card: arguments of MONAI's class.
        arguments: further arguments of MONAI's class.
    """

    name: str
    monai: str
    summary: str
    sees: Sees = "voxels"
    options: Options = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def card(self) -> LossCard:
        """Return the card."""
        return LossCard(
            name=self.name,
            factory=f"segkit_monai.losses:{self.monai}",
            summary=self.summary,
            options=self.options,
        )


_SOFTMAX = {"softmax": True, "to_onehot_y": True}

_ROWS = (
    LossRow(name="monai-dice", monai="DiceLoss", summary="one minus soft Dice, each sample alone", arguments=_SOFTMAX),
    LossRow(name="monai-dice-ce", monai="DiceCELoss", summary="Dice plus cross-entropy", arguments=_SOFTMAX),
    LossRow(
        name="monai-dice-focal",
        monai="DiceFocalLoss",
        summary="Dice plus focal loss, the latter of each class against the rest",
        options={"gamma": 2.0, "lambda_dice": 1.0, "lambda_focal": 1.0},
        arguments=_SOFTMAX,
    ),
    LossRow(
        name="monai-focal",
        monai="FocalLoss",
        summary="focal loss of the softmax, the mean over classes too",
        options={"gamma": 2.0},
        arguments={"use_softmax": True, "to_onehot_y": True},
    ),
    LossRow(
        name="monai-generalized-dice",
        monai="GeneralizedDiceLoss",
        summary="Dice of all classes together, each weighted by its inverse squared volume",
        arguments=_SOFTMAX,
    ),
    LossRow(
        name="monai-generalized-dice-focal",
        monai="GeneralizedDiceFocalLoss",
        summary="generalized Dice plus focal loss",
        options={"gamma": 2.0, "lambda_gdl": 1.0, "lambda_focal": 1.0},
        arguments=_SOFTMAX,
    ),
    LossRow(
        name="monai-tversky",
        monai="TverskyLoss",
        summary="Dice with weights alpha of false positives and beta of false negatives",
        options={"alpha": 0.3, "beta": 0.7},
        arguments=_SOFTMAX,
    ),
    LossRow(
        name="monai-mcc",
        monai="MCCLoss",
        summary="one minus Matthews' correlation coefficient, the mean over classes",
        arguments=_SOFTMAX,
    ),
    LossRow(
        name="monai-boundary",
        monai="BoundaryLoss",
        summary="probabilities times signed distances (voxels) to the true boundary; below zero when good",
        sees="volume-mean",
    ),
    LossRow(
        name="monai-hausdorff-dt",
        monai="HausdorffDTLoss",
        summary="squared errors times powers of their distances (voxels) to both boundaries, without background",
        sees="volume-mean",
        options={"alpha": 2.0},
    ),
    LossRow(
        name="monai-cldice",
        monai="SoftclDiceLoss",
        summary="one minus the Dice of soft centre lines, for thin structures, without background",
        sees="volume",
        options={"iter_": 3},
        arguments={"include_background": False},
    ),
    LossRow(
        name="monai-dice-cldice",
        monai="SoftDiceclDiceLoss",
        summary="Dice and centre line Dice, the latter with weight alpha, without background",
        sees="volume",
        options={"iter_": 3, "alpha": 0.5},
        arguments={"include_background": False},
    ),
)

LOSSES: Mapping[str, LossRow] = {row.monai: row for row in _ROWS}
"""By the name of MONAI's class."""
