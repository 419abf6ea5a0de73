"""Medical Segmentation Decathlon: one task in a folder, described by its `dataset.json`."""

from __future__ import annotations

from segkit import DatasetCard, Reference, hookimpl


@hookimpl
def segkit_datasets() -> list[DatasetCard]:
    """The card of the Decathlon."""
    return [
        DatasetCard(
            name="decathlon",
            factory="segkit_decathlon.layout:find",
            read_labels="segkit_decathlon.layout:read_labels",
            summary="a task of the Medical Segmentation Decathlon, as its dataset.json describes it",
            reference=Reference(
                title="The Medical Segmentation Decathlon", year=2022, doi="10.1038/s41467-022-30695-9"
            ),
        )
    ]
