"""What an engine must keep to in each precision, and what someone may choose instead."""

from __future__ import annotations

from dataclasses import dataclass

from segkit_runtime.manifest import Precision, Proof, Tolerance

TOLERANCES: dict[Precision, Tolerance] = {
    "fp32": Tolerance(most_logit_difference=1e-3, least_label_agreement=0.9999, most_dice_difference=0.001),
    "tf32": Tolerance(most_logit_difference=None, least_label_agreement=0.999, most_dice_difference=0.001),
    "fp16": Tolerance(most_logit_difference=None, least_label_agreement=0.999, most_dice_difference=0.001),
    "bf16": Tolerance(most_logit_difference=None, least_label_agreement=0.995, most_dice_difference=0.001),
    "int8": Tolerance(most_logit_difference=None, least_label_agreement=0.99, most_dice_difference=0.005),
}
"""What each precision must keep to. In fp32 two engines sum in another order, which moves a logit by about 1e-5."""

TILES = Tolerance(most_logit_difference=None, least_label_agreement=0.99, most_dice_difference=0.005)
"""What tiles of another size than the trained patch must keep to, in every precision.

Logits are not compared, since each voxel is seen with other neighbours: those at the border of a tile meet zeros where
others meet the head, and norms over a tile take in other voxels. So labels move along the borders of tissues however
exact the arithmetic is. What counts is that the segmentation is worth as much: the Dice may change as much as int8 may
change it.
"""

UNTRAINED = 10
"""How many times as many labels may differ if the weights are random: their logits lie close together."""

LOGIT_UNIT = 0.1
"""A difference of logits is measured in units of 1, or of this share of the largest logit if that is more."""


@dataclass(frozen=True)
class Bounds:
    """What someone chose an engine to keep to; None leaves it to the precision.

    Attributes:
        least_label_agreement: least share of voxels with the same label, 0 to 1.
        most_dice_difference: largest change of the Dice of a class against the truth, 0 to 1.
    """

    least_label_agreement: float | None = None
    most_dice_difference: float | None = None

    def tolerance(self, precision: Precision, trained: bool) -> Tolerance:
        """What an engine in this precision must keep to."""
        usual = TOLERANCES[precision]
        agreement = usual.least_label_agreement
        if not trained and precision != "fp32":
            agreement = 1 - UNTRAINED * (1 - agreement)
        return Tolerance(
            most_logit_difference=usual.most_logit_difference,
            least_label_agreement=agreement if self.least_label_agreement is None else self.least_label_agreement,
            most_dice_difference=(
                usual.most_dice_difference if self.most_dice_difference is None else self.most_dice_difference
            ),
        )


def logit_bound(tolerance: Tolerance, max_abs_logit: float) -> float | None:
    """The largest difference of a logit that is allowed where the largest logit is this; None where any is."""
    if tolerance.most_logit_difference is None:
        return None
    return tolerance.most_logit_difference * max(1.0, LOGIT_UNIT * max_abs_logit)


def describe_tolerance(proof: Proof) -> str:
    """What a proof is held to, in words."""
    tolerance = proof.tolerance
    parts = [f"the same label on {tolerance.least_label_agreement:.2%} of the voxels"]
    bound = logit_bound(tolerance, proof.max_abs_logit)
    if bound is not None:
        parts.append(f"logits within {bound:.2g}")
    if proof.dice_difference is not None:
        parts.append(f"Dice within {tolerance.most_dice_difference:g}")
    return ", ".join(parts)
