"""3D DenseNets of one to three streams, as segkit models. A listing imports this module only, not `network`."""

from __future__ import annotations

from segkit import ModelCard, Reference, hookimpl


@hookimpl
def segkit_models() -> list[ModelCard]:
    """Return the cards of the networks."""
    return [
        _card("densenet3d", "DenseNet3D", "dense block of nine 3^3 convolutions at full resolution, no pooling"),
        _card("densenet3d-2stream-early", "EarlyFusion", "3D DenseNet, two modalities joined after one layer each", 2),
        _card(
            "densenet3d-3stream-early", "EarlyFusion", "3D DenseNet, three modalities joined after one layer each", 3
        ),
        _card("densenet3d-2stream-late", "LateFusion", "two 3D DenseNets, one per modality, one classifier", 2),
        _card("densenet3d-3stream-late", "LateFusion", "three 3D DenseNets, one per modality, one classifier", 3),
    ]


def _card(name: str, network: str, summary: str, streams: int | None = None) -> ModelCard:
    return ModelCard(
        name=name,
        factory=f"segkit_densenet.network:{network}",
        summary=summary,
        patch=(28, 28, 28),
        in_channels=streams,
        licence="Apache-2.0",
        reference=Reference(
            title="HyperDense-Net: A Hyper-Densely Connected CNN for Multi-Modal Image Segmentation",
            year=2019,
            doi="10.1109/TMI.2018.2878669",
        ),
    )
