"""What `segkit bench training` makes of its measurements: rows, ratios round by round, floors, and tables."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from segkit.cards import Size
from segkit.cli.output import print_table
from segkit.volume import format_size
from segkit_benchmarks import training_ours as ours
from segkit_benchmarks import training_peers as peers
from segkit_benchmarks.table1_render import markdown_table
from segkit_benchmarks.training_ours import Net
from segkit_benchmarks.turns import Result

Report = dict[str, Any]

FLOORS = {
    (ours.DEFAULT, peers.MONAI): (3.0, 50.0),
    (ours.DEFAULT, peers.MONAI_TUNED): (3.0, 50.0),
    (ours.DEFAULT, peers.MONAI_WORKERS): (3.0, 50.0),
    (ours.DEFAULT, peers.NNUNET): (1.7, 12.0),
}
"""How many times as many large and small patches a second as a peer we want to draw, as `segkit train` does."""

FIRST_PATCH_SECONDS = 0.1
"""The longest that the first patch of a prepared store may take."""

STEP_FLOORS = {"vnet": 3.0, "unet3d-residual": 2.0, "densenet3d": 2.2}
"""How many times as fast as MedicalZoo's a step in bf16 is to be, on a CPU that computes in bf16."""

FLOOR_SIDES = ("segkit bf16", "MedicalZoo fp32")

_READING = """\
Each side is in a process of its own. A figure is the median of {rounds} rounds of all sides in turn, with the least and
the most; ratios are taken round by round. Floors stand below their table, met or missed.

Patches hold labelled tissue, two channels and the label, and are drawn from eight heads of 256x192x144. segkit draws
them from its store: one after the other, and some threads ahead; `segkit train` has one thread ahead. MONAI draws them
as its tutorials do, by `CacheDataset`, `RandCropByPosNegLabeld` and `DataLoader`. *Tuned*, it finds the foreground once
(`FgBgToIndicesd`), does not copy what it has cached, and does not start anew after each round through the heads; then
with two workers too, and with four patches of each head that it turns to. nnU-Net's own loader draws from its own files
with foreground forced. MedicalZoo's loader reads patches that it has written before; *making* is how it writes them.

A step is forward, Dice, backward and SGD. segkit's are those of `segkit train --recipe thesis`, with the drawing of the
patches. MONAI's loop trains the same network with MONAI's Dice in plain eager torch, and MedicalZoo's trains its own
network of the same kind with its own Dice, both on one batch of noise."""


def patch_report(results: Mapping[str, Result], sizes: Sequence[Size], judged: bool) -> Report:
    """Rows and ratios of what the sides of the patches handed over; floors are for the full sizes."""
    large, small = (format_size(size) for size in sizes)
    rates: dict[str, dict[str, list[float]]] = {}
    rows: list[Report] = []
    for name, result in results.items():
        if result.failed:
            rows.append({"side": name, "failed": result.failed})
            continue
        firsts = [figures["first_patch_seconds"] for figures in result.rounds if "first_patch_seconds" in figures]
        seconds = {key: round(value, 3) for key, value in result.first.items()}
        if firsts:
            seconds["first_patch_seconds"] = round(statistics.median(firsts), 4)
        ways = [way for way, figures in result.rounds[0].items() if isinstance(figures, Mapping)]
        for way in ways:
            rates[way] = {size: [figures[way][size] for figures in result.rounds] for size in (large, small)}
            rows.append(
                {
                    "side": way,
                    "patches_per_second": {size: _spread(values) for size, values in rates[way].items()},
                    "seconds": seconds,
                    "peak_mib": result.peak_mib,
                }
            )
    ratios = []
    for way, figures in rates.items():
        if way in ours.WAYS:
            continue
        for mine in [mine for mine in ours.WAYS if mine in rates]:
            for number, size in enumerate((large, small)):
                pairs = zip(rates[mine][size], figures[size], strict=True)
                floors = FLOORS.get((mine, way)) if judged else None
                ratios.append(_ratio(size, mine, way, [a / b for a, b in pairs], floors[number] if floors else None))
    return {"rows": rows, "ratios": ratios}


def step_report(results: Mapping[str, Result], net: Net, judged: bool) -> list[Report]:
    """A row for each side of the training steps of a net, with ratios to our sides; floors are for the full sizes."""
    times = {name: [figures["seconds"] for figures in result.rounds] for name, result in results.items()}
    rows = []
    for name, result in results.items():
        common: Report = {"model": net.model, "input": net.shape, "side": name}
        if result.failed:
            rows.append({**common, "failed": result.failed})
            continue
        others = [] if name.startswith("segkit") else [mine for mine in results if mine.startswith("segkit")]
        ratios = []
        for mine in others:
            pairs = zip(times[mine], times[name], strict=False)  # a side that failed has none
            floor = STEP_FLOORS[net.model] if judged and (mine, name) == FLOOR_SIDES else None
            if times[mine]:
                ratios.append(_ratio(net.model, mine, name, [theirs / own for own, theirs in pairs], floor))
        rows.append({**common, "seconds": _spread(times[name]), "peak_mib": result.peak_mib, "ratios": ratios})
    return rows


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 3),
        "least": round(min(values), 3),
        "most": round(max(values), 3),
    }


def _ratio(work: str, mine: str, peer: str, values: Sequence[float], floor: float | None) -> Report:
    """How many times as fast ours is: the median of the rounds' ratios, and their spread."""
    met = None if floor is None else statistics.median(values) >= floor
    return {"work": work, "ours": mine, "peer": peer, "ratio": _spread(values), "floor": floor, "met": met}


Table = tuple[str, list[Report], list[str]]
"""Its title, its lines, and what is to be said below it."""


def print_report(report: Report) -> None:
    """Tables for people."""
    for title, lines, notes in _tables(report):
        print_table(lines, title=title)
        for note in notes:
            click.echo(note)


def render_markdown(report: Report) -> str:
    """The page of a report, such as docs/training.md."""
    machine = report["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    parts = [
        "# Training, beside other software",
        f"From `segkit bench training` on {machine['cpu']}, {machine['cores']} cores, {report['created'][:10]}; "
        f"{versions}.",
        _READING.format(rounds=report["repeats"]),
    ]
    for title, lines, notes in _tables(report):
        parts += [f"## {title.capitalize()}", markdown_table(lines), "\n".join(f"- {note}" for note in notes)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _tables(report: Report) -> Iterator[Table]:
    if "patches" in report:
        yield _patch_table(**report["patches"])
    if "steps" in report:
        title, lines, notes = _step_table(report["steps"], report["machine"])
        if "bf16" not in report["precisions"]:
            notes.append("not measured: bf16; --precision bf16 measures it, however long that takes")
        yield title, lines, notes


def _patch_table(rows: Sequence[Report], ratios: Sequence[Report]) -> Table:
    measured = [row for row in rows if "failed" not in row]
    notes = []
    for row in measured:
        if row["side"] == ours.DEFAULT:
            taken = row["seconds"]["first_patch_seconds"]
            met = "met" if taken < FIRST_PATCH_SECONDS else "missed"
            notes.append(f"first patch of a store: {taken:.3f} s, wanted below {FIRST_PATCH_SECONDS}: {met}")
    return (
        "patches, batch 1",
        [_patch_line(row, ratios) for row in measured],
        [*notes, *_floors(ratios), *_failures(rows)],
    )


def _step_table(rows: Sequence[Report], machine: Report) -> Table:
    lines = [_step_line(row) for row in rows if "failed" not in row]
    columns = dict.fromkeys(key for line in lines for key in line)
    peak = machine["gemm_gflops_per_second"] or {}
    products = ", ".join(f"{name} products at {value:,.0f} GFLOP/s" for name, value in peak.items())
    capabilities = ", ".join(machine["capabilities"]) or "instructions not known"
    floors = _floors([ratio for row in rows for ratio in row.get("ratios", [])])
    return (
        "training steps, seconds",
        [{key: line.get(key) for key in columns} for line in lines],
        [
            f"{machine['cpu']}, {machine.get('threads')} threads, {capabilities}; {products}",
            *floors,
            *_failures(rows),
        ],
    )


def _floors(ratios: Sequence[Report]) -> list[str]:
    return [
        f"{ratio['work']}, {ratio['ours']} over {ratio['peer']}: {_text(ratio['ratio'])} x, wanted "
        f"{ratio['floor']:g}: {'met' if ratio['met'] else 'missed'}"
        for ratio in ratios
        if ratio["floor"]
    ]


def _failures(rows: Sequence[Report]) -> list[str]:
    return [
        f"not measured: {row.get('model', 'patches')}, {row['side']}: {row['failed']}"
        for row in rows
        if "failed" in row
    ]


def _patch_line(row: Report, ratios: Sequence[Report]) -> Report:
    line: Report = {"side": row["side"]}
    for size, spread in row["patches_per_second"].items():
        line[f"{size} a second"] = _text(spread)
        line[f"{ours.DEFAULT} is x ({size})"] = next(
            (
                _text(r["ratio"])
                for r in ratios
                if (r["work"], r["ours"], r["peer"]) == (size, ours.DEFAULT, row["side"])
            ),
            None,
        )
    seconds = row["seconds"]
    return {
        **line,
        "first patch, s": seconds.get("first_patch_seconds"),
        "with making the store, s": seconds.get("prepare_and_first_patch_seconds"),
        "peak MiB": row["peak_mib"],
    }


def _step_line(row: Report) -> Report:
    line: Report = {"model": row["model"], "input": row["input"], "side": row["side"], "a step": _text(row["seconds"])}
    line["peak MiB"] = row["peak_mib"]
    return line | {f"{ratio['ours']} is x": _text(ratio["ratio"]) for ratio in row["ratios"]}


def _text(spread: Mapping[str, float]) -> str:
    return f"{spread['median']:.3g} ({spread['least']:.3g}-{spread['most']:.3g})"
