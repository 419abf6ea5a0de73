"""Two 3D U-Nets, as segkit models. A listing imports this module only, not `network` and `residual`."""

from __future__ import annotations

from segkit import ModelCard, Reference, hookimpl


@hookimpl
def segkit_models() -> list[ModelCard]:
    """Return the cards of both networks."""
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
        ),
        ModelCard(
            name="unet3d-residual",
            factory="segkit_unet3d.residual:ResidualUNet3D",
            summary="residual 3D U-Net: instance norm, strided convolutions, and side heads summed into the logits",
            patch=(128, 128, 64),
            multiple=16,
            options={"width": 16},
            licence="Apache-2.0",
            reference=Reference(
                title="Brain Tumor Segmentation and Radiomics Survival Prediction: Contribution to the BRATS 2017 "
                "Challenge",
                year=2018,
                doi="10.1007/978-3-319-75238-9_25",
            ),
        ),
    ]
