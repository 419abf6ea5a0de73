"""What is made before anything is measured, in processes of their own: volumes, weights, ONNX files, bundles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from segkit.cards import Size, load_attribute
from segkit.dataset import Subject, load_input, open_dataset
from segkit.preprocess import Preprocessing
from segkit.registry import Registry
from segkit_benchmarks.peers.work import CLASSES, MODALITIES, PHANTOM_SEED, Content, Net, Work
from segkit_benchmarks.turns import Turn

if TYPE_CHECKING:
    from segkit_export.exporter import Exported
    from segkit_export.source import BareOptions
    from segkit_runtime.manifest import Precision

CHECK = (
    "inside the brain, on two patches from the middle of a stripped head that lies as the phantom makes it; a voxel at "
    "either end is not zero, so that all who crop keep the whole and tile alike"
)
"""What labels are compared on, in words."""

Image = NDArray[np.int16]


def volumes(turn: Turn, registry: Registry, work: Work, folder: Path) -> None:
    """Make a stripped head of the phantom, the same with noise around it, and what labels are compared on.

    A side of `segkit_benchmarks.turns`. Each is written as NIfTI files, by nibabel, and as a normalised array.
    """
    card = registry.card("dataset", "phantom")
    load_attribute(card.make)(folder / "phantom", work.preset, 1, PHANTOM_SEED, lambda _: None)
    subject = open_dataset(card, folder / "phantom").labelled[0]
    heads, sides_mm = zip(*(_read(subject.images[name]) for name in MODALITIES), strict=True)
    # A phantom lies with its longest axis along z; iSEG-2017, and what it is compared with, along x.
    stripped = [head.transpose(2, 1, 0) for head in heads]
    rng = np.random.default_rng(0)
    dense = []
    for image in stripped:
        noise = rng.integers(1, max(2, int(image.max()) // 10), image.shape, np.int16)
        dense.append(np.where(image == 0, noise, image))
    _write(folder, "stripped", stripped, sides_mm[0][::-1])
    _write(folder, "dense", dense, sides_mm[0][::-1])
    _write(folder, "check", [_check(head, work.nets[0].patch) for head in heads], sides_mm[0])
    inside = np.any(stripped, axis=0)
    shape, share = list(inside.shape), round(float(inside.mean()), 4)
    turn({"preset": work.preset, "shape": shape, "inside": share, "check": CHECK})


def _read(path: Path) -> tuple[Image, tuple[float, ...]]:
    """An image and the sides of its voxels in mm."""
    import nibabel

    image = nibabel.load(path)
    return np.asarray(image.dataobj).astype(np.int16), tuple(map(float, image.header.get_zooms()))


def _check(head: Image, patch: Size) -> Image:
    """Two patches, one behind the other along z, in the middle of a head; see `CHECK`."""
    sides = (patch[0], patch[1], 2 * patch[2])
    part = head[
        tuple(slice((n - side) // 2, (n - side) // 2 + side) for n, side in zip(head.shape, sides, strict=True))
    ]
    check = part.copy()
    for corner in ((0, 0, 0), (-1, -1, -1)):
        check[corner] = max(1, int(check[corner]))
    return check


def image_path(folder: Path, content: Content, modality: str) -> Path:
    """The NIfTI file of a volume."""
    return folder / f"{content}-{modality}.nii.gz"


def _write(folder: Path, content: Content, images: Sequence[Image], sides_mm: Sequence[float]) -> None:
    import nibabel

    paths = {name: image_path(folder, content, name) for name in MODALITIES}
    for path, image in zip(paths.values(), images, strict=True):
        nibabel.Nifti1Image(np.asfortranarray(image), np.diag([*sides_mm, 1.0])).to_filename(path)
    head = load_input(Subject(id=content, images=paths), MODALITIES, Preprocessing(background="zero"))
    np.save(folder / f"{content}.npy", np.ascontiguousarray(head.images))
    np.save(folder / f"{content}-mask.npy", np.ascontiguousarray(head.mask))


def network(turn: Turn, registry: Registry, net: Net, folder: Path, run: Path | None) -> None:
    """Save the weights of a run, or random ones, and the ONNX file of the network.

    A side of `segkit_benchmarks.turns`: it hands over what `load_network` wants to know, the work of a patch, and the
    Dice of each class if the run was evaluated.
    """
    import torch

    from segkit_export.graph_edit import add_labels
    from segkit_export.onnx_export import to_onnx
    from segkit_export.source import find_target, open_source

    bare = None if run else _bare(net)
    source = open_source(find_target(_name(net, run), registry), registry, patch=net.patch, bare=bare)
    weights = folder / f"{net.model}.pt"
    torch.save(source.network.state_dict(), weights)
    onnx = add_labels(to_onnx(source.network, net.channels, net.patch))
    (folder / f"{net.model}.onnx").write_bytes(onnx)
    turn(
        {
            "gflop": round(2 * source.origin.macs / 1e9, 2),
            "parameters": source.origin.parameters,
            "dice": source.weights.dice,
            "network": {
                "factory": registry.card("model", net.model).factory,
                "channels": net.channels,
                "classes": CLASSES,
                "options": dict(net.options),
                "weights": str(weights),
            },
        }
    )


def bundle(
    turn: Turn,
    registry: Registry,
    net: Net,
    overlap: float,
    run: Path | None,
    out: Path,
    precisions: tuple[Precision, ...],
    mend: bool,
) -> None:
    """Export a network for tiles of an overlap, with the export's own proof; random weights have the same seed again.

    A side of `segkit_benchmarks.turns`: it hands over the proof of int8 on OpenVINO, or why there is none.
    """
    from segkit_export.exporter import Request, export

    request = Request(
        name=_name(net, run),
        out=out,
        patch=net.patch,
        overlap=overlap,
        bare=None if run else _bare(net),
        precisions=precisions,
        mend=mend,
        openvino=mend,  # only what is asked for by name is mended
    )
    turn(int8_proof(export(request, registry)))


def int8_proof(exported: Exported) -> dict[str, object]:
    """The figures of the proof of int8 on OpenVINO, or "why_not"."""
    manifest = exported.bundle.manifest
    for proof in manifest.proofs:
        if (proof.runtime, proof.precision, proof.proven) == ("openvino", "int8", True):
            islands = next(model.islands for model in manifest.models if model.file == proof.model)
            figures = proof.model_dump(include={"label_agreement", "dice_difference", "voxels", "volumes", "tolerance"})
            return {"proof": {**figures, "overlap": manifest.inference.overlap, "islands": islands}}
    told = [warning for warning in exported.warnings if warning.startswith("openvino in int8 ")]
    return {"proof": None, "why_not": "; ".join(told) or "int8 was not asked for"}


def _name(net: Net, run: Path | None) -> str:
    return net.model if run is None else str(run)


def _bare(net: Net) -> BareOptions:
    from segkit_export.source import BareOptions

    return BareOptions(modalities=MODALITIES[: net.channels], classes=CLASSES, options=net.options)
