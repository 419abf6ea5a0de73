"""`segkit bench peers`: whole volumes, process start and whole runs, beside other software that does the same."""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path

import click

from segkit.cli.options import json_option
from segkit.cli.output import print_json, progress_bar
from segkit.errors import UsageError
from segkit.files import write_bytes
from segkit.registry import Registry
from segkit_benchmarks.machine import load_average, machine_facts
from segkit_benchmarks.peers import report
from segkit_benchmarks.peers.bench import Bench
from segkit_benchmarks.peers.contenders import CONTENDERS, choose
from segkit_benchmarks.peers.page import print_report, render
from segkit_benchmarks.peers.runs import match_runs
from segkit_benchmarks.peers.work import FULL, QUICK

PARTS = ("volume", "start", "run")


@click.command(epilog="Example: segkit bench peers --medicalzoo MedicalZooPytorch --out out/peers")
@click.option(
    "--only",
    metavar="NAME[,NAME]",
    help="Beside these: monai, torchio, nnunet, torch, medicalzoo.  [default: all that are installed]",
)
@click.option(
    "--part",
    "parts",
    type=click.Choice([*PARTS, "all"]),
    multiple=True,
    default=("all",),
    show_default=True,
    help="Whole volumes in memory, process start to the first patch, files to files; repeated. Each with peak memory.",
)
@click.option(
    "--model",
    "models",
    type=click.Choice([net.model for net in FULL.nets]),
    multiple=True,
    help="Volumes with this network only; repeated.  [default: all]",
)
@click.option(
    "--medicalzoo", type=click.Path(path_type=Path, file_okay=False), help="A clone of MedicalZooPytorch, also beside."
)
@click.option(
    "--run",
    "folders",
    type=click.Path(path_type=Path, file_okay=False),
    multiple=True,
    help="Take the weights of this run, trained on the phantom with --background zero; one for each network.  "
    "[default: random weights, which cannot tell what int8 costs]",
)
@click.option("--mend", is_flag=True, help="Let int8 keep in fp32 the modules that carry too much error; takes long.")
@click.option("--rounds", type=click.IntRange(1), default=2, show_default=True, help="Of all sides in turn.")
@click.option("--threads", type=click.IntRange(1), help="Of each side.  [default: all cores]")
@click.option("--quick", is_flag=True, help="A small head and a small network: whether it runs, not how fast.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("out/peers"), show_default=True)
@json_option
@click.pass_obj
def peers(
    registry: Registry,
    only: str | None,
    parts: tuple[str, ...],
    models: tuple[str, ...],
    medicalzoo: Path | None,
    folders: tuple[Path, ...],
    mend: bool,
    rounds: int,
    threads: int | None,
    quick: bool,
    out: Path,
    as_json: bool,
) -> None:
    """Segment a head of 256x192x144 beside MONAI, TorchIO, nnU-Net, plain torch and the thesis' code.

    All have the same weights, and each is in a process of its own. Rounds of all sides in turn give ratios; a ratio
    counts where the labels are the same. With trained weights (--run) segkit runs in int8 too, where its export is
    proven in it. Results are in OUT/peers.json, and as a page in OUT/peers.md.
    """
    facts = machine_facts()
    chosen = choose(
        [name.strip() for name in only.split(",")] if only else (),
        None if medicalzoo is None else medicalzoo.absolute(),
        facts["capabilities"],
    )
    work = QUICK if quick else FULL
    trained = match_runs(folders, work, registry)
    found: report.Report = {
        "schema": 2,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": facts,
        "load_average": load_average(),
        "versions": chosen.versions(int8=bool(trained)),
        "quick": quick,
        "rounds": rounds,
        "threads": threads or os.cpu_count() or 1,
        "follows": {name: contender.follows for name, contender in CONTENDERS.items()},
    }
    if models and not {net.model for net in work.nets}.intersection(models):
        raise UsageError(f"expected --model {work.nets[0].model} with --quick, got {', '.join(models)}")
    wanted = PARTS if "all" in parts else tuple(part for part in PARTS if part in parts)
    with progress_bar() as bar, tempfile.TemporaryDirectory(prefix="segkit-peers-") as folder:
        task = bar.add_task("preparing", total=None)
        bench = Bench(
            registry=Registry(registry.entries, registry.switches),  # without what it has loaded
            chosen=chosen,
            work=work,
            runs=trained,
            mend=mend,
            folder=Path(folder),
            found=found,
            save=lambda: _write(found, out),
            show=lambda name: bar.update(task, description=name, advance=1),
        )
        bench.run(wanted, models)
    if as_json:
        print_json(found)
        return
    print_report(found)
    click.echo(f"\n{out / 'peers.json'}, {out / 'peers.md'}")


def _write(found: report.Report, out: Path) -> None:
    """Whatever is measured stays, should the rest take too long."""
    found["floors"] = report.floors(found)
    write_bytes(out / "peers.json", (json.dumps(found, indent=1) + "\n").encode())
    write_bytes(out / "peers.md", render(found).encode())
