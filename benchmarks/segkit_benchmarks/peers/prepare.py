"""What is made before anything is measured, in a process of its own: volumes, weights, ONNX files, a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segkit.cards import Size, load_attribute
from segkit.dataset import Subject, load_input, open_dataset
from segkit.preprocess import Preprocessing
from segkit.registry import Registry
from segkit_benchmarks.peers.work import BUNDLE, CLASSES, MODALITIES, PHANTOM_SEED, Content, Net, Work
from segkit_benchmarks.turns import Turn

_AFFINE = np.diag([1.0, 1, 1, 1])


def volumes(turn: Turn, registry: Registry, work: Work, folder: Path) -> None:
    """Make a stripped head of the phantom, the same with noise around it, and a part of that of two patches.

    A side of `segkit_benchmarks.turns`. Each is written as NIfTI files, by nibabel, and as a normalised array.
    """
    card = registry.card("dataset", "phantom")
    load_attribute(card.make)(folder / "phantom", work.preset, 1, PHANTOM_SEED, lambda _: None)
    subject = open_dataset(card, folder / "phantom").labelled[0]
    stripped = [_read(subject.images[name], work.step) for name in MODALITIES]
    rng = np.random.default_rng(0)
    dense = []
    for image in stripped:
        noise = rng.integers(1, max(2, int(image.max()) // 10), image.shape, np.int16)
        dense.append(np.where(image == 0, noise, image))
    part = _middle(stripped[0].shape, work.nets[0].patch)
    _write(folder, "stripped", stripped)
    _write(folder, "dense", dense)
    _write(folder, "check", [image[part] for image in dense])
    inside = np.any(stripped, axis=0)
    turn({"preset": work.preset, "shape": list(inside.shape), "inside": round(float(inside.mean()), 4)})


def _read(path: Path, step: int) -> NDArray[np.int16]:
    """A phantom lies with its longest axis along z; iSEG-2017, and what it is compared with, along x."""
    import nibabel

    image = np.asarray(nibabel.load(path).dataobj).astype(np.int16)
    return np.asarray(image.transpose(2, 1, 0)[::step, ::step, ::step])


def _middle(shape: Sequence[int], patch: Size) -> tuple[slice, ...]:
    """Two patches side by side along x, in the middle of a volume."""
    sides = (2 * patch[0], patch[1], patch[2])
    return tuple(slice((n - side) // 2, (n - side) // 2 + side) for n, side in zip(shape, sides, strict=True))


def image_path(folder: Path, content: Content, modality: str) -> Path:
    """The NIfTI file of a volume."""
    return folder / f"{content}-{modality}.nii.gz"


def _write(folder: Path, content: Content, images: Sequence[NDArray[np.int16]]) -> None:
    import nibabel

    paths = {name: image_path(folder, content, name) for name in MODALITIES}
    for path, image in zip(paths.values(), images, strict=True):
        nibabel.Nifti1Image(np.asfortranarray(image), _AFFINE).to_filename(path)
    head = load_input(Subject(id=content, images=paths), MODALITIES, Preprocessing(background="zero"))
    np.save(folder / f"{content}.npy", np.ascontiguousarray(head.images))
    np.save(folder / f"{content}-mask.npy", np.ascontiguousarray(head.mask))


def network(turn: Turn, registry: Registry, net: Net, folder: Path, bundle: bool) -> None:
    """Save a network's random weights and its ONNX file, and export it as a bundle if one is wanted.

    A side of `segkit_benchmarks.turns`: it hands over what `load_network` wants to know, and the work of a patch.
    """
    import torch

    from segkit_export.exporter import Request, export
    from segkit_export.graph_edit import add_labels
    from segkit_export.onnx_export import to_onnx
    from segkit_export.source import BareOptions, find_target, open_source

    bare = BareOptions(modalities=MODALITIES[: net.channels], classes=CLASSES, options=net.options)
    source = open_source(find_target(net.model, registry), registry, patch=net.patch, bare=bare)
    weights = folder / f"{net.model}.pt"
    torch.save(source.network.state_dict(), weights)
    onnx = add_labels(to_onnx(source.network, net.channels, net.patch))
    (folder / f"{net.model}.onnx").write_bytes(onnx)
    if bundle:  # its random weights come from the same seed
        export(Request(name=net.model, out=folder / BUNDLE, patch=net.patch, bare=bare), registry)
    turn(
        {
            "gflop": round(2 * source.origin.macs / 1e9, 2),
            "parameters": source.origin.parameters,
            "network": {
                "factory": registry.card("model", net.model).factory,
                "channels": net.channels,
                "classes": CLASSES,
                "options": dict(net.options),
                "weights": str(weights),
            },
        }
    )
