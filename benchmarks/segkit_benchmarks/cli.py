"""`segkit profile`: what a bundle costs on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from segkit.cli.options import json_option
from segkit.cli.output import print_json, print_table, progress_bar
from segkit.files import write_bytes
from segkit.registry import Registry
from segkit_benchmarks.measure import Settings


@click.command(epilog="Example: segkit profile vnet.segkit --runtime onnxruntime --threads 2")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--runtime", "runtimes", multiple=True, help="Measure only this one, repeated.  [default: all installed]")
@click.option("--runs", type=click.IntRange(1), default=30, show_default=True, help="Timed runs for each runtime.")
@click.option(
    "--seconds", type=click.FloatRange(0), default=20.0, show_default=True, help="Begin no further run after this time."
)
@click.option("--threads", type=click.IntRange(1), help="CPU threads.  [default: the runtime's choice]")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="[default: NAME.profile.json beside BUNDLE]"
)
@json_option
@click.pass_obj
def profile(
    registry: Registry,
    bundle: Path,
    runtimes: tuple[str, ...],
    runs: int,
    seconds: float,
    threads: int | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Measure size, latency and memory of BUNDLE on every runtime of this machine."""
    from segkit_benchmarks.profile import profile_bundle

    settings = Settings(runs=runs, seconds=seconds, threads=threads)
    with progress_bar() as bar:
        task = bar.add_task("profiling", total=runs)

        def on_run(runtime: str, done: int) -> None:
            bar.update(task, description=f"profiling {runtime}", completed=done)

        report = profile_bundle(registry, bundle, runtimes, settings, on_run)
    out = out or bundle.resolve().parent / f"{bundle.resolve().stem}.profile.json"
    write_bytes(out, json.dumps(report, indent=1).encode())
    if as_json:
        print_json(report)
        return
    _print(report)
    click.echo(f"\nprofile in {out}")


def _print(report: dict[str, Any]) -> None:
    network = report["network"]
    layers = "; ".join(f"{layer['count']} ({layer['rule']})" for layer in network["layers"].values())
    facts = {
        "network": network["model"],
        "patch": "x".join(map(str, network["patch"])) + f" voxels, {network['in_channels']} channels",
        "parameters": f"{network['parameters']:,}",
        "layers": layers,
        "MACs": f"{network['macs'] / 1e9:,.1f} G a patch",
        "model.onnx": f"{report['onnx_mib']} MiB",
        "machine": f"{report['machine']['cpu']}, {report['machine']['cores']} cores",
    }
    print_table([{"": key, report["bundle"]: value} for key, value in facts.items()])
    click.echo()
    measured = [row for row in report["runtimes"] if "failed" not in row]
    keys = (
        "runtime",
        "version",
        "device",
        "precision",
        "load_seconds",
        "first_run_ms",
        "p50_ms",
        "p95_ms",
        "p99_ms",
        "runs",
        "peak_mib",
    )
    print_table([{key.replace("_", " "): row[key] for key in keys} for row in measured], title="measured here, batch 1")
    for row in report["runtimes"]:
        if "failed" in row:
            click.echo(f"{row.get('engine', row['runtime'])}: not measured: {row['failed']}")
    if report["engines"]:
        click.echo()
        built = (
            "runtime",
            "version",
            "precision",
            "status",
            "file_mib",
            "build_seconds",
            "activation_mib",
            "weights_mib",
        )
        print_table(
            [{key.replace("_", " "): row[key] for key in built} for row in report["engines"]],
            title="compiled engines, as their builder reports them",
        )
