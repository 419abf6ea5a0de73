"""What an export proves, precision by precision, and what it asks the doctor about what fails."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from segkit_export import proving
from segkit_export.errors import NothingToQuantise
from segkit_export.failure import Findings, explain
from segkit_export.precision_doctor import Diagnosis
from segkit_export.progress import Progress
from segkit_export.proving import NotProven, Proofs
from segkit_export.reference import Reference
from segkit_export.source import Source
from segkit_export.variants import Variants
from segkit_runtime.bundle import MODEL
from segkit_runtime.manifest import Precision, Tolerance

if TYPE_CHECKING:
    from segkit_export.exporter import Request

AUTO: tuple[Precision, ...] = ("fp32", "bf16", "fp16", "int8")
"""What `--precision auto` tries."""

LEFT = (0.9, 0.5)
"""Shares of a bearable error that islands may leave, as they are tried: few islands first, then more."""


class Prover:
    """Holds every file of an export against torch, and asks the doctor about what fails."""

    def __init__(
        self,
        request: Request,
        source: Source,
        variants: Variants,
        reference: Reference,
        out: Path,
        progress: Progress,
    ) -> None:
        self.request, self.source, self.variants = request, source, variants
        self.reference, self.out, self.progress = reference, out, progress
        self.proofs = Proofs(used={MODEL: variants.fp32})

    def run(self) -> Proofs:
        """Prove all that was asked for."""
        auto = self.request.precisions is None
        for precision in dict.fromkeys(("fp32", *(self.request.precisions or AUTO))):
            self._prove(precision, auto and precision != "fp32")
        if auto:
            proving.keep_fastest(self.proofs, engine_precisions(self.request, self.proofs))
        return self.proofs

    def _prove(self, precision: Precision, auto: bool) -> None:
        attempts = proving.plan_attempts(
            self.variants,
            precision,
            trained=self.source.weights.trained,
            openvino=self.request.openvino,
            tensorrt=self.request.tensorrt is not None,
            auto=auto,
        )
        tolerance = self.request.bounds.tolerance(precision, self.source.weights.trained)
        for attempt in attempts:
            try:
                proving.prove_attempts([attempt], self.reference, tolerance, self.progress, self.proofs)
            except NotProven as error:
                self._mend(error, tolerance)
        if not auto:
            proving.require_something(precision, self.proofs)

    def _mend(self, error: NotProven, tolerance: Tolerance) -> None:
        """Prove what failed with islands, if that was asked for; else say what the doctor found."""
        attempt = error.attempt
        for left in LEFT if self.request.mend else LEFT[-1:]:
            found = ask_doctor(error, self.source, self.variants, self.reference, self.progress, left)
            if not (self.request.mend and isinstance(found, Diagnosis) and found.islands):
                break
            self.variants.set_islands(attempt.key, found.islands)
            try:
                proving.prove_attempts([attempt], self.reference, tolerance, self.progress, self.proofs)
            except NotProven:
                found = dataclasses.replace(found, islands=())  # they did not suffice
                continue
            self.proofs.warnings.append(
                f"{attempt.precision}: kept in fp32, since they carried too much error: {', '.join(found.islands)}"
            )
            return
        raise explain(error, self.out, [label.name for label in self.source.labels], found) from error


def ask_doctor(
    error: NotProven,
    source: Source,
    variants: Variants,
    reference: Reference,
    progress: Progress,
    left: float = LEFT[-1],
) -> Findings:
    """Find the layers that carry the error of a failed proof, on the patch where it is worst.

    Args:
        error: the failed proof.
        source: the network.
        variants: made the file that failed.
        reference: what torch said.
        progress: called after each run.
        left: share of the error at which the proof would just hold that islands may leave.
    """
    from segkit_export.precision_doctor import find_islands, first_wrong_layer, module_order

    finding, attempt = error.finding, error.attempt
    patch, logits = reference.patch(finding.volume, finding.tile)
    if attempt.precision == "fp32":
        return first_wrong_layer(source.network, attempt.variant().onnx, patch, progress)
    if not attempt.key:
        return None  # the runtime lowers the file itself: nothing in the file could be kept in fp32

    def make(islands: Collection[str]) -> bytes:
        try:
            onnx = variants.make(attempt.key, islands).onnx
        except NothingToQuantise:
            return variants.fp32.onnx  # which it is with all of it kept
        return proving.runnable(onnx, attempt.precision, attempt.arithmetic)

    return find_islands(
        module_order(variants.traced),
        make,
        patch,
        logits,
        left * _bearable_error(error),
        most_runs=48 if attempt.precision != "int8" else 16,
        progress=progress,
    )


def _bearable_error(error: NotProven) -> float:
    """The mean difference of a logit at which the proof would just hold, if labels changed in proportion to it."""
    proof = error.finding.proof
    excess = [(1 - proof.label_agreement) / max(1 - proof.tolerance.least_label_agreement, 1e-9)]
    if proof.dice_difference is not None:
        excess.append(proof.dice_difference / max(proof.tolerance.most_dice_difference, 1e-9))
    return proof.mean_abs_logit_difference / max(1.0, *excess)


def engine_precisions(request: Request, proofs: Proofs) -> list[Precision]:
    """What TensorRT engines are built in: what was asked for, or else half precision if that is proven."""
    if request.tensorrt is None:
        return []
    if request.precisions is not None:
        return list(request.precisions)
    halves: tuple[Precision, ...] = ("fp16", "bf16")
    return [next((half for half in halves if proofs.has(half)), "fp32")]
