"""`segkit bench exports`: every network in every precision on every runtime: proven, built, or the reason why not."""

from __future__ import annotations

import gc
import importlib.metadata
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from numpy.typing import NDArray

from segkit.cards import Size
from segkit.cli.options import Triple, json_option
from segkit.cli.output import print_json, print_table, progress_bar
from segkit.errors import SegkitError, UsageError
from segkit.files import write_bytes
from segkit_benchmarks.profile import describe_machine
from segkit_benchmarks.rewrites import RESULT as REWRITES
from segkit_benchmarks.rewrites import measure_rewrites, render_rewrites

if TYPE_CHECKING:
    from segkit.registry import Registry
    from segkit_export.progress import Progress
    from segkit_export.reference import Reference
    from segkit_export.source import Source
    from segkit_export.variants import Variants
    from segkit_export.volumes import Head
    from segkit_runtime.manifest import Precision, Proof

RESULT = "exports.json"

_REWRITTEN_PATCH = (64, 64, 64)
"""Of --rewrites, where --patch says nothing."""

_SOFTWARE = ("torch", "onnx", "onnxscript", "onnx_ir", "onnxruntime", "openvino", "tensorrt_rtx_cu13", "nncf")

_READING = """\
Trained networks are those of `segkit bench dsc --data phantom --quick`, held against torch in fp32 on a held-out
phantom, some on the middle of it where the row says so. Untrained ones are held against it on a made-up head, where ten
times as many labels may differ, since random logits lie close together. *Emulated*: ONNX Runtime ran the file with each
tensor rounded to the precision and products in fp32, which proves
the file. Where layers are named that stay in fp32, the row above is without them, and `--mend` found them. TensorRT for
RTX engines were built for Ampere and newer, and not run. Times depend on
what else the machine did meanwhile."""

Row = dict[str, Any]


@click.command(epilog="Example: segkit bench exports out/dsc/phantom-mrbrains/* monai-unet --out out/exports")
@click.argument("sources", nargs=-1, metavar="RUN|MODEL ...")
@click.option(
    "--rewrites",
    type=click.IntRange(1),
    metavar="ROUNDS",
    help="Time the work on the graph, with each piece of it and without, on networks of its own; needs no sources.",
)
@click.option(
    "--precision",
    default="fp32,tf32,fp16,bf16,int8",
    show_default=True,
    metavar="P[,P]",
    help="By comma; MODEL:P,P after a source's name takes others for it.",
)
@click.option("--patch", type=Triple(), help="Of bare models, X,Y,Z.  [default: each model's own]")
@click.option("--crop", type=Triple(), help="Compare on the middle X,Y,Z voxels of a head alone.  [default: all of it]")
@click.option("--mend", is_flag=True, help="Prove what fails again, with the layers in fp32 that the doctor names.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("out/exports"), show_default=True)
@json_option
@click.pass_obj
def exports(
    registry: Registry,
    sources: tuple[str, ...],
    rewrites: int | None,
    precision: str,
    patch: Size | None,
    crop: Size | None,
    mend: bool,
    out: Path,
    as_json: bool,
) -> None:
    """Try every runtime and precision on trained runs and bare models, and print what is proven and what is not.

    Nothing is exported; OUT/exports.json keeps the figures, OUT/exports.md is the page of them, and a second call adds
    the sources that are not in it yet. OUT/rewrites.json keeps those of --rewrites, which are on the same page.
    """
    if not sources and rewrites is None:
        raise UsageError("expected runs or models, got none", hint="example: segkit bench exports monai-unet")
    if rewrites is not None:
        _measure_rewrites(registry, patch or _REWRITTEN_PATCH, rewrites, out)
    _try_sources(registry, sources, precision, patch, crop, mend, out)
    results = [out / RESULT] * bool(sources) + [out / REWRITES] * (rewrites is not None)
    if as_json:
        print_json(json.loads(results[0].read_text()))
        return
    for path in results:
        print_table([_printed(row) if path.name == RESULT else row for row in _read(path)])
        click.echo(f"\n{path}")


def _try_sources(
    registry: Registry,
    sources: Sequence[str],
    precision: str,
    patch: Size | None,
    crop: Size | None,
    mend: bool,
    out: Path,
) -> None:
    from segkit_export.proving import parse_precisions

    known = _read(out / RESULT)
    with progress_bar() as bar:
        task = bar.add_task("exports", total=None)
        for text in sources:
            name, _, own = text.partition(":") if not Path(text).exists() else (text, "", "")
            if any(row["source"] == Path(name).name for row in known):
                continue
            wanted = parse_precisions(own or precision)
            if wanted is None:
                raise UsageError("expected precisions by name, got auto", hint="leave --precision out to take all")

            def show(step: str, done: int, total: int, name: str = name) -> None:
                bar.update(task, description=f"{Path(name).name}: {step}", completed=done, total=total or None)

            try:
                known += _try_source(registry, name, wanted, patch, crop, mend, show)
            except SegkitError as error:
                known.append(_row(Path(name).name, "-", "-", "failed", reason=str(error)))
            _write(out / RESULT, known)
            gc.collect()


def _try_source(
    registry: Registry,
    name: str,
    precisions: Sequence[Precision],
    patch: Size | None,
    crop: Size | None,
    mend: bool,
    progress: Progress,
) -> list[Row]:
    from segkit.inference.torch_engine import TorchEngine
    from segkit_export.onnx_export import to_onnx
    from segkit_export.reference import run_reference
    from segkit_export.source import find_target, open_source
    from segkit_export.variants import Variants
    from segkit_export.volumes import calibration_patches, choose_heads

    target = find_target(name, registry)
    source = open_source(target, registry, patch=patch if target.run is None else None)
    heads = [_crop(head, crop) if crop else head for head in choose_heads(source, registry)]
    progress("trace to ONNX", 0, 0)
    onnx = to_onnx(source.network, source.channels, source.tiling.patch)
    reference = run_reference(TorchEngine(source.network), heads, source.tiling, len(source.labels), progress)
    variants = Variants(onnx, lambda: calibration_patches(source, registry, heads), progress)
    rows: list[Row] = []
    for precision in precisions:
        rows += _prove(source, variants, reference, precision, mend, progress)
        rows.append(_build(source, variants, precision, progress))
    return [{"trained": source.weights.trained, "volumes": [head.name for head in heads], **row} for row in rows]


def _crop(head: Head, size: Size) -> Head:
    """The middle of a head: a block around the centre of its mask."""
    from segkit_export.volumes import Head

    def middle() -> tuple[slice, ...]:
        _, mask = head.load()
        centre = [int(places.mean()) for places in np.nonzero(mask)]
        starts = [max(0, at - side // 2) for at, side in zip(centre, size, strict=True)]
        return tuple(slice(start, start + side) for start, side in zip(starts, size, strict=True))

    def load() -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        images, mask = head.load()
        block = middle()
        return np.ascontiguousarray(images[:, *block]), np.ascontiguousarray(mask[block])

    whole = head.load_truth
    load_truth = None if whole is None else lambda: np.ascontiguousarray(whole()[middle()])
    return Head(f"{head.name}, middle {'x'.join(map(str, size))}", load, load_truth)


def _prove(
    source: Source, variants: Variants, reference: Reference, precision: Precision, mend: bool, progress: Progress
) -> Iterator[Row]:
    from segkit_export import proving
    from segkit_export.prover import LEFT, ask_doctor
    from segkit_export.tolerances import Bounds

    tolerance = Bounds().tolerance(precision, source.weights.trained)
    for attempt in proving.plan_attempts(variants, precision, trained=True, openvino=True, tensorrt=True, auto=False):
        runtime = f"{attempt.runtime}, emulated" if attempt.arithmetic == "emulated" else attempt.runtime
        try:
            finding, _ = proving.prove_attempt(attempt, reference, tolerance, progress)
            yield _proof_row(source.name, runtime, finding.proof)
            if finding.proof.proven or not mend:
                continue
            error = proving.NotProven(attempt, finding)
            for left in LEFT:
                islands = getattr(ask_doctor(error, source, variants, reference, progress, left), "islands", ())
                if not islands:
                    break
                variants.set_islands(attempt.key, islands)
                finding, _ = proving.prove_attempt(attempt, reference, tolerance, progress)
                yield _proof_row(source.name, runtime, finding.proof, kept_in_fp32=list(islands))
                if finding.proof.proven:
                    break
            if not finding.proof.proven:
                variants.set_islands(attempt.key, ())  # none sufficed: the engine is built without
        except SegkitError as error:
            yield _row(source.name, runtime, precision, "not run", reason=str(error))


def _proof_row(source: str, runtime: str, proof: Proof, **more: Any) -> Row:
    return _row(
        source,
        runtime,
        proof.precision,
        "proven" if proof.proven else "not proven",
        model=proof.model,
        label_agreement=proof.label_agreement,
        dice_difference=proof.dice_difference,
        max_abs_logit_difference=proof.max_abs_logit_difference,
        max_abs_logit=proof.max_abs_logit,
        patch_ms=proof.patch_ms,
        tolerance=proof.tolerance.model_dump(),
        **more,
    )


def _build(source: Source, variants: Variants, precision: Precision, progress: Progress) -> Row:
    from segkit_export.proving import engine_variant
    from segkit_export.tensorrt_build import EngineRequest, build_engine

    try:
        variant = engine_variant(variants, precision)
        built = build_engine(variant.onnx, progress, EngineRequest(precision=precision))
    except SegkitError as error:
        return _row(source.name, "tensorrt_rtx", precision, "not built", reason=str(error))
    return _row(
        source.name,
        "tensorrt_rtx",
        precision,
        "built, not run",
        model=variant.model.file,
        engine_mib=round(len(built.engine) / 2**20, 2),
        activation_mib=round(built.activation_bytes / 2**20, 2),
        weights_mib=round(built.weight_bytes / 2**20, 2),
        build_seconds=round(built.build_seconds, 2),
        targets=list(built.targets),
    )


def _row(source: str, runtime: str, precision: str, status: str, **figures: Any) -> Row:
    return {"source": source, "runtime": runtime, "precision": precision, "status": status, **figures}


def _read(path: Path) -> list[Row]:
    return list(json.loads(path.read_text())["rows"]) if path.is_file() else []


def _write(path: Path, rows: Sequence[Row]) -> None:
    report = {**_circumstances(), "rows": rows}
    write_bytes(path, (json.dumps(report, indent=1) + "\n").encode())
    _write_page(path.parent)


def _write_page(out: Path) -> None:
    report, measured = (
        json.loads(path.read_text()) if path.is_file() else None for path in (out / RESULT, out / REWRITES)
    )
    if report is not None:
        write_bytes(out / "exports.md", render(report, measured).encode())


def _measure_rewrites(registry: Registry, patch: Size, rounds: int, out: Path) -> None:
    with progress_bar() as bar:
        task = bar.add_task("rewrites", total=None)
        rows = measure_rewrites(registry, patch, rounds, lambda step: bar.update(task, description=step))
    report = {**_circumstances(), "patch": patch, "rounds": rounds, "rows": rows}
    write_bytes(out / REWRITES, (json.dumps(report, indent=1) + "\n").encode())
    _write_page(out)


def _circumstances() -> dict[str, Any]:
    return {
        "schema": 1,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": describe_machine(),
        "versions": {name: _version(name) for name in _SOFTWARE},
    }


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _printed(row: Row) -> dict[str, Any]:
    return {
        "network": row["source"] + ("" if row.get("trained") else " (untrained)"),
        "runtime": row["runtime"],
        "precision": row["precision"],
        "status": row["status"],
        "figures": figures(row),
    }


def figures(row: Row) -> str:
    """The figures of a row in words, or the reason why there are none."""
    if "reason" in row:
        return str(row["reason"])
    if "activation_mib" in row:
        return (
            f"{row['engine_mib']:.1f} MiB, activations {row['activation_mib']:.0f} MiB, "
            f"weights {row['weights_mib']:.1f} MiB"
        )
    volumes = "; ".join(row.get("volumes", []))
    where = f" ({volumes})" if "middle" in volumes else ""
    dice = "" if row["dice_difference"] is None else f", Dice changes by {row['dice_difference']:.5f}"
    kept = f"with {', '.join(row['kept_in_fp32'])} in fp32: " if "kept_in_fp32" in row else ""
    return (
        f"{kept}same labels {row['label_agreement']:.4%}{dice}, logits within {row['max_abs_logit_difference']:.1e} of "
        f"{row['max_abs_logit']:.3g}, {row['patch_ms']:.0f} ms a patch{where}"
    )


def render(report: dict[str, Any], rewrites: dict[str, Any] | None = None) -> str:
    """The page `docs/exports.md` of a result file: one line for each network, runtime and precision.

    Args:
        report: content of exports.json.
        rewrites: content of rewrites.json, if there is one.
    """
    machine = report["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    lines = [
        "# What can be exported, and what was proven",
        "",
        f"From `segkit bench exports` on {machine['cpu']}, {machine['cores']} cores, no GPU; {versions}.",
        "",
        _READING,
        "",
        "| network | runtime | precision | status | figures |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in report["rows"]:
        cells = [str(cell).replace("|", "\\|").replace("\n", " ") for cell in _printed(row).values()]
        lines.append("| " + " | ".join(cells) + " |")
    if rewrites is not None:
        lines += render_rewrites(rewrites)
    return "\n".join(lines) + "\n"
