"""`segkit verify`: prove a bundle on other data or another machine; `segkit rebuild`: build its engines anew.

Torch is not needed: what every runtime is held against is the bundle's own fp32 file, which was held against torch.
"""

from __future__ import annotations

from pathlib import Path

import click

from segkit.cli.options import dataset_option, json_option, parse_options
from segkit.cli.output import print_json
from segkit.errors import VerificationFailed
from segkit.registry import Registry
from segkit.volume import format_size
from segkit_export.cli import print_proofs, step_bars


@click.command(epilog="Example: segkit verify unet3d.segkit --data data/site-b --dataset bids --subjects 5")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Folder of a data set.")
@click.option("--dataset", help="Data set plugin that knows its layout.  [default: the one it was trained on]")
@dataset_option
@click.option("--subjects", type=click.IntRange(1), default=1, show_default=True, help="How many to compare on.")
@json_option
@click.pass_obj
def verify(
    registry: Registry,
    bundle: Path,
    data: Path,
    dataset: str | None,
    dataset_options: tuple[str, ...],
    subjects: int,
    as_json: bool,
) -> None:
    """Prove BUNDLE again on this machine: every runtime and precision in it, on whole volumes of DATA.

    Exit code 3 if one of them does not do what the fp32 file does. What cannot run here is told, with the reason.
    """
    from segkit_export.reproof import reprove

    with step_bars() as progress:
        report = reprove(
            registry, bundle, data, dataset, parse_options(dataset_options, "--dataset-option"), subjects, progress
        )
    if as_json:
        print_json(report.as_json())
    else:
        print_proofs(report.proofs, report.reference)
        for name, reason in report.not_run.items():
            click.secho(f"{name}: not run: {reason}", fg="yellow", err=True)
    failed = [f"{proof.runtime} in {proof.precision}" for proof in report.proofs if not proof.proven]
    failed += [
        f"{proof.runtime} in {proof.precision} with tiles of {format_size(tiles.patch)}"
        for proof in report.proofs
        for tiles in proof.tiles
        if not tiles.proven
    ]
    if failed:
        raise VerificationFailed(
            f"expected every runtime of {bundle} to keep to its tolerances here, these do not: {', '.join(failed)}",
            hint="segment with another --runtime, or export the bundle again on this machine",
        )


@click.command(epilog="Example: segkit rebuild unet3d.segkit")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--target", "targets", multiple=True, metavar="SM", help="For another GPU, such as sm89; repeated.")
@json_option
def rebuild(bundle: Path, targets: tuple[str, ...], as_json: bool) -> None:
    """Build the TensorRT engines of BUNDLE again, from the ONNX inside it, with the TensorRT that is installed here."""
    from segkit_export.reproof import rebuild_engines

    with step_bars() as progress:
        rebuilt = rebuild_engines(bundle, targets, progress)
    if as_json:
        print_json({"schema": 1, "bundle": str(rebuilt.folder), "manifest": rebuilt.manifest.model_dump(mode="json")})
        return
    for engine in rebuilt.manifest.engines:
        click.echo(f"{engine.file}: {engine.runtime} {engine.version}, {', '.join(engine.targets)}, {engine.status}")
