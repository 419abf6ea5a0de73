"""The tables of `segkit bench peers`, in a terminal and as the page docs/peers.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click

from segkit.cli.output import print_table
from segkit_benchmarks.peers.report import EQUAL, Report
from segkit_benchmarks.peers.runs import how_to_train
from segkit_benchmarks.peers.work import FULL

Rows = list[dict[str, Any]]

_READING = """\
Every side has the same weights and the same normalised head in memory, and is in a process of its own with the same
number of threads. A round is one volume of each side in turn; a figure is the median of the rounds, with the least and
the most. Ratios are taken round by round: how many times as long a peer takes as segkit.

*Labels* are compared {check}.
Where tiles are blended, they are compared in the middle of the patches, since towards the edges each side keeps the
weights of its Gaussian from zero in its own way. A ratio counts where at least {equal:.0%} of these voxels have the
same label: where logits lie close together, as those of random weights do, some fall either way. MedicalZoo's code puts
voxels in wrong places; its time is compared all the same.

Peak memory is the largest resident memory of a process, libraries included. Stripped heads are given to the peers
whole, and cropped where they have a call for that. Floors were set on a CPU that computes in bf16 with AMX; one of time
that is missed on another CPU is not comparable, and the ratio in fp32 is what counts there.

All sides cut patches of the trained size. Others that divide a head would cost less; segkit takes them only where the
export of a network has proven them (`segkit export --also-patch`), and none of its sides does so here."""


_RUNS = """\
With random weights nobody can tell what less precision costs. `--run RUN`, once for each network, gives all sides the
weights of a run, and segkit runs in int8 too if its export is proven: the labels of a whole held-out head, and the Dice
of each class against its truth, keep to the tolerances of `segkit export`. The peers have no such step; MONAI is
measured as its documentation runs it. Such runs are made so, with epochs and learning rate as one likes:

    segkit data make phantom DATA --preset {preset} --subjects 8 --seed 1
    {commands}

Timed heads lie with their longest axis along x, as those that the floors were measured on, and runs learn from heads as
the phantom makes them, with it along z; a patch takes as long either way."""


_PROGRAMS = """\
To the first patch, each program imports what it needs, makes the network ready and runs one patch of zeros
(`segkit_benchmarks/peers/first_patch.py`): segkit loads a bundle, whose compiled network is in the user's cache, or is
compiled where nothing is cached. From files to file, `segkit segment` is run beside a program after MONAI's tutorial
`spleen_segmentation_3d.ipynb`: `LoadImaged`, `Orientationd`, `NormalizeIntensityd`, `CropForegroundd` where it crops,
`SlidingWindowInferer`, `Invertd`, `AsDiscreted`, `SaveImaged`; both with overlap 0.5 and Gaussian weights."""


def tables(report: Report) -> Iterator[tuple[str, Rows, list[str]]]:
    """Each table with its title, and what is to be said below it."""
    for part in report.get("volumes", []):
        patch = "x".join(map(str, part["patch"]))
        options = "".join(f"{name} {value}, " for name, value in part["options"].items())
        title = f"{part['part']}: {options}patches of {patch}, {part['gflop_per_patch']:,.4g} GFLOP each"
        yield title, [_line(row, part) for row in part["rows"] if "failed" not in row], _notes(part)
    for name, title in (("start", "Process start to the first patch"), ("run", "A stripped head, from files to file")):
        if name in report:
            part = report[name]
            yield title, [_line(row, part) for row in part["rows"] if "failed" not in row], _notes(part)
    yield "Floors", [_floor_line(floor) for floor in report["floors"]], []


def _line(row: Mapping[str, Any], part: Report) -> dict[str, Any]:
    line: dict[str, Any] = {"side": row["side"], "seconds": _spread(row["seconds"])}
    if "patches" in row:
        share = "" if row["gemm_share"] is None else f" ({row['gemm_share']:.0%} of the peak)"
        line |= {
            "Mvoxel/s": f"{row['mvoxels_per_second']:.2f}",
            "patches": row["patches"],
            "GFLOP/s": f"{row['gflops_per_second']:,.0f}{share}",
        }
    line["peak MiB"] = "-" if row["peak_mib"] is None else f"{row['peak_mib']:,.0f}"
    if "same_labels" in row:
        line[f"labels as {part['reference']}"] = _share(row["same_labels"])
    for ours in dict.fromkeys(ratio["ours"] for ratio in part["ratios"]):
        line[f"{ours} is x"] = next(
            (_ratio(ratio) for ratio in part["ratios"] if (ratio["ours"], ratio["peer"]) == (ours, row["side"])), "-"
        )
    return line


def _ratio(ratio: Mapping[str, Any]) -> str:
    text = _spread(ratio["seconds"])
    same = ratio["same_labels"]
    return text if same is None or same >= EQUAL else f"{text}, but {same:.1%} same labels"


def _floor_line(floor: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "work": floor["part"],
        "peer": floor["peer"],
        "figure": floor["figure"],
        "wanted": f"{floor['least']:g} x",
        "predicted in fp32": "-" if floor["predicted_fp32"] is None else f"{floor['predicted_fp32']:g} x",
        "measured": "-" if floor["ratio"] is None else f"{floor['ratio']:.3g} x",
        "with": floor["ours"] or "-",
        "": floor["verdict"],
    }


def _notes(part: Report) -> list[str]:
    proof = [] if part["int8"] is None else [_proof_text(part["int8"])]
    return proof + [f"{row['side']}: not measured: {row['failed']}" for row in part["rows"] if "failed" in row]


def _proof_text(proof: Mapping[str, Any]) -> str:
    """What the export found of int8."""
    allowed, volumes = proof["tolerance"], ", ".join(proof["volumes"])
    text = (
        f"int8 on OpenVINO was proven with tiles that overlap by {proof['overlap']:g}, on {volumes}: "
        f"{proof['label_agreement']:.4%} of {proof['voxels']:,} voxels have the label of torch in fp32 (at least "
        f"{allowed['least_label_agreement']:.0%} must)"
    )
    if proof["dice_difference"] is not None:
        text += (
            f", and the Dice of a class changes by at most {proof['dice_difference']:.5f} (it may by "
            f"{allowed['most_dice_difference']:g})"
        )
    return text + (f"; kept in fp32: {', '.join(proof['islands'])}" if proof["islands"] else "")


def _spread(spread: Mapping[str, float]) -> str:
    return f"{spread['median']:.3g} ({spread['least']:.3g}-{spread['most']:.3g})"


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.4%}"


def machine_line(report: Report) -> str:
    """The machine in a line."""
    machine = report["machine"]
    products = ", ".join(f"{name} {value:,.0f}" for name, value in machine["gemm_gflops_per_second"].items())
    return (
        f"{machine['cpu']}, {report['threads']} threads, {', '.join(machine['capabilities'])}; products of matrices, "
        f"GFLOP/s: {products or 'not measured'}; load before it {report['load_average']}"
    )


def print_report(report: Report) -> None:
    """Tables for people."""
    for title, rows, notes in tables(report):
        print_table(rows, title=title)
        for note in notes:
            click.echo(note)
        click.echo()
    click.echo(machine_line(report))


def render(report: Report) -> str:
    """The page of a result file."""
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    volume = report["volume"]
    shape = "x".join(map(str, volume["shape"]))
    lines = [
        "# The same work by others",
        "",
        f"From `segkit bench peers{' --quick' if report['quick'] else ''} --rounds {report['rounds']}` "
        f"on {machine_line(report)}.",
        "",
        f"Versions: {versions}. The head: {shape} voxels of the phantom `{volume['preset']}`, brain in "
        f"{volume['inside']:.1%} of them.",
        "",
        _READING.format(equal=EQUAL, check=volume["check"]),
        "",
        "## The networks",
        "",
        *(f"- {_network_text(network)}" for network in report["networks"]),
        "",
        _RUNS.format(preset=FULL.preset, commands="\n    ".join(how_to_train(net) for net in FULL.nets)),
    ]
    for title, rows, notes in tables(report):
        lines += ["", f"## {title}", "", *_markdown(rows)]
        lines += ["", *(f"- {note}" for note in notes)] if notes else []
    lines += ["", "## What each side runs", ""]
    lines += [f"- **{name}**: {text}." for name, text in report["follows"].items()]
    lines += ["", _PROGRAMS]
    return "\n".join(lines) + "\n"


def _network_text(network: Mapping[str, Any]) -> str:
    run = network["run"]
    text = f"**{network['model']}**, {network['parameters']:,} parameters: "
    if run is None:
        return f"{text}random weights"
    dice = ", ".join(f"{name} {share:.1%}" for name, share in (run["dice"] or {}).items())
    return (
        f"{text}trained in {run['steps']} steps, threads {run['threads']}, by `{run['data']}` and `{run['train']}`; "
        f"Dice on held-out heads: {dice or 'not evaluated'}"
    )


def _markdown(rows: Rows) -> list[str]:
    if not rows:
        return ["none"]
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row.values()] for row in rows]
    return [
        f"| {' | '.join(rows[0])} |",
        f"| {' | '.join('---' for _ in rows[0])} |",
        *(f"| {' | '.join(row)} |" for row in cells),
    ]
