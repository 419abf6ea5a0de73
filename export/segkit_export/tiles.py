"""Tiles of other sizes than the trained patch: tried on each runtime, so that a volume may be cut as costs least.

Whether they do depends on the network. Two of `unet3d` (width 8, three levels) were trained on patches of 48^3 of 2 mm
phantoms and held against torch at that patch, without overlap, on the phantom that was held out; share of labels kept,
and change of a Dice:

| tiles | batch norms | instance norms |
|---|---|---|
| 48x48x32 | 99.28 %, 0.0033 | 95.32 %, 0.0092 |
| 64x64x48 | 99.69 %, 0.0011 | 96.82 %, 0.0150 |
| 96x96x64 | 98.96 %, 0.0012 | not tried |
| 32x32x32 | 97.88 %, 0.0087 | 90.52 %, 0.0140 |
| 24x24x24 | 93.17 %, 0.0570 | not tried |

Batch norms take their statistics from training, so a voxel sees the tile only through its own neighbours; instance
norms take them from the tile, and no size held. ONNX Runtime and OpenVINO gave the same shares.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Sequence
from contextlib import closing

from segkit.cards import Size
from segkit.errors import VerificationFailed
from segkit.inference import Engine
from segkit.volume import format_size
from segkit_export.progress import Progress, silent
from segkit_export.proving import Opener, Proofs, opener
from segkit_export.reference import Reference, Watched
from segkit_export.tolerances import TILES
from segkit_export.verify import Labels
from segkit_runtime.engines import LABELS, ONNX_RUNTIMES
from segkit_runtime.manifest import Model, TileProof


def prove_tiles(engine: Engine, reference: Reference, patch: Size, progress: Progress = silent) -> TileProof:
    """Hold an engine with tiles of another size against torch with those of the reference.

    Args:
        engine: gives logits, or labels where tiles do not overlap; it takes patches of any size.
        reference: what torch said.
        patch: size (x, y, z) of the tiles in voxels.
        progress: called once per tile.

    Raises:
        VerificationFailed: the engine does not run on such tiles.
    """
    given = Labels(reference.classes)
    tiling = dataclasses.replace(reference.tiling, patch=patch)
    patch_ms: list[float] = []
    for told in reference.told:
        patch_ms += given.ask(Watched(engine, lambda tile, answer: None), told, tiling, progress)
    dice_difference = given.dice_difference
    return TileProof(
        patch=patch,
        label_agreement=given.agreement,
        least_dice=given.least_dice,
        dice_difference=dice_difference,
        patch_ms=round(statistics.median(patch_ms), 3),
        tolerance=TILES,
        proven=given.agreement >= TILES.least_label_agreement
        and (dice_difference is None or dice_difference <= TILES.most_dice_difference),
    )


def add_tiles(proofs: Proofs, sizes: Sequence[Size], reference: Reference, progress: Progress) -> None:
    """Try tiles of other sizes on each runtime that is proven and takes them; those that do not hold become warnings.

    Args:
        proofs: what was proven; what holds is added to each.
        sizes: of the tiles.
        reference: what torch said with its own.
        progress: called once per tile.
    """
    for number, proof in enumerate(proofs.proofs):
        if not sizes or proof.arithmetic != "native" or proof.runtime not in ONNX_RUNTIMES:
            continue
        variant = proofs.used[proof.model]
        open_for = opener(proof.runtime, variant.onnx, proof.precision)
        tried = try_tiles(open_for, variant.model, sizes, reference, progress)
        held = [tiles for tiles in tried.values() if isinstance(tiles, TileProof) and tiles.proven]
        proofs.proofs[number] = proof.model_copy(update={"tiles": held})
        for size, tiles in tried.items():
            if tiles not in held:
                said = describe_tiles(tiles) if isinstance(tiles, TileProof) else tiles
                where = f"{proof.runtime} in {proof.precision} with tiles of {format_size(size)}"
                proofs.warnings.append(f"{where} was not proven: {said}")


def try_tiles(
    open_for: Opener,
    model: Model,
    sizes: Iterable[Size],
    reference: Reference,
    progress: Progress,
) -> dict[Size, TileProof | str]:
    """What comes of tiles of each size: the figures, or why there are none. The arguments are those of `prove_opened`.

    Raises:
        SegkitError: the file cannot be opened.
    """
    tried: dict[Size, TileProof | str] = {}
    with closing(open_for("labels" if LABELS in model.outputs else "logits")) as engine:
        for size in sizes:
            try:
                tried[size] = prove_tiles(engine, reference, size, progress)
            except VerificationFailed as error:
                tried[size] = str(error)
    return tried


def describe_tiles(tiles: TileProof) -> str:
    """The figures of tiles in words."""
    dice_difference, tolerance = tiles.dice_difference, tiles.tolerance
    changed = "" if dice_difference is None else f" and changes the Dice of a class by {dice_difference:.2g}"
    return (
        f"agrees on {tiles.label_agreement:.4%}{changed}, where at least {tolerance.least_label_agreement:.2%} and at "
        f"most {tolerance.most_dice_difference:g} were expected"
    )
