"""IXI: T1, T2, PD and MRA of healthy adults, without labels: to segment, not to train on.

The modalities lie on different grids, so all but the first must be registered to it.
"""

from __future__ import annotations

from segkit import DatasetCard, hookimpl


@hookimpl
def segkit_datasets() -> list[DatasetCard]:
    """The card of IXI."""
    return [
        DatasetCard(
            name="ixi",
            factory="segkit_ixi.layout:find",
            summary="IXI: healthy adults, T1, T2, PD, MRA on different grids, no labels",
        )
    ]
