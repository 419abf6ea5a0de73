"""BIDS: the Brain Imaging Data Structure, with label files from a pipeline under `derivatives/`."""

from __future__ import annotations

from segkit import DatasetCard, Reference, hookimpl


@hookimpl
def segkit_datasets() -> list[DatasetCard]:
    """The card of BIDS."""
    return [
        DatasetCard(
            name="bids",
            factory="segkit_bids.layout:find",
            read_labels="segkit_bids.tables:read_labels",
            summary="a BIDS folder: T1w, T2w, FLAIR, PDw, and dseg files from derivatives/",
            options={"derivatives": "", "acquisition": "", "run": "", "desc": ""},
            reference=Reference(
                title="The brain imaging data structure, a format for organizing and describing outputs of "
                "neuroimaging experiments",
                year=2016,
                doi="10.1038/sdata.2016.44",
            ),
        )
    ]
