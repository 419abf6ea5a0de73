"""iSEG-2017: T1 and T2 of infants six months old, with CSF, GM and WM; iSEG-2019, which is named the same way, too.

Ten subjects have labels. A prediction is written as NIfTI with the codes of the labels; the challenge takes Analyze
pairs, so convert it before sending it in.
"""

from __future__ import annotations

from segkit import DatasetCard, Label, Reference, hookimpl


@hookimpl
def segkit_datasets() -> list[DatasetCard]:
    """The card of iSEG-2017."""
    return [
        DatasetCard(
            name="iseg2017",
            factory="segkit_iseg2017.layout:find",
            summary="iSEG-2017 (or 2019): infants of 6 months, T1 and T2, skull-stripped, 1 mm",
            labels=(
                Label(code=0, name="background"),
                Label(code=10, name="CSF"),
                Label(code=150, name="GM"),
                Label(code=250, name="WM"),
            ),
            reference=Reference(
                title="Benchmark on automatic six-month-old infant brain segmentation algorithms: "
                "the iSeg-2017 challenge",
                year=2019,
                doi="10.1109/TMI.2019.2901712",
            ),
        )
    ]
