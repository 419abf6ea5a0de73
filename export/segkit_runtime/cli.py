"""`segkit segment`: a bundle and files in, a segmentation out; or a cohort in, a data set out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from segkit.cli.options import json_option
from segkit.cli.output import print_json, print_table, progress_bar
from segkit.errors import UsageError
from segkit.extras import require
from segkit_runtime.result import report_path, require_free_file, require_free_output

_UNNAMED = "."
"""What --png means without a name: no file can have this one."""
_GROUPS = {
    "One head": ("modalities",),
    "Many heads": ("cohort", "patterns", "entities", "workers", "dask", "resume"),
    "How it runs": (
        "runtime",
        "precision",
        "device",
        "threads",
        "budget",
        "trusted_keys",
        "selfcheck",
        "allow_untrained",
    ),
}
"""Options by the heading that help shows them under; the others are under "Options"."""


class _Grouped(click.Command):
    """A command whose help has a section for each group of options."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        left = {option.name: option for option in self.get_params(ctx) if isinstance(option, click.Option)}
        groups = {title: [left.pop(name) for name in names] for title, names in _GROUPS.items()}
        for title, options in {**groups, "Options": list(left.values())}.items():
            records = [option.get_help_record(ctx) for option in options]
            with formatter.section(title):
                formatter.write_dl([record for record in records if record is not None])


@click.command(
    cls=_Grouped,
    epilog="""\b
Example: segkit segment vnet.segkit --modality T1=t1.nii.gz --modality T2=t2.nii.gz --out seg.nii.gz
         segkit segment vnet.segkit --cohort heads.csv --out seg --workers 2""",
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--modality", "modalities", multiple=True, metavar="NAME=FILE", help="One image, repeated for each.")
@click.option(
    "--cohort",
    type=click.Path(path_type=Path),
    metavar="FOLDER|CSV",
    help="SUBJECT/MODALITY.nii.gz in a folder, a BIDS data set, or a table with a column subject and one per modality.",
)
@click.option(
    "--pattern",
    "patterns",
    multiple=True,
    metavar="NAME=PATH",
    help="Where a modality lies in the folder, such as T1={subject}/t1.nii.gz; repeated for each.",
)
@click.option(
    "--entity",
    "entities",
    multiple=True,
    metavar="KEY=VALUE",
    help="Which of several images of a BIDS session, such as run=1.",
)
@click.option("--workers", type=click.IntRange(1), help="Processes that share the cohort.  [default: 1]")
@click.option("--dask", metavar="tcp://HOST:PORT", help="Run the cohort on the workers of this Dask scheduler.")
@click.option("--resume", is_flag=True, help="Go on with the cohort in --out; what is done and unchanged is kept.")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="Label file to write, .nii or .nii.gz; of a cohort the folder.",
)
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
@click.option(
    "--threads", type=click.IntRange(1), help="CPU threads, of each worker.  [default: the runtime's own choice]"
)
@click.option(
    "--budget", metavar="SIZE", help="Most memory of the process, or of each worker, such as 4GiB.  [default: any]"
)
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
@click.option("--overwrite", is_flag=True, help="Replace files that are there; not of a cohort, see --resume.")
@click.option(
    "--png",
    is_flag=False,
    flag_value=_UNNAMED,
    metavar="[FILE]",
    help="Draw the labels over the first image, too; a cohort names its pictures itself.",
)
@json_option
def segment(
    bundle: Path,
    modalities: tuple[str, ...],
    cohort: Path | None,
    patterns: tuple[str, ...],
    entities: tuple[str, ...],
    workers: int | None,
    dask: str | None,
    resume: bool,
    out: Path,
    runtime: str,
    precision: str,
    device: str,
    threads: int | None,
    budget: str | None,
    trusted_keys: tuple[Path, ...],
    selfcheck: bool | None,
    allow_untrained: bool,
    overwrite: bool,
    png: str | None,
    as_json: bool,
) -> None:
    """Segment one head, or a cohort of them, with BUNDLE.

    Labels are written on the first image's own grid, with a report (.json) beside them. A cohort becomes a BIDS
    derivatives data set, with a row for each head in cohort.csv and cohort.json.
    """
    options: dict[str, Any] = {
        "runtime": runtime,
        "precision": precision,
        "device": device,
        "threads": threads,
        "budget": budget,
        "allow_untrained": allow_untrained,
        "trusted_keys": trusted_keys,
        "selfcheck": "auto" if selfcheck is None else selfcheck,
    }
    if cohort is None:
        _refuse(
            {"--pattern": patterns, "--entity": entities, "--workers": workers, "--dask": dask, "--resume": resume},
            "with --cohort",
            "one head has none",
        )
        if png == _UNNAMED:
            raise UsageError("expected --png FILE, got no name", hint="name it, or leave --png out")
        images = parse_pairs(modalities, "--modality NAME=FILE", "T1=t1.nii.gz")
        _segment_one(
            bundle,
            {name: Path(file) for name, file in images.items()},
            out,
            options,
            overwrite,
            None if png is None else Path(png),
            as_json,
        )
        return
    _refuse({"--modality": modalities}, "without --cohort", "the cohort names the images")
    _refuse({"--overwrite": overwrite}, "without --cohort", "take --resume, or another --out")
    if png not in (None, _UNNAMED):
        raise UsageError(
            f"expected --png without a name, got {png!r}", hint="the pictures of a cohort lie beside its labels"
        )
    from segkit_runtime.cohort_cli import segment_cohort

    segment_cohort(
        bundle,
        cohort,
        out,
        options,
        patterns=parse_pairs(patterns, "--pattern NAME=PATH", "T1='{subject}/T1.nii.gz'"),
        entities=parse_pairs(entities, "--entity KEY=VALUE", "run=1"),
        workers=workers,
        dask=dask,
        resume=resume,
        pictures=png is not None,
        as_json=as_json,
    )


def _segment_one(
    bundle: Path,
    images: Mapping[str, Path],
    out: Path,
    options: dict[str, Any],
    overwrite: bool,
    png: Path | None,
    as_json: bool,
) -> None:
    _require_not_an_input(images, [out, report_path(out), *([png] if png else [])])
    require_free_output(out, overwrite)
    if png is not None:
        _require_picture(png, overwrite)
    from segkit_runtime.segmenter import load

    segmenter = load(bundle, **options)
    with segmenter, progress_bar() as bar:
        task = bar.add_task("segmenting", total=None)
        result = segmenter.segment(images, lambda done, total: bar.update(task, completed=done, total=total))
        first = segmenter.bundle.manifest.modalities[0]
    report = result.save(out, overwrite)
    if png is not None:
        result.draw(png, images[first])
    for warning in result.warnings:
        click.echo(f"{click.style('warning:', fg='yellow')} {warning}", err=True)
    if as_json:
        print_json(json.loads(report.read_bytes()))
        return
    print_table([{"label": name, "ml": f"{volume:.2f}"} for name, volume in result.volumes_ml.items()])
    click.echo(
        f"\n{result.runtime} {result.version} on {result.device} in {result.precision}: "
        f"{result.tiles} {'patch' if result.tiles == 1 else 'patches'}, "
        f"{sum(result.timings_s.values()):.1f} s ({result.timings_s['infer']:.1f} s in the network)"
    )
    click.echo(f"labels in {out}, report in {report}" + (f", picture in {png}" if png is not None else ""))


def parse_pairs(texts: Sequence[str], form: str, example: str) -> dict[str, str]:
    """Read the values of an option that is given once for each name.

    Args:
        texts: the values, NAME=VALUE.
        form: the option and the form of its values, for the error.
        example: such a value.

    Raises:
        UsageError: one has another form, or a name is there twice.
    """
    pairs: dict[str, str] = {}
    flag, _, _ = form.partition(" ")
    for text in texts:
        name, _, value = text.partition("=")
        if not name or not value:
            raise UsageError(f"expected {form}, got {text!r}", hint=f"example: {flag} {example}")
        if name in pairs:
            raise UsageError(f"expected each {flag[2:]} once, got {name} twice", hint=f"drop one {flag}")
        pairs[name] = value
    return pairs


def _refuse(given: Mapping[str, object], where: str, hint: str) -> None:
    """Refuse options that do not go with the others."""
    for flag, value in given.items():
        if value:
            raise UsageError(f"expected {flag} {where} only", hint=hint)


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
