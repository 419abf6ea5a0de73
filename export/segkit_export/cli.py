"""`segkit export`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from segkit.cards import Size
from segkit.cli.options import Millimetres, Triple, json_option, parse_options
from segkit.cli.output import print_json, print_table, progress_bar
from segkit.errors import UsageError
from segkit.registry import Registry
from segkit_export.progress import Progress
from segkit_runtime.card import also_with

if TYPE_CHECKING:
    from rich.progress import TaskID

    from segkit_export.exporter import Exported
    from segkit_export.onnx_export import Dynamic
    from segkit_export.source import BareOptions
    from segkit_runtime.manifest import Proof

_EPILOG = """\b
Examples:
  segkit export run --trt                      a trained network, with a TensorRT engine
  segkit export run --openvino --verify DATA   OpenVINO must be proven too, on another copy of the data
  segkit export vnet --trt                     the bare architecture, marked untrained
  segkit export run --trt --precision fp16 --mend
                                               half precision, proven; parts that need fp32 keep it
  segkit export run --precision auto           on each runtime the fastest precision that is proven
  segkit export run --dynamic size --also-patch 96x96x64
                                               tiles of another size, too, if they hold
  segkit export vnet --plan                    the memory that training and inference need
  segkit export unet3d --modality T1 --modality T2 --classes 4 --patch 64,64,64

Exit codes: 2 a request or input that cannot be met, 3 an export that does not segment as its network does.
"""


@click.command(epilog=_EPILOG)
@click.argument("source", metavar="RUN|MODEL")
@click.option("--onnx", is_flag=True, help="Write ONNX; on by default, since every bundle holds it.")
@click.option("--trt", is_flag=True, help="Build a TensorRT for RTX engine (Ampere and newer); needs no GPU.")
@click.option(
    "--precision",
    default="fp32",
    show_default=True,
    metavar="P[,P]",
    help="fp32, tf32 (TensorRT only), fp16, bf16, int8, by comma; or auto, the fastest that is proven on each runtime.",
)
@click.option("--mend", is_flag=True, help="Keep in fp32 the modules that carry too much error, and prove again.")
@click.option(
    "--least-agreement",
    type=click.FloatRange(0, 1),
    help="Share of voxels with torch's label.  [default: by precision]",
)
@click.option(
    "--most-dice-difference", type=click.FloatRange(0, 1), help="Change of a class's Dice.  [default: by precision]"
)
@click.option(
    "--dynamic",
    type=click.Choice(["none", "batch", "size"]),
    default="none",
    show_default=True,
    help="What of its input's shape the file leaves open: nothing, the batch, or batch and size.",
)
@click.option(
    "--also-patch",
    "tiles",
    type=Triple(),
    multiple=True,
    help="Try tiles of this size, too, so that a volume may be cut as costs least; needs --dynamic size; repeated.",
)
@click.option("--target", "targets", multiple=True, metavar="SM", help="TensorRT: a GPU, such as sm86; repeated.")
@click.option("--max-batch", type=click.IntRange(1), help="TensorRT: largest batch, with --dynamic.  [default: 1]")
@click.option("--workspace", metavar="SIZE", help="TensorRT: most scratch memory of a kernel, such as 1GiB.")
@click.option(
    "--trt-module",
    type=click.Choice(["tensorrt_rtx", "tensorrt"]),
    default="tensorrt_rtx",
    show_default=True,
    help="What builds engines; classic tensorrt needs the GPU that they are for.",
)
@click.option("--openvino", is_flag=True, help="Fail unless OpenVINO is proven; it is compared wherever installed.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="The bundle.  [default: RUN/MODEL.segkit, or MODEL.segkit]"
)
@click.option(
    "--resample-to",
    "resample_mm",
    type=Millimetres(),
    help="Let the bundle resample images of other voxel sizes, in mm.  [default: refuse them]",
)
@click.option("--overwrite", is_flag=True, help="Replace the bundle that is there.")
@click.option("--patch", type=Triple(), help="Patch in voxels.  [default: the run's, or the model's]")
@click.option(
    "--verify",
    "data",
    type=click.Path(path_type=Path),
    metavar="DATA",
    help="Folder of the run's data set to compare on.  [default: where it was trained]",
)
@click.option(
    "--verify-subjects", type=click.IntRange(1), default=1, show_default=True, help="How many subjects to compare on."
)
@click.option(
    "--modality", "names", multiple=True, metavar="NAME", help="Bare model: a modality; repeat in channel order."
)
@click.option(
    "--modalities", type=click.IntRange(1), help="Bare model: number of modalities, where names do not matter."
)
@click.option("--classes", type=click.IntRange(2, 255), help="Bare model: classes, background included.  [default: 4]")
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="Bare model: an option of the network.")
@click.option("--triton", type=click.Path(path_type=Path), metavar="DIR", help="Write a Triton model repository, too.")
@click.option("--plan", is_flag=True, help="Tell what memory training and inference need, and write nothing.")
@click.option(
    "--budget", metavar="SIZE", help="With --plan: for the largest patch and batch that train in it, such as 4GiB."
)
@json_option
@click.pass_obj
def export(
    registry: Registry,
    source: str,
    onnx: bool,
    trt: bool,
    precision: str,
    mend: bool,
    least_agreement: float | None,
    most_dice_difference: float | None,
    dynamic: Dynamic,
    tiles: tuple[Size, ...],
    targets: tuple[str, ...],
    max_batch: int | None,
    workspace: str | None,
    trt_module: str,
    openvino: bool,
    out: Path | None,
    resample_mm: tuple[float, float, float] | None,
    overwrite: bool,
    patch: Size | None,
    data: Path | None,
    verify_subjects: int,
    names: tuple[str, ...],
    modalities: int | None,
    classes: int | None,
    options: tuple[str, ...],
    triton: Path | None,
    plan: bool,
    budget: str | None,
    as_json: bool,
) -> None:
    """Export a run, or a bare network, as a bundle of ONNX and engines.

    First, ONNX Runtime, and OpenVINO where it is installed, are held against torch on whole volumes; a file that does
    not segment as its network does is not written.
    """
    from segkit.memory import parse_size
    from segkit_export.exporter import Request, TensorRT
    from segkit_export.exporter import export as run_export
    from segkit_export.proving import parse_precisions
    from segkit_export.tolerances import Bounds

    if plan:
        _plan(registry, source, patch, _bare(names, modalities, classes, options), budget, as_json)
        return
    if budget:
        raise UsageError("expected --plan with --budget", hint="add --plan")
    if not trt and (targets or max_batch or workspace):
        raise UsageError("expected --trt with the options of its engines", hint="add --trt")
    if max_batch not in (None, 1) and dynamic == "none":
        raise UsageError(f"expected --dynamic batch with --max-batch {max_batch}", hint="add --dynamic batch")
    builder = TensorRT(
        module=trt_module,
        targets=targets,
        workspace_bytes=parse_size(workspace) if workspace else None,
        max_batch=max_batch or 1,
    )
    request = Request(
        name=source,
        out=out,
        patch=patch,
        bare=_bare(names, modalities, classes, options),
        precisions=parse_precisions(precision),
        bounds=Bounds(least_agreement, most_dice_difference),
        mend=mend,
        dynamic=dynamic,
        tiles=tiles,
        tensorrt=builder if trt else None,
        openvino=openvino,
        data=data,
        subjects=verify_subjects,
        resample_mm=resample_mm,
        overwrite=overwrite,
    )
    if triton is not None:
        from segkit_export.triton import left_out, require_free_repository, write_triton

        require_free_repository(triton, overwrite)
    with step_bars() as progress:
        exported = run_export(request, registry, progress)
    if triton is not None:
        write_triton(exported.bundle, triton, overwrite)
        exported = dataclasses.replace(exported, warnings=(*exported.warnings, *left_out(exported.bundle)))
    if as_json:
        _print_json(exported)
    else:
        _print(exported)


def _plan(
    registry: Registry, name: str, patch: Size | None, bare: BareOptions, budget: str | None, as_json: bool
) -> None:
    from segkit.memory import parse_size
    from segkit_export.memory_plan import fit
    from segkit_export.memory_report import plan, print_plan
    from segkit_export.source import find_target, open_source

    source = open_source(find_target(name, registry), registry, patch=patch, bare=bare)
    size, batch = source.tiling.patch, 1
    if budget:
        size, batch = fit(source.network, source.channels, parse_size(budget), patch=size, multiple=source.multiple)
    with step_bars() as progress:
        planned = plan(source.network, source.channels, size, batch, progress=progress)
    if as_json:
        print_json(planned.to_json())
    else:
        print_plan(planned)


def _bare(names: tuple[str, ...], modalities: int | None, classes: int | None, options: tuple[str, ...]) -> BareOptions:
    from segkit_export.source import BareOptions, default_modalities

    if names and modalities not in (None, len(names)):
        raise UsageError(f"expected {modalities} modalities, got {len(names)} names: {', '.join(names)}")
    return BareOptions(
        modalities=names or (default_modalities(modalities) if modalities else None),
        classes=classes,
        options=parse_options(options) or None,
    )


@contextmanager
def step_bars() -> Iterator[Progress]:
    """One bar per step on standard error; the one before ends when the next begins."""
    with progress_bar() as bars:
        shown: dict[str, TaskID] = {}

        def show(step: str, done: int, total: int) -> None:
            if step not in shown:
                for task in shown.values():
                    bars.remove_task(task)
                shown.clear()
                shown[step] = bars.add_task(step, total=None)
            bars.update(shown[step], completed=done, total=total or None)

        yield show


def _print_json(exported: Exported) -> None:
    print_json(
        {
            "schema": 1,
            "bundle": str(exported.bundle.folder),
            "files": _sizes(exported.bundle.folder),
            "warnings": list(exported.warnings),
            "manifest": exported.bundle.manifest.model_dump(mode="json"),
        }
    )


def _print(exported: Exported) -> None:
    manifest = exported.bundle.manifest
    print_table([{"file": name, "MiB": f"{size / 2**20:.2f}"} for name, size in _sizes(exported.bundle.folder).items()])
    click.echo()
    print_proofs(manifest.proofs, "torch")
    for proof in manifest.proofs:
        if proof.tiles:
            click.echo(f"{proof.runtime} in {proof.precision}: {also_with(proof)}")
    for engine in manifest.engines:
        state = ": no CUDA device here, so its speed and its labels are unknown" if "not run" in engine.status else ""
        click.echo(
            f"\n{engine.runtime} {engine.version}, {engine.precision}, {', '.join(engine.targets)}: "
            f"{engine.activation_bytes / 2**20:.1f} MiB activations, {engine.weight_bytes / 2**20:.1f} MiB weights\n"
            f"{engine.status}{state}"
        )
    for warning in exported.warnings:
        click.secho(f"warning: {warning}", fg="yellow", err=True)
    if not manifest.weights.trained:
        click.secho("warning: untrained weights, their labels mean nothing", fg="yellow", err=True)
    images = " ".join(f"--modality {name}=FILE" for name in manifest.modalities)
    click.echo(f"\nbundle: {exported.bundle.folder}")
    trial = "" if manifest.weights.trained else " --allow-untrained"
    click.echo(f"next:   segkit segment {exported.bundle.folder} {images} --out LABELS.nii.gz{trial}")
    click.echo(f"        segkit profile {exported.bundle.folder}")


def print_proofs(proofs: Sequence[Proof], reference: str) -> None:
    """Print what was held against a reference, a row each."""
    print_table(
        [
            {
                "runtime": f"{proof.runtime} {proof.version}",
                "precision": proof.precision + (", emulated" if proof.arithmetic == "emulated" else ""),
                "largest logit difference": f"{proof.max_abs_logit_difference:.2g} of {proof.max_abs_logit:.2g}",
                "same labels": f"{proof.label_agreement:.4%} of {proof.voxels:,}",
                "Dice changes by": "-" if proof.dice_difference is None else f"{proof.dice_difference:.5f}",
                "ms a patch": f"{proof.patch_ms:.0f}" if proof.patch_ms else "-",
                f"against {reference}": "proven" if proof.proven else "NOT PROVEN",
            }
            for proof in proofs
        ]
    )


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes of each file of a bundle, by its path inside it."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()
    }
