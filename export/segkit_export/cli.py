"""`segkit export`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from segkit.cards import Size
from segkit.cli.options import Triple, json_option, parse_options
from segkit.cli.output import print_json, print_table, progress_bar
from segkit.errors import UsageError
from segkit.registry import Registry
from segkit_export.progress import Progress

if TYPE_CHECKING:
    from rich.progress import TaskID

    from segkit_export.exporter import Exported
    from segkit_export.source import BareOptions

_EPILOG = """\b
Examples:
  segkit export run --trt                      a trained network, with a TensorRT engine
  segkit export run --openvino --verify DATA   OpenVINO must be proven too, on another copy of the data
  segkit export vnet --trt                     the bare architecture, marked untrained
  segkit export unet3d --modality T1 --modality T2 --classes 4 --patch 64,64,64

Exit codes: 2 a request or input that cannot be met, 3 an export that does not segment as its network does.
"""


@click.command(epilog=_EPILOG)
@click.argument("source", metavar="RUN|MODEL")
@click.option("--onnx", is_flag=True, help="Write ONNX; on by default, since every bundle holds it.")
@click.option("--trt", is_flag=True, help="Build a TensorRT for RTX engine (Ampere and newer); needs no GPU.")
@click.option("--openvino", is_flag=True, help="Fail unless OpenVINO is proven; it is compared wherever installed.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="The bundle.  [default: RUN/MODEL.segkit, or MODEL.segkit]"
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
@json_option
@click.pass_obj
def export(
    registry: Registry,
    source: str,
    onnx: bool,
    trt: bool,
    openvino: bool,
    out: Path | None,
    overwrite: bool,
    patch: Size | None,
    data: Path | None,
    verify_subjects: int,
    names: tuple[str, ...],
    modalities: int | None,
    classes: int | None,
    options: tuple[str, ...],
    as_json: bool,
) -> None:
    """Export a run, or a bare network, as a bundle of ONNX and engines.

    First, ONNX Runtime, and OpenVINO where it is installed, are held against torch on whole volumes; a file that does
    not segment as its network does is not written.
    """
    from segkit_export.exporter import Request
    from segkit_export.exporter import export as run_export

    request = Request(
        name=source,
        out=out,
        patch=patch,
        bare=_bare(names, modalities, classes, options),
        tensorrt=trt,
        openvino=openvino,
        data=data,
        subjects=verify_subjects,
        overwrite=overwrite,
    )
    with _bars() as progress:
        exported = run_export(request, registry, progress)
    if as_json:
        _print_json(exported)
    else:
        _print(exported)


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
def _bars() -> Iterator[Progress]:
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
    rows = [
        {
            "runtime": f"{proof.runtime} {proof.version}",
            "runs on": f"{proof.device}, {proof.precision}",
            "largest logit difference": f"{proof.max_abs_logit_difference:.2g} of {proof.max_abs_logit:.2g}",
            "same labels": f"{proof.label_agreement:.4%} of {proof.voxels:,}",
            "least Dice": f"{proof.least_dice:.6f}",
            "against torch": "proven" if proof.proven else "NOT PROVEN",
        }
        for proof in manifest.proofs
    ]
    print_table(rows)
    for engine in manifest.engines:
        click.echo(
            f"\n{engine.runtime} {engine.version}, {engine.precision}, {', '.join(engine.targets)}: "
            f"{engine.activation_bytes / 2**20:.1f} MiB activations, {engine.weight_bytes / 2**20:.1f} MiB weights\n"
            f"{engine.status}: no CUDA device here, so its speed and its labels are unknown"
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


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes of each file of a bundle, by its path inside it."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()
    }
