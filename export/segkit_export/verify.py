"""The proof: an engine is held against torch fp32 on logits of patches and on labels of whole volumes.

Torch runs once; what it said is kept as a `Reference`, and each engine is compared with that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from segkit.errors import VerificationFailed
from segkit.inference import Engine, Tiling, segment_volume
from segkit.inference.torch_engine import TorchEngine
from segkit.metrics import confusion_matrix, dice
from segkit.patches import pad_to, plan_tiles
from segkit_export.progress import Progress, silent
from segkit_export.volumes import Head
from segkit_runtime.engines import first_line
from segkit_runtime.manifest import Proof

if TYPE_CHECKING:
    import torch

MOST_LOGIT_DIFFERENCE = 1e-3
LEAST_LABEL_AGREEMENT = 0.9999
"""What fp32 must keep to: two engines sum in another order, which moves a logit by about 1e-5 and hardly a label."""

_KEPT_BYTES = 2**29
"""Memory for the logits of torch that are kept for comparison: 32 tiles of 128x128x64 voxels and 4 classes."""


class _Told:
    """What torch said of one volume.

    Attributes:
        head: the volume.
        labels: labels of the voxels inside the mask, (N,) uint8.
        logits: logits (1, K, *patch) of some tiles, by the number of the tile.
    """

    labels: NDArray[np.uint8]

    def __init__(self, head: Head, mask: NDArray[np.bool_], tiling: Tiling, most_tiles: int) -> None:
        self.head = head
        self.logits: dict[int, NDArray[np.float32]] = {}
        count = len(plan_tiles(pad_to(mask, tiling.patch), tiling.patch, tiling.overlap))
        if not count:
            raise VerificationFailed(
                f"expected voxels other than zero in {head.name}, found none", hint="choose another"
            )
        self._kept = {int(number) for number in np.linspace(0, count - 1, min(count, most_tiles))}

    def listen(self, tile: int, logits: NDArray[np.float32]) -> None:
        """Keep the logits of a tile if it is one of those to keep."""
        if not np.isfinite(logits).all():
            raise VerificationFailed(
                f"expected finite logits from torch on {self.head.name}, got NaN or infinity",
                hint="train the network again",
            )
        if tile in self._kept:
            self.logits[tile] = logits.copy()

    def difference(self, runtime: str, tile: int, logits: NDArray[np.float32]) -> float:
        """The largest difference of a logit of a tile, 0 if the tile was not kept."""
        if not np.isfinite(logits).all():
            raise VerificationFailed(f"expected finite logits from {runtime}, got NaN or infinity where torch has none")
        if tile not in self.logits:
            return 0.0
        if logits.shape != self.logits[tile].shape:
            raise VerificationFailed(f"expected logits {self.logits[tile].shape} from {runtime}, got {logits.shape}")
        return float(np.abs(self.logits[tile] - logits).max())


@dataclass(frozen=True)
class Reference:
    """What torch said of all volumes; see `run_reference`."""

    told: list[_Told]
    tiling: Tiling
    classes: int

    @property
    def max_abs_logit(self) -> float:
        """The largest logit of torch."""
        return max(float(np.abs(logits).max()) for told in self.told for logits in told.logits.values())


class _Watched:
    """An engine whose logits are shown to someone, numbered by tile, before they are used."""

    def __init__(self, engine: Engine, watch: Callable[[int, NDArray[np.float32]], None]) -> None:
        self.batch = engine.batch
        self.runtime, self.version = engine.runtime, engine.version
        self.device, self.precision = engine.device, engine.precision
        self._engine = engine
        self._watch = watch
        self._tile = 0

    def run(self, patches: NDArray[np.float32]) -> NDArray[np.float32]:
        try:
            logits = self._engine.run(patches)
        except Exception as error:
            raise VerificationFailed(
                f"expected {self.runtime} to run a patch of {patches.shape[2:]}, it says: {first_line(error)}",
                hint="free memory, or choose a smaller --patch",
            ) from error
        for one in logits:
            self._watch(self._tile, one[None])
            self._tile += 1
        return logits

    def close(self) -> None:
        """The engine belongs to the caller."""


def run_reference(
    network: torch.nn.Module, heads: Sequence[Head], tiling: Tiling, classes: int, progress: Progress = silent
) -> Reference:
    """Run the network itself on all volumes and keep what it says.

    Raises:
        VerificationFailed: a logit is not finite, or a volume has nothing to segment.
    """
    engine = TorchEngine(network)
    tile_bytes = 4 * classes * math.prod(tiling.patch)
    most_tiles = max(1, _KEPT_BYTES // tile_bytes // len(heads))
    told = []
    for head in heads:
        images, mask = head.load()
        heard = _Told(head, mask, tiling, most_tiles)
        labels = segment_volume(_Watched(engine, heard.listen), images, mask, tiling, _step(progress, "torch", head))
        heard.labels = labels[mask]
        told.append(heard)
    return Reference(told, tiling, classes)


def prove(engine: Engine, reference: Reference, progress: Progress = silent) -> Proof:
    """Hold an engine against the reference.

    Args:
        engine: made from the exported file.
        reference: what torch said.
        progress: called once per tile.

    Returns:
        The figures, and whether they keep to the tolerances. Labels are compared inside the mask, since outside of it
        both say background whatever the network does.

    Raises:
        VerificationFailed: the engine gives logits of another shape, or some that are not finite: there are no figures.
    """
    difference = 0.0
    confusion = np.zeros((reference.classes, reference.classes), np.int64)
    for told in reference.told:
        images, mask = told.head.load()

        def compare(tile: int, logits: NDArray[np.float32], told: _Told = told) -> None:
            nonlocal difference
            difference = max(difference, told.difference(engine.runtime, tile, logits))

        labels = segment_volume(
            _Watched(engine, compare), images, mask, reference.tiling, _step(progress, engine.runtime, told.head)
        )
        confusion += confusion_matrix(told.labels, labels[mask], reference.classes)
    agreement = float(np.trace(confusion) / confusion.sum())
    return Proof(
        runtime=engine.runtime,
        version=engine.version,
        device=engine.device,
        precision=engine.precision,
        patches=sum(len(told.logits) for told in reference.told),
        max_abs_logit_difference=difference,
        max_abs_logit=reference.max_abs_logit,
        label_agreement=agreement,
        least_dice=float(np.nanmin(dice(confusion))),
        voxels=int(confusion.sum()),
        volumes=[told.head.name for told in reference.told],
        proven=difference < MOST_LOGIT_DIFFERENCE and agreement >= LEAST_LABEL_AGREEMENT,
    )


def require_proven(proof: Proof) -> None:
    """Refuse an engine outside the tolerances.

    Raises:
        VerificationFailed: it is.
    """
    if not proof.proven:
        raise VerificationFailed(
            f"expected {proof.runtime} to differ from torch by less than {MOST_LOGIT_DIFFERENCE:g} in any logit "
            f"and to agree on {LEAST_LABEL_AGREEMENT:.2%} of the labels, it {describe(proof)}",
            hint="nothing was written; look for an operation of the network that this runtime computes in another way",
        )


def describe(proof: Proof) -> str:
    """The figures of a proof in words."""
    return (
        f"differs by up to {proof.max_abs_logit_difference:.2g} and agrees on {proof.label_agreement:.4%} "
        f"of {proof.voxels:,} voxels"
    )


def _step(progress: Progress, runtime: str, head: Head) -> Callable[[int, int], None]:
    step = f"compare: {runtime}, {head.name}"
    return lambda done, total: progress(step, done, total)
