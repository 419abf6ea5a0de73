"""`segkit segment`: a bundle and files in, a segmentation out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from segkit.cli.options import json_option
from segkit.cli.output import print_json, print_table, progress_bar
from segkit.errors import UsageError
from segkit.extras import require
from segkit_runtime.result import Result, report_path, require_free_file, require_free_output


@click.command(
    epilog="Example: segkit segment vnet.segkit --modality T1=t1.nii.gz --modality T2=t2.nii.gz --out seg.nii.gz"
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--modality", "modalities", multiple=True, metavar="NAME=FILE", help="One image, repeated for each.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Label file to write, .nii or .nii.gz.")
@click.option(
    "--runtime",
    type=click.Choice(["auto", "tensorrt", "tensorrt_rtx", "openvino", "onnxruntime"]),
    default="auto",
    show_default=True,
    help="auto: the fastest that is proven for the bundle and runs here.",
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "tf32", "fp16", "bf16", "int8"]),
    default="auto",
    show_default=True,
    help="auto: the fastest that is proven for the bundle and runs here.",
)
@click.option("--device", default="auto", show_default=True, metavar="cpu|cuda:N", help="auto: where it was proven.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads.  [default: the runtime's own choice]")
@click.option(
    "--trusted-key",
    "trusted_keys",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Take only a bundle that is signed with this public key, a PEM file; repeated for any of several.",
)
@click.option(
    "--selfcheck/--no-selfcheck",
    default=None,
    help="Run the bundle's own patch first.  [default: in int8, and in a version that is not proven]",
)
@click.option("--allow-untrained", is_flag=True, help="Take a bundle with untrained weights, for a trial.")
@click.option("--overwrite", is_flag=True, help="Replace files that are there.")
@click.option("--png", type=click.Path(path_type=Path), help="Draw the labels over the first image, too.")
@json_option
def segment(
    bundle: Path,
    modalities: tuple[str, ...],
    out: Path,
    runtime: str,
    precision: str,
    device: str,
    threads: int | None,
    trusted_keys: tuple[Path, ...],
    selfcheck: bool | None,
    allow_untrained: bool,
    overwrite: bool,
    png: Path | None,
    as_json: bool,
) -> None:
    """Segment one head with BUNDLE. Writes labels on the first image's own grid, and a report (.json) beside them."""
    images = _parse_modalities(modalities)
    _require_not_an_input(images, [out, report_path(out), *([png] if png else [])])
    require_free_output(out, overwrite)
    if png is not None:
        _require_picture(png, overwrite)
    from segkit_runtime.segmenter import load

    segmenter = load(
        bundle,
        runtime,
        precision=precision,
        device=device,
        threads=threads,
        allow_untrained=allow_untrained,
        trusted_keys=trusted_keys,
        selfcheck="auto" if selfcheck is None else selfcheck,
    )
    with segmenter, progress_bar() as bar:
        task = bar.add_task("segmenting", total=None)
        result = segmenter.segment(images, lambda done, total: bar.update(task, completed=done, total=total))
        first = segmenter.bundle.manifest.modalities[0]
    report = result.save(out, overwrite)
    if png is not None:
        _draw(png, images[first], result)
    for warning in result.warnings:
        click.echo(f"{click.style('warning:', fg='yellow')} {warning}", err=True)
    if as_json:
        print_json(result.report())
        return
    print_table([{"label": name, "ml": f"{volume:.2f}"} for name, volume in result.volumes_ml.items()])
    click.echo(
        f"\n{result.runtime} {result.version} on {result.device} in {result.precision}: "
        f"{result.tiles} {'patch' if result.tiles == 1 else 'patches'}, "
        f"{sum(result.timings_s.values()):.1f} s ({result.timings_s['infer']:.1f} s in the network)"
    )
    click.echo(f"labels in {out}, report in {report}" + (f", picture in {png}" if png is not None else ""))


def _parse_modalities(pairs: Sequence[str]) -> dict[str, Path]:
    images: dict[str, Path] = {}
    for pair in pairs:
        name, _, file = pair.partition("=")
        if not name or not file:
            raise UsageError(f"expected --modality NAME=FILE, got {pair!r}", hint="example: --modality T1=t1.nii.gz")
        if name in images:
            raise UsageError(f"expected each modality once, got {name} twice", hint="drop one --modality")
        images[name] = Path(file)
    return images


def _require_not_an_input(images: Mapping[str, Path], outputs: Sequence[Path]) -> None:
    """Refuse to write over an image that is read, whatever --overwrite says."""
    for name, image in images.items():
        if image.resolve() in [output.resolve() for output in outputs]:
            raise UsageError(
                f"expected an output other than the images, got {image}, the {name}", hint="choose another"
            )


def _require_picture(png: Path, overwrite: bool) -> None:
    """Refuse a picture that could not be drawn, before the network runs."""
    if png.suffix.lower() != ".png":
        raise UsageError(f"expected a name that ends in .png, got {png.name!r}", hint="add the ending")
    require_free_file(png, overwrite)
    require("matplotlib", "report", "--png")


def _draw(png: Path, image: Path, result: Result) -> None:
    from segkit.nifti import read_volume
    from segkit.pictures import save_overlay

    save_overlay(png, read_volume(image).canonical().data, result.indices.data, names=list(result.codes))
