"""V-Net and a lighter V-Net, as segkit models. A listing imports this module only; the networks are in `network`."""

from __future__ import annotations

from segkit import ModelCard, Reference, hookimpl

_VNET = Reference(
    title="V-Net: Fully Convolutional Neural Networks for Volumetric Medical Image Segmentation",
    year=2016,
    doi="10.1109/3DV.2016.79",
)


@hookimpl
def segkit_models() -> list[ModelCard]:
    """Return the cards of both networks."""
    return [
        ModelCard(
            name="vnet",
            factory="segkit_vnet.network:VNet",
            summary="V-Net: residual encoder and decoder of 5^3 convolutions, four resolutions below the input's",
            patch=(128, 128, 64),
            multiple=16,
            licence="Apache-2.0",
            reference=_VNET,
        ),
        ModelCard(
            name="vnet-light",
            factory="segkit_vnet.network:vnet_light",
            summary="V-Net without its deepest step down and up: a quarter of the weights",
            patch=(128, 128, 64),
            multiple=8,
            licence="Apache-2.0",
            reference=_VNET,
        ),
    ]
