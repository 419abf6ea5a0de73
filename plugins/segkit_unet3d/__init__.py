"""The 3D U-Net, as a segkit model. A listing imports this module only; the network is in `network`."""

from __future__ import annotations

from segkit import ModelCard, Reference, hookimpl


@hookimpl
def segkit_models() -> list[ModelCard]:
    """Return the card of the network."""
    return [
        ModelCard(
            name="unet3d",
            factory="segkit_unet3d.network:UNet3D",
            summary="3D U-Net: pairs of 3^3 convolutions, max-pooling, and skips across at each resolution",
            patch=(128, 128, 64),
            multiple=8,
            options={"width": 32, "levels": 4, "norm": "batch"},
            licence="Apache-2.0",
            reference=Reference(
                title="3D U-Net: Learning Dense Volumetric Segmentation from Sparse Annotation",
                year=2016,
                doi="10.1007/978-3-319-46723-8_49",
            ),
        )
    ]
