"""The viewer of the HTML report: NiiVue as npm installs it, and a head with truth and prediction, all as base64.

NiiVue is no part of segkit. It is looked for where npm puts it, `node_modules/@niivue/niivue` of the current folder or
of one above it, and taken only if its hash is that of the version segkit was tested with: what goes into a report runs
in the reader's browser.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.dataset import IGNORE
from segkit.errors import DataError, UsageError
from segkit.metrics import confusion_matrix, dice
from segkit.patches import bounding_box
from segkit.pictures import AXIAL, CORONAL, SAGITTAL, class_colour, cut, grey_window, save_panels
from segkit.volume import format_size
from segkit_benchmarks.figures import Head
from segkit_benchmarks.predictions import Predictions

NIIVUE_VERSION = "0.69.0"
NIIVUE_SHA256 = "47b896b77ec4a5be3ef1949c33ad393b6f45629921f326c279000bcf51bdb4af"
"""Of dist/niivue.umd.js."""

NIIVUE_COMMAND = f"npm install --no-save @niivue/niivue@{NIIVUE_VERSION}"

ERROR_COLOUR = "#ff2020"
"""Of voxels where the prediction differs from the truth."""

_PACKAGE = Path("node_modules", "@niivue", "niivue")
_MARGIN = 2


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What the viewer shows.

    Attributes:
        title: the subject, and whether it was held out.
        caption: where it comes from, its Dice and its grid, in words.
        volumes: (name, uint8 .nii.gz as base64, in RAS orientation): image, truth, prediction, and errors, where the
            two differ; voxels whose truth is ignored are 0 in truth and errors.
        classes: (name, colour) of each label but background, in order.
        png: the middle planes as a picture, base64: what is seen before the viewer is there, and in print.
        size: of that picture, pixels.
    """

    title: str
    caption: str
    volumes: Sequence[tuple[str, str]]
    classes: Sequence[tuple[str, str]]
    png: str
    size: tuple[int, int]


def find_niivue(folder: Path | None = None) -> Path | None:
    """NiiVue's script, None where it is not installed.

    Args:
        folder: NiiVue's package, instead of looking for node_modules.

    Raises:
        UsageError: there is none in the folder that was named.
        DataError: it is another version, or altered.
    """
    places = [folder] if folder else [place / _PACKAGE for place in (Path.cwd(), *Path.cwd().parents)]
    script = next((script for place in places if (script := place / "dist" / "niivue.umd.js").is_file()), None)
    if script is None:
        if folder:
            raise UsageError(
                f"expected NiiVue in {folder}, found no dist/niivue.umd.js",
                hint=f"run: {NIIVUE_COMMAND}, and name node_modules/@niivue/niivue",
            )
        return None
    if hashlib.sha256(script.read_bytes()).hexdigest() != NIIVUE_SHA256:
        raise DataError(
            f"expected NiiVue {NIIVUE_VERSION} at {script}, got another version or an altered file",
            hint=f"run: {NIIVUE_COMMAND}",
        )
    return script


def pack_script(script: Path) -> str:
    """A script, compressed, as base64; the page unpacks it."""
    return _base64(gzip.compress(script.read_bytes(), 9, mtime=0))


def make_scene(found: Predictions, name: str, dataset: str, most_bytes: int) -> Scene:
    """Pack a head and its labels for the page.

    Args:
        found: what the network of a run made of the head.
        name: what the report calls the run.
        dataset: where the head is from.
        most_bytes: what the volumes may take in the page; voxels are left out until they fit.
    """
    head, labels = found.head, found.labels
    scores = dice(confusion_matrix(head.truth, labels, len(head.classes)))
    named = zip(head.classes[1:], scores[1:], strict=True)
    written = ", ".join(f"{one} {100 * score:.1f}" for one, score in named if np.isfinite(score))
    volumes, step, spacing_mm = _fit(_crop(head, labels), head.spacing_mm, most_bytes)
    shown = "" if step == 1 else f" Of {step} voxels in a row, one is shown."
    png = _picture(head, labels)
    return Scene(
        title=head.title,
        caption=f"{head.modality} of {head.title}, {dataset}, through the network of {name}. "
        f"Dice, %: {written}. Voxels of {format_size([round(side, 2) for side in spacing_mm])} mm.{shown}",
        volumes=volumes,
        classes=[(one, class_colour(index)) for index, one in enumerate(head.classes) if index],
        png=_base64(png),
        size=png_size(png),
    )


def png_size(png: bytes) -> tuple[int, int]:
    """Width and height of a PNG picture, pixels."""
    return int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")


def _crop(head: Head, labels: NDArray[np.uint8]) -> dict[str, NDArray[np.uint8]]:
    """Image, truth, prediction and errors as uint8, cut to the head."""
    inside = head.mask | (head.truth > 0)
    box = tuple(slice(max(0, side.start - _MARGIN), side.stop + _MARGIN) for side in bounding_box(inside))
    dark, bright = grey_window(head.image)
    grey = np.clip((head.image.astype(np.float32) - dark) / max(bright - dark, 1e-6), 0, 1) * 255
    counted = head.truth != IGNORE
    layers = {
        "image": grey,
        "truth": np.where(counted, head.truth, 0),
        "prediction": labels,
        "errors": counted & (labels != head.truth),
    }
    return {name: array[box].astype(np.uint8) for name, array in layers.items()}


def _fit(
    volumes: Mapping[str, NDArray[np.uint8]], spacing_mm: Sequence[float], most_bytes: int
) -> tuple[list[tuple[str, str]], int, list[float]]:
    """Encode volumes, and leave voxels out along the axes of small ones until they fit; also the step and spacing."""
    step = 1
    while True:
        # Thick slices are kept: only axes that stay the finest are thinned.
        steps = [max(1, round(min(spacing_mm) * step / side)) for side in spacing_mm]
        affine = np.diag([*(side * one for side, one in zip(spacing_mm, steps, strict=True)), 1.0])
        x, y, z = steps
        texts = [(name, _encode(volume[::x, ::y, ::z], affine)) for name, volume in volumes.items()]
        if sum(len(text) for _, text in texts) <= most_bytes:
            return texts, step, np.diag(affine)[:3].tolist()
        step += 1


def _encode(volume: NDArray[np.uint8], affine: NDArray[np.float64]) -> str:
    import nibabel as nib

    image: Any = nib.Nifti1Image(np.ascontiguousarray(volume), affine)
    image.header.set_xyzt_units("mm")
    return _base64(gzip.compress(image.to_bytes(), 9, mtime=0))


def _picture(head: Head, labels: NDArray[np.uint8]) -> bytes:
    """Three planes through the middle of the labels: image, truth, prediction."""
    centre = [int(places.mean()) for places in np.nonzero((head.truth > 0) & (head.truth != IGNORE))]
    window = grey_window(head.image)
    rows = [
        [
            head.panel(
                head.image,
                axis,
                centre[axis],
                title=name if axis == SAGITTAL else "",
                window=window,
                labels=None if layer is None else cut(layer, axis, centre[axis]),
            )
            for axis in (SAGITTAL, CORONAL, AXIAL)
        ]
        for name, layer in (("image", None), ("truth", head.truth), ("prediction", labels))
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "planes.png"
        save_panels(path, rows, names=head.classes, title=head.title)
        return path.read_bytes()


def _base64(payload: bytes) -> str:
    return base64.b64encode(payload).decode()
