"""`segkit bench table1`: the thesis' Table 1 beside what segkit measures here, with latency, memory and engines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import click

import segkit
from segkit.cards import Size
from segkit.cli.options import Triple, json_option
from segkit.cli.output import print_json, progress_bar
from segkit.errors import OutputExists, UsageError
from segkit.extras import require
from segkit.files import write_bytes
from segkit.registry import Registry
from segkit_benchmarks.machine import installed_versions, machine_facts, usable_cores
from segkit_benchmarks.table1_nets import RUNTIMES, choose_nets, require_runtimes, ways
from segkit_benchmarks.table1_render import print_table1, render_csv, render_markdown
from segkit_benchmarks.table1_result import RESULT, Accuracy, Settings, Table1
from segkit_benchmarks.table1_run import Runner
from segkit_benchmarks.table1_sides import Pace

RUNS, SECONDS, ROUNDS = 20, 30.0, 5
QUICK_RUNS, QUICK_SECONDS, QUICK_ROUNDS = 9, 3.0, 3

_SOFTWARE = ("numpy", "torch", "onnx", "onnxscript", "onnxruntime", "openvino", "tensorrt_rtx_cu13", "nncf")

METHOD = (
    "batch 1, random weights and a random patch; each step in a process of its own that is bound to its cores; after a "
    "warm-up the runtimes run in turn, in rounds, each cell up to its number of runs or its time, one run a round at "
    "least; medians with 95 % bootstrap intervals; peak memory is the largest resident memory of the process, "
    "libraries included"
)


@click.command(
    epilog="Example: segkit bench table1 --models vnet,densenet3d --runtimes torch,openvino --out out/table1"
)
@click.option("--models", metavar="NAME[,NAME]", help="By comma.  [default: all of the thesis]")
@click.option("--runtimes", metavar="NAME[,NAME]", default=",".join(RUNTIMES), show_default=True, help="By comma.")
@click.option("--precision", metavar="P[,P]", default="fp32", show_default=True, help="fp32,tf32,fp16,bf16,int8")
@click.option("--patch", type=Triple(), help="Of all networks, X,Y,Z.  [default: the thesis', else each model's own]")
@click.option(
    "--bundle", "bundles", multiple=True, type=click.Path(path_type=Path), help="Trained; its proofs are told."
)
@click.option("--runs", type=click.IntRange(1), help=f"Timed runs of a cell.  [default: {RUNS}; quick: {QUICK_RUNS}]")
@click.option(
    "--seconds",
    type=click.FloatRange(0),
    help=f"Time of a cell's runs, if that ends first.  [default: {SECONDS:g}; quick: {QUICK_SECONDS:g}]",
)
@click.option(
    "--timeout",
    "timeout_seconds",
    type=click.FloatRange(1),
    default=600.0,
    show_default=True,
    help="Seconds that one step of a cell may take; what takes longer has failed.",
)
@click.option("--threads", type=click.IntRange(1), help="Of each process, bound to as many cores.  [default: all]")
@click.option("--quick", is_flag=True, help="Half the sides of large patches, fewer and shorter runs.")
@click.option("--resume", is_flag=True, help="Go on: measure what OUT lacks, and what failed.")
@click.option("--overwrite", is_flag=True, help="Measure all anew.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("out/table1"), show_default=True)
@json_option
@click.pass_obj
def table1(
    registry: Registry,
    models: str | None,
    runtimes: str,
    precision: str,
    patch: Size | None,
    bundles: tuple[Path, ...],
    runs: int | None,
    seconds: float | None,
    timeout_seconds: float,
    threads: int | None,
    quick: bool,
    resume: bool,
    overwrite: bool,
    out: Path,
    as_json: bool,
) -> None:
    """Measure the networks of the thesis' Table 1 on every runtime, beside what it prints.

    OUT/table1.json has all figures, table1.md and table1.csv the same for people and spreadsheets. They are written
    after each cell; a cell that fails says why, and the rest goes on.
    """
    from segkit_export.proving import parse_precisions

    require("torch", "train", "segkit bench table1")
    require("onnx", "export", "segkit bench table1")
    precisions = parse_precisions(precision)
    if precisions is None:
        raise UsageError("expected precisions by name, got auto", hint="example: --precision fp32,int8")
    if resume and overwrite:
        raise UsageError("expected --resume or --overwrite, got both", hint="--resume keeps what is measured")
    chosen = _names(runtimes)
    require_runtimes(registry, chosen)
    nets = choose_nets(registry, _names(models or ""), patch, quick)
    cores = _cores(threads)
    settings = Settings(
        quick=quick,
        patch=patch,
        runs=runs or (QUICK_RUNS if quick else RUNS),
        seconds=(QUICK_SECONDS if quick else SECONDS) if seconds is None else seconds,
        rounds=QUICK_ROUNDS if quick else ROUNDS,
        threads=len(cores),
        cores=cores,
    )
    table = _open(out / RESULT, settings, resume, overwrite)
    proven = dict(_proofs(bundles))

    def save() -> None:
        table.write(out / RESULT)
        write_bytes(out / "table1.md", render_markdown(table).encode())
        write_bytes(out / "table1.csv", render_csv(table).encode())

    with progress_bar() as bar:
        task = bar.add_task("table 1", total=None)
        Runner(
            Registry(registry.entries, registry.switches),  # without what it has loaded, so that it can be sent
            table,
            nets,
            list(ways(chosen, precisions)),
            Pace(runs=settings.runs, seconds=settings.seconds, rounds=settings.rounds, cores=cores),
            timeout_seconds=timeout_seconds,
            proven=proven,
            save=save,
            show=lambda text: bar.update(task, description=text),
        ).run()
    if as_json:
        print_json(table.to_json())
        return
    print_table1(table)
    click.echo(f"\n{table.minutes:.1f} minutes; {out / RESULT}, table1.md and table1.csv beside it")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _cores(threads: int | None) -> list[int]:
    cores = usable_cores()
    if threads is not None and threads > len(cores):
        raise UsageError(
            f"expected at most {len(cores)} threads, one for each core here, got {threads}",
            hint="leave --threads out for all of them",
        )
    return cores[:threads]


def _open(path: Path, settings: Settings, resume: bool, overwrite: bool) -> Table1:
    """The table to fill: a new one, or the one that is there.

    Raises:
        OutputExists: one is there, and nobody said what to do with it.
        UsageError: it was measured otherwise or elsewhere.
        DataError: it cannot be read.
    """
    from segkit.complexity import RULES

    fresh = Table1(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        segkit_version=segkit.__version__,
        versions=installed_versions(_SOFTWARE),
        machine=machine_facts(),
        settings=settings,
        method=METHOD,
        layer_rules=dict(RULES),
    )
    if overwrite or not path.exists():
        return fresh
    if not resume:
        raise OutputExists(f"{path} exists", hint="go on with --resume, or measure anew with --overwrite")
    found = Table1.read(path)
    for what in ("settings", "machine", "versions", "segkit_version"):
        before, now = getattr(found, what), getattr(fresh, what)
        if before != now:
            raise UsageError(
                f"expected the {what.replace('_', ' ')} that {path} was measured with, {before}, got {now}",
                hint="take the same, or measure anew with --overwrite",
            )
    return found


def _proofs(bundles: Sequence[Path]) -> Iterator[tuple[tuple[str, str, str], Accuracy]]:
    """What bundles of trained weights prove: how far each runtime is from torch on whole volumes.

    Raises:
        BundleError: a bundle is altered or incomplete.
        UsageError: its weights are random.
    """
    from segkit_runtime.bundle import Bundle

    for folder in bundles:
        manifest = Bundle.open(folder).manifest
        if not manifest.weights.trained:
            raise UsageError(
                f"expected a bundle of trained weights, those of {folder} are random",
                hint="train, then: segkit export RUN",
            )
        for proof in manifest.proofs:
            if proof.arithmetic == "native":
                yield (
                    (manifest.name, proof.runtime, proof.precision),
                    Accuracy(
                        max_abs_logit_difference=proof.max_abs_logit_difference,
                        max_abs_logit=proof.max_abs_logit,
                        label_agreement=proof.label_agreement,
                        dice_difference=proof.dice_difference,
                        basis=f"trained weights, {folder.name}, on {', '.join(proof.volumes)}",
                    ),
                )
