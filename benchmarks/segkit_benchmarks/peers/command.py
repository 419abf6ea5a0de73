"""`segkit bench peers`: whole volumes, process start and whole runs, beside other software that does the same."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click

from segkit.cli.options import json_option
from segkit.cli.output import print_json, progress_bar
from segkit.errors import SegkitError, UsageError
from segkit.files import write_bytes
from segkit.registry import Registry
from segkit_benchmarks.machine import load_average, machine_facts
from segkit_benchmarks.peers import prepare, programs, report
from segkit_benchmarks.peers.contenders import CONTENDERS, Chosen, case_sides, choose
from segkit_benchmarks.peers.page import print_report, render
from segkit_benchmarks.peers.work import FULL, QUICK, Net, Work
from segkit_benchmarks.turns import Result, Side, take_turns

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
    rounds: int,
    threads: int | None,
    quick: bool,
    out: Path,
    as_json: bool,
) -> None:
    """Segment a head of 256x192x144 beside MONAI, TorchIO, nnU-Net, plain torch and the thesis' code.

    All have the same random weights, and each is in a process of its own. Rounds of all sides in turn give ratios; a
    ratio counts where the labels are the same. Results are in OUT/peers.json, and as a page in OUT/peers.md.
    """
    facts = machine_facts()
    chosen = choose(
        [name.strip() for name in only.split(",")] if only else (),
        None if medicalzoo is None else medicalzoo.absolute(),
        facts["capabilities"],
    )
    work = QUICK if quick else FULL
    found: report.Report = {
        "schema": 1,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": facts,
        "load_average": load_average(),
        "versions": chosen.versions(),
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


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Fills a report, part by part.

    Attributes:
        registry: finds networks and the phantom.
        chosen: who takes part.
        work: what is done.
        folder: for all that is made on the way.
        found: the report.
        save: called after each part.
        show: called with what is going on.
    """

    registry: Registry
    chosen: Chosen
    work: Work
    folder: Path
    found: report.Report
    save: Callable[[], None]
    show: Callable[[str], None]

    def run(self, parts: tuple[str, ...], models: tuple[str, ...]) -> None:
        """Measure parts; volumes with some of the networks."""
        from segkit_benchmarks.training_peers import gemm

        wanted = ("fp32", "bf16") if self.chosen.bf16 else ("fp32",)
        products = self._turns({"the machine's own peak": partial(gemm, precisions=wanted)}, 3).popitem()[1].rounds
        self.found["machine"]["gemm_gflops_per_second"] = {
            name: max(figures[name] for figures in products) for name in wanted if products
        }
        self.found["volume"] = self._prepared(
            "the head", partial(prepare.volumes, registry=self.registry, work=self.work, folder=self.folder)
        )
        started = [part for part in parts if part != "volume"]
        self.found["volumes"] = []
        for net in self.work.nets:
            first = net is self.work.nets[0]
            volumes = "volume" in parts and (not models or net.model in models)
            if not (volumes or (first and started)):
                continue
            known = self._network(net, bundle=first and bool(started))
            for part in started if first else ():
                self._programs(part, net, known["network"])
            if volumes:
                self._volumes(net, known)
        self.save()

    def _network(self, net: Net, *, bundle: bool) -> Mapping[str, Any]:
        side = partial(prepare.network, registry=self.registry, net=net, folder=self.folder, bundle=bundle)
        return self._prepared(f"{net.model}: weights and ONNX", side)

    def _prepared(self, name: str, side: Side) -> Mapping[str, Any]:
        result = self._turns({name: side}, 0)[name]
        if result.failed:
            raise SegkitError(f"expected to prepare {name}, it failed: {result.failed}")
        return result.first

    def _volumes(self, net: Net, known: Mapping[str, Any]) -> None:
        shape = self.found["volume"]["shape"]
        for case in net.cases:
            sides, left_out = case_sides(self.chosen, net, case, known["network"], self.folder, self.found["threads"])
            results = self._turns(sides, self.found["rounds"], f"{net.model}, {case}: ")
            self.found["volumes"].append(
                report.volume_report(
                    results,
                    left_out,
                    net,
                    case,
                    folder=self.folder,
                    gflop=known["gflop"],
                    peak=self.found["machine"]["gemm_gflops_per_second"],
                    voxels=shape[0] * shape[1] * shape[2],
                )
            )
            self.save()

    def _programs(self, part: str, net: Net, network: Mapping[str, Any]) -> None:
        make = programs.first_patches if part == "start" else programs.whole_runs
        sides = make(self.folder, network, net, self.chosen.peers, self.found["threads"])
        results = self._turns(sides, self.found["rounds"], f"{part}: ")
        alike = partial(programs.agreement, self.folder) if part == "run" else lambda ours, peer: None
        self.found[part] = report.program_report(part, results, alike)
        self.save()

    def _turns(self, sides: Mapping[str, Side], rounds: int, what: str = "") -> dict[str, Result]:
        return take_turns(
            sides,
            rounds,
            self.found["threads"],
            lambda name: self.show(f"{what}{name}"),
            timeout_seconds=TIMEOUT_SECONDS,
        )


TIMEOUT_SECONDS = 1800.0
"""The longest that a side may prepare, or take for a volume."""
