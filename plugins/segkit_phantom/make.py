"""Making a phantom data set."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.nifti1 import Nifti1Image
from numpy.typing import NDArray

import segkit
from segkit.errors import DataError, OutputExists, UnknownName, UsageError
from segkit.files import write_bytes
from segkit.nifti import write_volume
from segkit.volume import Volume
from segkit_phantom import presets
from segkit_phantom.acquisition import acquire
from segkit_phantom.anatomy import Head, make_head
from segkit_phantom.fields import Array
from segkit_phantom.layout import DESCRIPTION, LABEL, SCAN, image_file, read_description
from segkit_phantom.presets import PRESETS, Channel, Preset
from segkit_phantom.template import Template, load_template

GENERATOR = 1
"""Raised whenever the same seed makes other bytes."""


def make(root: Path, preset: str, subjects: int, seed: int, progress: Callable[[str], None]) -> None:
    """Make phantom subjects, or the ones that a folder still lacks.

    Subject i depends on the preset, the seed and i alone, so the first subjects are the same however many are made.
    Each appears in one step; whatever interrupts this function, calling it again goes on where it was.

    Args:
        root: folder of the data set, made if need be.
        preset: one of `PRESETS`.
        subjects: how many there shall be.
        seed: 0 or above.
        progress: called with the id of each subject once it is there.

    Raises:
        UnknownName: there is no such preset.
        UsageError: the number of subjects or the seed is out of range.
        OutputExists: the folder holds something else, or was made with other settings.
        MissingExtra: nilearn is not installed.
    """
    if preset not in PRESETS:
        raise UnknownName("preset", preset, PRESETS)
    if subjects < 1:
        raise UsageError(f"expected at least 1 subject, got {subjects}")
    if seed < 0:
        raise UsageError(f"expected a seed of 0 or above, got {seed}")
    complete = [_is_complete(root / f"sub-{number:03d}", PRESETS[preset]) for number in range(1, subjects + 1)]
    template = None if all(complete) else load_template()  # first, since it may be missing
    _claim(root, _describe(preset, seed))
    for number in range(1, subjects + 1):
        folder = root / f"sub-{number:03d}"
        if not _is_complete(folder, PRESETS[preset]):
            assert template is not None  # noqa: S101 - loaded where a subject is not complete
            _write_subject(folder, PRESETS[preset], template, np.random.default_rng([seed, number]))
        progress(folder.name)


def _describe(name: str, seed: int) -> dict[str, Any]:
    preset = PRESETS[name]
    return {
        "preset": name,
        "seed": seed,
        "segkit": segkit.__version__,
        "generator": GENERATOR,
        "shape": list(preset.shape),
        "spacing_mm": list(preset.spacing_mm),
        "channels": {modality: _describe_channel(channel) for modality, channel in preset.channels.items()},
        "labels": {
            "background": presets.BACKGROUND,
            "CSF": presets.CSF,
            "GM": presets.GM,
            "WM": presets.WM,
            "cerebellum (ignored)": presets.CEREBELLUM,
            "brain stem (ignored)": presets.BRAIN_STEM,
        },
        "source": "MNI ICBM152 2009a nonlinear symmetric tissue maps, Copyright (C) 1993-2009 Louis Collins, "
        "McConnell Brain Imaging Centre, Montreal Neurological Institute, McGill University",
    }


def _describe_channel(channel: Channel) -> dict[str, Any]:
    return {
        "sequence": type(channel.sequence).__name__,
        **asdict(channel.sequence),  # type: ignore[call-overload]
        "varied": {name: list(limits) for name, limits in channel.varied.items()},
        "snr": list(channel.snr),
        "bias": list(channel.bias),
        "blur_mm": list(channel.blur_mm),
    }


def _claim(root: Path, description: dict[str, Any]) -> None:
    """Write the description into a new or empty folder, or see that the one there is the same."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        write_bytes(root / DESCRIPTION, _json(description))
        return
    try:
        found = read_description(root)
    except (DataError, NotADirectoryError):
        raise OutputExists(
            f"expected a new folder, an empty one or a phantom at {root}, found something else", hint="name another"
        ) from None
    # The generator's number tells whether the bytes would differ; segkit's version does not.
    settings = description.keys() - {"segkit"}
    different = [
        f"{key} {found.get(key)}" for key in description if key in settings and found.get(key) != description[key]
    ]
    if different:
        raise OutputExists(
            f"expected a phantom with preset {description['preset']} and seed {description['seed']} at {root}, "
            f"found one with {', '.join(different):.80}",
            hint="name another folder",
        )


def _is_complete(folder: Path, preset: Preset) -> bool:
    return all(file.is_file() for file in (folder / LABEL, *(image_file(folder, name) for name in preset.channels)))


def _write_subject(folder: Path, preset: Preset, template: Template, rng: np.random.Generator) -> None:
    draft = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        head = make_head(preset, template, rng)
        write_volume(draft / LABEL, _volume(head.embed(head.label), head))
        scans = {}
        for modality, channel in preset.channels.items():
            image, scans[modality] = _scan(head, channel, rng)
            write_volume(image_file(draft, modality), _volume(_to_int16(image, head), head))
        write_bytes(draft / SCAN, _json(scans))
        if folder.exists():  # What is left of a subject that lost a file.
            shutil.rmtree(folder)
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _volume(data: NDArray[Any], head: Head) -> Volume:
    """An image on the grid of a head, with a header that says millimetres and scanner coordinates."""
    image = Nifti1Image(data, head.affine)
    image.set_sform(head.affine, "scanner")
    image.set_qform(head.affine, "scanner")
    image.header.set_xyzt_units("mm")
    return Volume(data, head.affine, image.header)


def _scan(head: Head, channel: Channel, rng: np.random.Generator) -> tuple[Array, dict[str, Any]]:
    """The image of one modality, and the settings that were drawn for it."""
    varied = {name: round(rng.uniform(*limits), 2) for name, limits in channel.varied.items()}
    sequence = replace(channel.sequence, **varied)  # type: ignore[type-var]
    snr, bias = (round(rng.uniform(*limits), 3) for limits in (channel.snr, channel.bias))
    image = acquire(head, sequence, rng, snr=snr, bias=bias, blur_mm=channel.blur_mm)
    settings = {"sequence": type(sequence).__name__, **asdict(sequence)}  # type: ignore[call-overload]
    return image, settings | {"snr": snr, "bias": bias, "blur_mm": list(channel.blur_mm)}


def _to_int16(image: Array, head: Head) -> NDArray[np.int16]:
    """Round to what scanners store; without a skull, exactly the background is 0."""
    whole = np.rint(np.minimum(image, np.iinfo(np.int16).max)).astype(np.int16)
    return whole if head.skull else np.maximum(whole, head.embed(head.label) > 0)


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()
