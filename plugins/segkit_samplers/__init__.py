"""Where training takes its patches from: two segkit samplers."""

from __future__ import annotations

from segkit import SamplerCard, hookimpl


@hookimpl
def segkit_samplers() -> list[SamplerCard]:
    """Return the cards of both samplers."""
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
    ]
