"""BraTS: adult gliomas in four modalities, the years 2018 to 2024."""

from __future__ import annotations

from segkit import DatasetCard, Reference, hookimpl


@hookimpl
def segkit_datasets() -> list[DatasetCard]:
    """The card of BraTS."""
    return [
        DatasetCard(
            name="brats",
            factory="segkit_brats.layout:find",
            read_labels="segkit_brats.layout:read_labels",
            summary="BraTS 2018 to 2024, adult glioma: T1, T1ce, T2, FLAIR",
            reference=Reference(
                title="The Multimodal Brain Tumor Image Segmentation Benchmark (BRATS)",
                year=2015,
                doi="10.1109/TMI.2014.2377694",
            ),
        )
    ]
