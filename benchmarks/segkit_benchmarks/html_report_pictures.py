"""The section of the HTML report that shows what a network makes of a head: the thesis' figures 70 to 73."""

from __future__ import annotations

import base64
import io
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from segkit.volume import format_size
from segkit_benchmarks.figures import Figure
from segkit_benchmarks.html_report_parts import Picture, Section
from segkit_benchmarks.predictions import Predictions

MOST_PICTURE_BYTES = 250_000
"""Of one picture in the page; one that would take more is made smaller."""

TITLE = "Predictions beside the truth"

_COLOURS = 256
_SMALLER = 0.8
_TITLES = {
    70: "output of the last layer",
    71: "a slice of the segmented volume",
    72: "a sub-volume",
    73: "a slice from overlapping predictions",
}


def pictures_section(name: str, found: Predictions) -> Section:
    """Figures 70 to 73 of a head, as `segkit report RUN` draws them.

    Args:
        name: what the report calls the run.
        found: what its network made of the head.
    """
    with tempfile.TemporaryDirectory() as folder:
        drawn = found.draw(Path(folder))
        blocks = [_picture(figure, (Path(folder) / figure["file"]).read_bytes(), found) for figure in drawn]
    lead = (
        f"{found.head.title}, through the network of {name}, as in figures 70 to 73 of the thesis. "
        "segkit report RUN writes them as files."
    )
    return Section(name="pictures", title=TITLE, lead=lead, blocks=blocks)


def _picture(figure: Figure, png: bytes, found: Predictions) -> Picture:
    (number,) = figure["thesis_figures"]
    small, size = shrink(png)
    return Picture(
        png=base64.b64encode(small).decode(),
        size=size,
        alt=f"{found.head.title}: {figure['shows']}",
        caption=f"As figure {number} of the thesis, {_TITLES[number]}. {'; '.join(_facts(figure))}.",
    )


def shrink(png: bytes, most_bytes: int = MOST_PICTURE_BYTES) -> tuple[bytes, tuple[int, int]]:
    """A picture in 256 colours, made smaller until it fits; also its size in pixels."""
    from PIL import Image

    whole = Image.open(io.BytesIO(png)).convert("RGB")
    scale = 1.0
    while True:
        width, height = (max(1, round(side * scale)) for side in whole.size)
        packed = io.BytesIO()
        whole.resize((width, height)).quantize(_COLOURS).save(packed, "PNG", optimize=True)
        if packed.tell() <= most_bytes:
            return packed.getvalue(), (width, height)
        scale *= _SMALLER


def _facts(figure: Mapping[str, Any]) -> Iterator[str]:
    """What a figure shows, in numbers."""
    if "maxima" in figure:
        yield f"Logits of the patch of {format_size(figure['size'])} at voxel {_place(figure['corner'])}"
        largest = ", ".join(f"{name} {found['logit']:.3g}" for name, found in figure["maxima"].items())
        yield f"largest: {largest}"
        return
    if "slice" in figure:
        yield f"Axial slice {figure['slice']}"
    else:
        yield f"The patch of {format_size(figure['size'])} at voxel {_place(figure['corner'])}"
    if "combined" in figure:
        met = figure["predictions_per_voxel"]
        yield f"{met['median']} predictions meet in most voxels"
        wrong = [figure[way]["wrong_percent"] for way in ("without_overlap", "combined")]
        yield f"wrong of the labelled voxels: {wrong[0]:g} % without overlap, {wrong[1]:g} % combined"
        yield f"Dice of the combined slice, %: {_dice(figure['combined']['dice_of_slice'])}"
        return
    yield f"{figure['wrong_percent']:g} % of the labelled voxels are wrong"
    for key, whole in (("dice_of_volume", "volume"), ("dice_of_patch", "patch")):
        if key in figure:
            yield f"Dice of the {whole}, %: {_dice(figure[key])}"


def _place(corner: list[int]) -> str:
    return ", ".join(map(str, corner))


def _dice(scores: Mapping[str, float | None]) -> str:
    """Of each class but background that is there."""
    return ", ".join(f"{name} {score:.1f}" for name, score in list(scores.items())[1:] if score is not None)
