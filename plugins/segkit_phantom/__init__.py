"""Brain phantom: multi-modal heads with exact labels, made from the MNI152 tissue maps and MR signal equations.

The heads descend from one average brain, so a score on them says that a pipeline works, not that a network generalises.
"""

from __future__ import annotations

from segkit import DatasetCard, Label, Reference, hookimpl
from segkit_phantom.presets import BRAIN_STEM, CEREBELLUM, CSF, GM, PRESETS, WM


@hookimpl
def segkit_datasets() -> list[DatasetCard]:
    """The card of the phantom."""
    return [
        DatasetCard(
            name="phantom",
            factory="segkit_phantom.layout:find",
            make="segkit_phantom.make:make",
            contrast="segkit_phantom.contrast:contrast",
            summary="brain phantoms with exact labels, made here from the MNI152 tissue maps",
            labels=(
                Label(code=0, name="background"),
                Label(code=CSF, name="CSF"),
                Label(code=GM, name="GM"),
                Label(code=WM, name="WM"),
            ),
            ignored=(CEREBELLUM, BRAIN_STEM),
            presets={name: preset.summary for name, preset in PRESETS.items()},
            reference=Reference(
                title="Unbiased nonlinear average age-appropriate brain templates from birth to adulthood",
                year=2009,
                doi="10.1016/S1053-8119(09)70884-5",
            ),
        )
    ]
