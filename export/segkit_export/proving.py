"""What an export tries in each precision: which file on which runtime, and what it takes to be allowed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from segkit.errors import SegkitError, UsageError, VerificationFailed
from segkit_export import verify
from segkit_export.emulate import emulate
from segkit_export.progress import Progress
from segkit_export.reference import Reference
from segkit_export.tolerances import describe_tolerance
from segkit_export.variants import Variant, Variants
from segkit_export.verify import Finding
from segkit_runtime.engines import LABELS, Output, RuntimeEngine, missing_runtimes, open_engine
from segkit_runtime.manifest import Arithmetic, CompiledEngine, Model, Precision, Proof, Tolerance

if TYPE_CHECKING:
    from segkit_export.variants import Halves

EMULATOR = "onnxruntime"
"""What runs a file that nothing here can compute in its own precision; it must be installed to export at all."""


Opener = Callable[[Output], RuntimeEngine]
"""Opens a file for logits or for labels."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One file on one runtime.

    Attributes:
        key: what `Variants.set_islands` calls the file, or "" for the traced one.
        variant: makes the file.
        required: whether the export fails without it.
    """

    runtime: str
    precision: Precision
    key: str
    variant: Callable[[], Variant]
    arithmetic: Arithmetic
    required: bool


class NotProven(VerificationFailed):
    """An engine outside its tolerances, with what is needed to find out why."""

    def __init__(self, attempt: Attempt, finding: Finding) -> None:
        proof = finding.proof
        how = " (emulated)" if proof.arithmetic == "emulated" else ""
        super().__init__(
            f"expected {proof.runtime}{how} in {proof.precision} to do what torch does "
            f"({describe_tolerance(proof)}), it {verify.describe(proof)}"
        )
        self.attempt = attempt
        self.finding = finding


@dataclass
class Proofs:
    """What was proven, and with which files.

    Attributes:
        proofs: of all that kept to its tolerances.
        used: the files that they are of, by name.
        warnings: what was tried and does not hold, or cannot run here.
    """

    proofs: list[Proof] = field(default_factory=list)
    used: dict[str, Variant] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def add(self, proof: Proof, variant: Variant) -> None:
        """Take note of a proof."""
        self.proofs.append(proof)
        self.used[variant.model.file] = variant

    def has(self, precision: Precision, *, file: str | None = None) -> bool:
        """Whether anything is proven in a precision, or a file in particular."""
        return any(p.precision == precision and file in (None, p.model) for p in self.proofs)


def plan_attempts(
    variants: Variants, precision: Precision, *, trained: bool, openvino: bool, tensorrt: bool, auto: bool
) -> list[Attempt]:
    """What is tried in a precision.

    Args:
        variants: makes the files.
        precision: which.
        trained: whether the weights mean anything. Random ones are held against torch in fp32 on the fastest runtime
            alone: that proves the file, and nobody segments with them.
        openvino: whether OpenVINO was asked for by name, so that nothing goes without it.
        tensorrt: whether an engine is built, whose file must hold.
        auto: whether nobody asked for this very precision, so that all but fp32 may fail.
    """
    has_openvino = "openvino" not in missing_runtimes()
    if precision == "fp32":
        ways = _full_ways(variants, trained, has_openvino, openvino)
    elif precision == "fp16" or precision == "bf16":
        ways = _half_ways(variants, precision, has_openvino, openvino)
    elif precision == "int8":
        ways = _int8_ways(variants, has_openvino, openvino, tensorrt)
    else:
        ways = []  # TF32 is TensorRT's alone
    return [
        Attempt(
            runtime=runtime,
            precision=precision,
            key=key,
            variant=variant,
            arithmetic=arithmetic,
            required=required and not (auto and precision != "fp32"),
        )
        for runtime, key, variant, arithmetic, required in ways
    ]


_Way = tuple[str, str, Callable[[], Variant], Arithmetic, bool]


def _full_ways(variants: Variants, trained: bool, has_openvino: bool, openvino: bool) -> list[_Way]:
    ways: list[_Way] = []
    if trained or not has_openvino:
        ways.append(("onnxruntime", "", lambda: variants.fp32, "native", True))
    if has_openvino:
        ways.append(("openvino", "", lambda: variants.fp32, "native", openvino or not trained))
    return ways


def _half_ways(variants: Variants, half: Halves, has_openvino: bool, openvino: bool) -> list[_Way]:
    ways: list[_Way] = [(EMULATOR, half, lambda: variants.half(half), "emulated", True)]
    if has_openvino:  # which lowers the traced file itself
        ways.append(("openvino", "", lambda: variants.fp32, "native", openvino))
    return ways


def _int8_ways(variants: Variants, has_openvino: bool, openvino: bool, tensorrt: bool) -> list[_Way]:
    ways: list[_Way] = [
        ("onnxruntime", "onnxruntime", lambda: variants.quantised("onnxruntime"), "native", False),
    ]
    if has_openvino:
        ways.append(("openvino", "openvino", lambda: variants.quantised("openvino"), "native", openvino))
    if tensorrt:
        ways.append((EMULATOR, "tensorrt", lambda: variants.quantised("tensorrt"), "emulated", True))
    return ways


def prove_attempts(
    attempts: Iterable[Attempt],
    reference: Reference,
    tolerance: Tolerance | None,
    progress: Progress,
    proofs: Proofs,
) -> None:
    """Try each; what was not required and does not hold becomes a warning.

    Raises:
        NotProven: a required one is outside its tolerances.
        SegkitError: a required one cannot run here.
    """
    for attempt in attempts:
        try:
            finding, variant = prove_attempt(attempt, reference, tolerance, progress)
            if not finding.proof.proven:
                raise NotProven(attempt, finding)
        except SegkitError as error:
            if attempt.required:
                raise
            proofs.warnings.append(f"{attempt.runtime} in {attempt.precision} was not proven: {error}")
            continue
        proofs.add(finding.proof, variant)


def prove_attempt(
    attempt: Attempt, reference: Reference, tolerance: Tolerance | None, progress: Progress
) -> tuple[Finding, Variant]:
    """Make the file, open it on the runtime and hold it against the reference."""
    progress(f"make {attempt.precision}", 0, 0)
    variant = attempt.variant()
    progress(f"compare: load {attempt.runtime}, {attempt.precision}", 0, 0)
    as_run: Precision = "fp32" if attempt.arithmetic == "emulated" else attempt.precision
    content = runnable(variant.onnx, attempt.precision, attempt.arithmetic)
    finding = prove_opened(
        opener(attempt.runtime, content, as_run),
        reference,
        progress,
        model=variant.model,
        precision=attempt.precision,
        arithmetic=attempt.arithmetic,
        tolerance=tolerance,
    )
    return finding, variant


def prove_opened(
    open_for: Opener,
    reference: Reference,
    progress: Progress,
    *,
    model: Model,
    precision: Precision,
    arithmetic: Arithmetic = "native",
    tolerance: Tolerance | None,
) -> Finding:
    """Hold a file against the reference: its logits, and then its labels if it tells them itself.

    Args:
        open_for: opens it for logits or for labels; one is closed before the other is opened.
        reference: what torch said.
        progress: called once per tile.
        model: what the manifest says of the file.
        precision: what it is run in.
        arithmetic: see `Proof`.
        tolerance: what it must keep to; None for what its precision must.

    Raises:
        VerificationFailed: see `prove`, or the file does not tell the labels that it should.
        SegkitError: it cannot be opened.
    """
    with closing(open_for("logits")) as engine:
        finding = verify.prove(
            engine,
            reference,
            progress,
            model=model.file,
            precision=precision,
            arithmetic=arithmetic,
            tolerance=tolerance,
        )
    if LABELS not in model.outputs or not finding.proof.proven:
        return finding
    with closing(open_for("labels")) as engine:
        if engine.output != "labels":
            raise VerificationFailed(
                f"expected {model.file} to tell labels to {engine.runtime}, it tells {engine.output}",
                hint="export it again",
            )
        return verify.prove_labels(finding, engine, reference, progress)


def opener(runtime: str, onnx: bytes, precision: Precision) -> Opener:
    """What opens a file on a runtime of this machine."""
    return lambda output: open_engine(runtime, onnx, precision=precision, output=output)


def runnable(onnx: bytes, precision: Precision, arithmetic: Arithmetic) -> bytes:
    """A file as a runtime can run it; one that cannot compute in fp16 or bf16 gets a form that rounds instead."""
    if arithmetic == "emulated" and (precision == "fp16" or precision == "bf16"):
        return emulate(onnx, precision)
    return onnx


def prove_engine(
    plan: bytes,
    entry: CompiledEngine,
    model: Model,
    reference: Reference,
    tolerance: Tolerance,
    progress: Progress,
) -> Proof:
    """Hold a compiled engine against the reference on the GPU of this machine.

    Raises:
        VerificationFailed: it is outside its tolerances.
        SegkitError: it cannot run here.
    """
    finding = prove_opened(
        lambda output: open_engine(
            entry.runtime, plan, precision=entry.precision, device="cuda:0", built=entry, output=output
        ),
        reference,
        progress,
        model=model,
        precision=entry.precision,
        tolerance=tolerance,
    )
    if not finding.proof.proven:
        raise VerificationFailed(
            f"expected the engine {entry.file} on {finding.proof.device} to do what torch does "
            f"({describe_tolerance(finding.proof)}), it {verify.describe(finding.proof)}",
            hint="no bundle was written; export in a precision with more digits",
        )
    return finding.proof


def require_something(precision: Precision, proofs: Proofs) -> None:
    """Refuse a precision that was asked for and that nothing could be proven in.

    Raises:
        VerificationFailed: it is such a one.
    """
    if precision == "tf32" or proofs.has(precision):
        return
    told = [warning for warning in proofs.warnings if f" in {precision} " in warning]
    raise VerificationFailed(
        f"expected a runtime that is proven in {precision}, none is: {'; '.join(told) or 'none could be tried'}",
        hint="leave that precision out, or add --mend",
    )


def keep_fastest(proofs: Proofs, engine_precisions: Sequence[Precision]) -> None:
    """Of what is proven, keep fp32, for each runtime the fastest, and what engines are built of.

    Args:
        proofs: what was proven; it is cut down in place.
        engine_precisions: precisions of the engines that are built.
    """
    native = [p for p in proofs.proofs if p.arithmetic == "native"]
    fastest = {
        runtime: min((p for p in native if p.runtime == runtime), key=lambda p: p.patch_ms or float("inf"))
        for runtime in {p.runtime for p in native}
    }
    proofs.proofs = [
        p
        for p in proofs.proofs
        if p.precision == "fp32"
        or p is fastest.get(p.runtime)
        or (p.arithmetic == "emulated" and p.precision in engine_precisions)
    ]
    named = {p.model for p in proofs.proofs}
    proofs.used = {file: variant for file, variant in proofs.used.items() if file in named}


def engine_variant(variants: Variants, precision: Precision) -> Variant:
    """The file that a TensorRT engine of a precision is built from."""
    if precision in ("fp32", "tf32"):
        return variants.fp32
    if precision == "fp16" or precision == "bf16":
        return variants.half(precision)
    return variants.quantised("tensorrt")


def parse_precisions(text: str) -> tuple[Precision, ...] | None:
    """Read "fp32,fp16" as precisions, and "auto" as None.

    Raises:
        UsageError: there is no such precision.
    """
    from segkit_export.variants import PRECISIONS

    names = [name.strip().lower() for name in text.split(",") if name.strip()]
    if names == ["auto"]:
        return None
    known: dict[str, Precision] = {name: name for name in PRECISIONS}
    for name in names or [text]:
        if name not in known:
            raise UsageError(
                f"expected precisions among {', '.join(PRECISIONS)}, or auto, got {name!r}",
                hint="example: --precision fp32,fp16",
            )
    return tuple(dict.fromkeys(known[name] for name in names))
