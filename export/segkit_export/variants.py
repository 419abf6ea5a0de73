"""The ONNX files of a bundle: the traced one, and those made of it in other precisions when they are first needed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
from numpy.typing import NDArray

from segkit_export.graph_edit import add_labels
from segkit_export.onnx_export import OPSET, OUTPUT
from segkit_export.precision import BF16_OPSET, lower
from segkit_export.progress import Progress, silent
from segkit_runtime.bundle import MODEL
from segkit_runtime.engines import LABELS, MEAN_LOGIT
from segkit_runtime.manifest import Model, Precision

if TYPE_CHECKING:
    from segkit_export.quantise import Recipe

Halves = Literal["fp16", "bf16"]

PRECISIONS: tuple[Precision, ...] = ("fp32", "tf32", "fp16", "bf16", "int8")


@dataclass(frozen=True, kw_only=True)
class Variant:
    """An ONNX file and what the manifest says of it."""

    model: Model
    onnx: bytes


class Variants:
    """Makes the files of a bundle.

    Args:
        onnx: the traced network, fp32.
        calibration: gives the patches (1, C, *patch) float32 that int8 is calibrated on.
        progress: called as int8 is calibrated.
        labels: whether each file tells labels beside logits, in the last step of its making; see `add_labels`.

    Attributes:
        traced: the traced network, without labels.
        fp32: the file in fp32.
    """

    def __init__(
        self,
        onnx: bytes,
        calibration: Callable[[], Sequence[NDArray[np.float32]]],
        progress: Progress = silent,
        *,
        labels: bool = False,
    ) -> None:
        self.traced = onnx
        self._labels = labels
        self.fp32 = self._finish(MODEL, "fp32", OPSET, onnx)
        self._calibration = calibration
        self._progress = progress
        self._patches: Sequence[NDArray[np.float32]] | None = None
        self._islands: dict[str, tuple[str, ...]] = {}
        self._made: dict[str, Variant] = {}

    def half(self, precision: Halves) -> Variant:
        """The file in fp16 or bf16."""
        return self._keep(precision)

    def quantised(self, recipe: Recipe) -> Variant:
        """The file in int8 that a runtime wants."""
        return self._keep(recipe)

    def make(self, key: str, islands: Collection[str]) -> Variant:
        """Make a file anew, in "fp16", "bf16" or by a recipe of int8, with islands in fp32."""
        if key in ("fp16", "bf16"):
            return self._make_half(cast("Halves", key), islands)
        return self._make_quantised(cast("Recipe", key), islands)

    def _make_half(self, precision: Halves, islands: Collection[str]) -> Variant:
        onnx = lower(self.traced, precision, islands)
        opset = max(OPSET, BF16_OPSET) if precision == "bf16" else OPSET
        made = "weights and tensors cast, norms and islands left in fp32"
        return self._finish(f"model.{precision}.onnx", precision, opset, onnx, islands, made)

    def _make_quantised(self, recipe: Recipe, islands: Collection[str]) -> Variant:
        if self._patches is None:
            self._patches = self._calibration()
        from segkit_export.quantise import quantise

        onnx = quantise(self.traced, recipe, self._patches, self._progress, islands)
        made = f"static quantisation for {recipe}, calibrated on {len(self._patches)} patches"
        return self._finish(f"model.int8.{recipe}.onnx", "int8", OPSET, onnx, islands, made)

    def set_islands(self, key: str, islands: Collection[str]) -> None:
        """Make a file anew with these islands: "fp16", "bf16" or the recipe of an int8 file."""
        self._islands[key] = tuple(islands)
        self._made.pop(key, None)

    def _keep(self, key: str) -> Variant:
        if key not in self._made:
            self._made[key] = self.make(key, self._islands.get(key, ()))
        return self._made[key]

    def _finish(
        self,
        file: str,
        precision: Precision,
        opset: int,
        onnx: bytes,
        islands: Collection[str] = (),
        made: str = "",
    ) -> Variant:
        """Let a file tell labels, where it shall, and describe it."""
        if self._labels:
            onnx = add_labels(onnx)
        model = Model(
            file=file,
            precision=precision,
            opset=opset,
            sha256=hashlib.sha256(onnx).hexdigest(),
            outputs=[OUTPUT, LABELS, MEAN_LOGIT] if self._labels else [OUTPUT],
            islands=sorted(islands),
            made=made,
        )
        return Variant(model=model, onnx=onnx)
