"""Where training takes its patches from: four segkit samplers."""

from __future__ import annotations

from segkit import SamplerCard, hookimpl


@hookimpl
def segkit_samplers() -> list[SamplerCard]:
    """Return the cards of the samplers."""
    return [
        SamplerCard(
            name="uniform",
            factory="segkit_samplers.samplers:Uniform",
            summary="any patch of the volume, each as likely",
        ),
        SamplerCard(
            name="nonempty",
            factory="segkit_samplers.samplers:NonEmpty",
            summary="patches that contain labelled tissue",
        ),
        SamplerCard(
            name="class-balanced",
            factory="segkit_samplers.samplers:ClassBalanced",
            summary="patches around a voxel of a class, each class of the subject as likely",
        ),
        SamplerCard(
            name="grid",
            factory="segkit_samplers.samplers:Grid",
            summary="the patches of the regular grid that covers the volume, each as likely",
        ),
    ]
