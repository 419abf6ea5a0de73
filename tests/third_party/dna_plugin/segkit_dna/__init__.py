"""The network of nnU-Net, from its authors' package `dynamic-network-architectures`, as a segkit model."""

from segkit import ModelCard, Reference, hookimpl


@hookimpl
def segkit_models() -> list[ModelCard]:
    """Return the card."""
    nnunet = Reference(title="nnU-Net: a self-configuring method", year=2021, doi="10.1038/s41592-020-01008-z")
    return [
        ModelCard(
            name="dna-plain-unet",
            factory="segkit_dna.network:plain_unet",
            summary="nnU-Net's plain U-Net: instance norm, leaky ReLU, strided convolutions",
            patch=(64, 64, 64),
            multiple=16,  # 8 would leave the coarsest instance norm one voxel
            options={"width": 32},
            licence="Apache-2.0",
            reference=nnunet,
        )
    ]
