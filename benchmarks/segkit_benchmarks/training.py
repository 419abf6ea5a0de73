"""`segkit bench training`: how fast training gets its patches and takes its steps, beside other software."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click

from segkit.cards import Size, load_attribute
from segkit.cli.options import json_option
from segkit.cli.output import print_json, progress_bar
from segkit.errors import UsageError
from segkit.extras import is_installed
from segkit.files import write_bytes
from segkit.registry import Registry
from segkit_benchmarks import training_ours as ours
from segkit_benchmarks import training_peers as peers
from segkit_benchmarks.machine import cpu_capabilities, installed_versions
from segkit_benchmarks.profile import describe_machine
from segkit_benchmarks.training_ours import Net
from segkit_benchmarks.training_report import Report, patch_report, print_report, render_markdown, step_report
from segkit_benchmarks.turns import Side, take_turns

PHANTOM_SEED = 11

BF16 = {"avx512_bf16", "amx_bf16"}
"""Those that compute in bf16; without them torch takes a hundred times as long as in fp32."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is measured.

    Attributes:
        preset: of the phantom.
        subjects: how many.
        sizes: of patches that are drawn, the large and the small one.
        nets: that training steps are measured on.
    """

    preset: str
    subjects: int
    sizes: tuple[Size, Size]
    nets: tuple[Net, ...]


FULL = Work(
    preset="iseg",
    subjects=8,
    sizes=((128, 128, 64), (28, 28, 28)),
    nets=(
        Net(model="unet3d-residual", options={"width": 16}, channels=2, patch=(128, 128, 64)),
        Net(model="vnet", channels=1, patch=(128, 128, 64)),
        Net(model="densenet3d", channels=2, patch=(28, 28, 28), batch=4),
    ),
)

QUICK = Work(
    preset="mini",
    subjects=2,
    sizes=((32, 32, 32), (16, 16, 16)),
    nets=(Net(model="unet3d-residual", options={"width": 2}, channels=2, patch=(32, 32, 32)),),
)
"""Seconds: it shows that everything runs, not how fast."""


@click.command(epilog="Example: segkit bench training --medicalzoo MedicalZooPytorch --out out/training")
@click.option(
    "--part",
    "parts",
    type=click.Choice(["patches", "steps"]),
    multiple=True,
    default=("patches", "steps"),
    help="Only this one.  [default: both]",
)
@click.option(
    "--peer",
    "wanted",
    type=click.Choice(["monai", "nnunet", "none"]),
    multiple=True,
    help="Beside this one; repeated.  [default: those that are installed]",
)
@click.option(
    "--medicalzoo", type=click.Path(path_type=Path, file_okay=False), help="A clone of MedicalZooPytorch, also beside."
)
@click.option(
    "--model",
    "models",
    type=click.Choice([net.model for net in FULL.nets]),
    multiple=True,
    help="Take steps of this one; repeated.  [default: all]",
)
@click.option(
    "--precision",
    "precisions",
    type=click.Choice(["fp32", "bf16"]),
    multiple=True,
    help="Of steps; repeated.  [default: fp32, and bf16 where the CPU has instructions for it]",
)
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True, help="Rounds of all sides in turn.")
@click.option(
    "--seconds", type=click.FloatRange(0), default=1.0, show_default=True, help="Of drawing patches in each round."
)
@click.option("--threads", type=click.IntRange(1), help="Of a training step; patches are drawn by 1.  [default: all]")
@click.option("--quick", is_flag=True, help="Tiny patches and nets: whether it runs, not how fast.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), default=Path("out/training"), show_default=True
)
@json_option
@click.pass_obj
def training(
    registry: Registry,
    parts: tuple[str, ...],
    wanted: tuple[str, ...],
    medicalzoo: Path | None,
    models: tuple[str, ...],
    precisions: tuple[str, ...],
    repeats: int,
    seconds: float,
    threads: int | None,
    quick: bool,
    out: Path,
    as_json: bool,
) -> None:
    """Measure training patches and training steps, each side in a process of its own, all in turn, round by round.

    The phantom is made once and stays in OUT. On a CPU without instructions for bf16, a step in it takes many minutes.
    """
    work = QUICK if quick else FULL
    names = _peers(wanted)
    if medicalzoo is not None and not (medicalzoo / "lib" / "medzoo").is_dir():
        raise UsageError(
            f"expected a clone of MedicalZooPytorch, got {medicalzoo}", hint="name the folder that holds lib"
        )
    registry = Registry(registry.entries, registry.switches)  # without what it has loaded, so that it can be sent
    threads = threads or os.cpu_count() or 1
    capabilities = cpu_capabilities()
    precisions = precisions or (("fp32", "bf16") if BF16.intersection(capabilities) else ("fp32",))
    report: Report = {
        "schema": 1,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {**describe_machine(), "capabilities": capabilities},
        "versions": _versions(names),
        "repeats": repeats,
        "precisions": precisions,
    }
    with progress_bar() as bar:
        task = bar.add_task("making the phantom", total=None)

        def on_turn(name: str) -> None:
            bar.update(task, description=name, advance=1)

        data = out / f"data-{work.preset}"
        load_attribute(registry.card("dataset", "phantom").make)(
            data, work.preset, work.subjects, PHANTOM_SEED, lambda _: None
        )
        if "patches" in parts:
            sides = _patch_sides(registry, data, out / "store", work.sizes, seconds, names, medicalzoo)
            shutil.rmtree(out / "store", ignore_errors=True)  # how long it takes to make is measured
            report["patches"] = patch_report(take_turns(sides, repeats, 1, on_turn), work.sizes, not quick)
            _write(report, out)
        if "steps" in parts:
            machine = take_turns({"the machine's own peak": peers.gemm}, 1, threads, on_turn).popitem()[1]
            report["machine"] |= {
                **machine.first,
                "gemm_gflops_per_second": machine.rounds[0] if machine.rounds else None,
            }
            report["steps"] = []
            for net in work.nets:
                if net.model in (models or [net.model]):
                    chosen = _step_sides(registry, data, out, net, precisions, repeats, names, medicalzoo)
                    report["steps"] += step_report(take_turns(chosen, repeats, threads, on_turn), net, not quick)
                    _write(report, out)
    if as_json:
        print_json(report)
        return
    print_report(report)
    click.echo(f"\n{out / 'training.json'}, {out / 'training.md'}")


def _write(report: Report, out: Path) -> None:
    """Whatever is measured stays, should the rest take too long."""
    write_bytes(out / "training.json", (json.dumps(report, indent=1) + "\n").encode())
    write_bytes(out / "training.md", render_markdown(report).encode())


def _peers(wanted: Sequence[str]) -> list[str]:
    modules = {"monai": "monai", "nnunet": "nnunetv2"}
    for name in wanted:
        if name in modules and not is_installed(modules[name]):
            module = modules[name]
            raise UsageError(f"expected {module} for --peer {name}, found none", hint=f"run: pip install {module}")
    return [name for name, module in modules.items() if (name in wanted if wanted else is_installed(module))]


def _patch_sides(
    registry: Registry,
    data: Path,
    store: Path,
    sizes: Sequence[Size],
    seconds: float,
    names: Sequence[str],
    medicalzoo: Path | None,
) -> dict[str, Side]:
    """The sides by name; ours is the first, since others read its store."""
    common: dict[str, Any] = {"registry": registry, "data": data, "sizes": sizes, "seconds": seconds}
    sides: dict[str, Side] = {"segkit": partial(ours.patches, store=store, **common)}
    if "monai" in names:
        sides["MONAI"] = partial(peers.monai_patches, tuned=False, **common)
        sides["MONAI tuned"] = partial(peers.monai_patches, tuned=True, **common)
    if "nnunet" in names:
        sides["nnU-Net"] = partial(peers.nnunet_patches, store=store, **common)
    if medicalzoo is not None:
        sides["MedicalZoo"] = partial(peers.medicalzoo_patches, clone=medicalzoo, store=store, **common)
    return sides


def _step_sides(
    registry: Registry,
    data: Path,
    out: Path,
    net: Net,
    precisions: Sequence[str],
    repeats: int,
    names: Sequence[str],
    medicalzoo: Path | None,
) -> dict[str, Side]:
    classes = len(ours.open_data(registry, data).scheme.labels)
    sides: dict[str, Side] = {}
    for precision in precisions:
        run = out / "runs" / f"{net.model}-{precision}"
        shutil.rmtree(run, ignore_errors=True)
        # One step that is not timed, and one more than is measured: the epoch does not end.
        ours.plan(registry, data, out / "store", run, net, precision, repeats + 2)
        sides[f"segkit {precision}"] = partial(ours.steps, registry=registry, folder=run)
    if "monai" in names:
        for precision in precisions:
            sides[f"MONAI's loop {precision}"] = partial(
                peers.plain_steps, registry=registry, net=net, classes=classes, precision=precision
            )
    if medicalzoo is not None:
        sides["MedicalZoo fp32"] = partial(peers.medicalzoo_steps, clone=medicalzoo, net=net, classes=classes)
    return sides


def _versions(names: Sequence[str]) -> dict[str, str]:
    return installed_versions(["segkit3d", "numpy", "torch", *(["nnunetv2"] if "nnunet" in names else []), "monai"])
