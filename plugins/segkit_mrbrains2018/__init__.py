"""MRBrainS: T1, T1-IR and FLAIR of adults, 0.958 x 0.958 x 3 mm, labelled by hand.

`mrbrains2018` has two options:

- `images`: "corrected" takes the images after bias-field correction, "original" those before it; either way the T1 and
  the T1-IR that were registered to the FLAIR.
- `labels`: 4 merges the codes to background, CSF, GM and WM, and ignores cerebellum, brain stem, infarction and other;
  8 keeps what the challenge scores, and ignores infarction and other; 10 keeps all.

`mrbrains2013` is the challenge before it, with the option `labels`, 4 or 8, and ids such as "training-1" and "test-1",
since its two folders number from 1 each.
"""

from __future__ import annotations

from segkit import DatasetCard, Reference, hookimpl


@hookimpl
def segkit_datasets() -> list[DatasetCard]:
    """The cards of both challenges."""
    return [
        DatasetCard(
            name="mrbrains2018",
            factory="segkit_mrbrains2018.layout:find",
            read_labels="segkit_mrbrains2018.scheme:read_labels",
            summary="MRBrainS18: adults, T1, T1-IR, FLAIR; images=corrected or original, labels=4, 8 or 10",
            options={"images": "corrected", "labels": 4},
            reference=Reference(title="MR brain segmentation challenge 2018 data", year=2024, doi="10.34894/E0U32Q"),
        ),
        DatasetCard(
            name="mrbrains2013",
            factory="segkit_mrbrains2018.layout:find_2013",
            read_labels="segkit_mrbrains2018.scheme:read_labels_2013",
            summary="MRBrainS13: adults, T1, T1-IR, FLAIR; labels=4 or 8",
            options={"labels": 4},
            reference=Reference(
                title="MRBrainS challenge: online evaluation framework for brain image segmentation in 3T MRI scans",
                year=2015,
                doi="10.1155/2015/813696",
            ),
        ),
    ]
