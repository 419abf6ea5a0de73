"""Sections of the HTML report that are made of trainings and exports: Dice, curves, proofs, profiles."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from segkit.volume import format_size
from segkit_benchmarks.html_report_files import DscFile, DscRow, ExportRow, ExportsFile, ProfileFile
from segkit_benchmarks.html_report_parts import (
    NOTHING,
    Cell,
    Column,
    Figure,
    Section,
    Table,
    figure_cell,
    reason_cell,
    significant_cell,
    text_cell,
)
from segkit_benchmarks.html_report_results import TrainedRun
from segkit_benchmarks.html_report_svg import Axis, Plot, Series, curves, fit_axis

_STATUS = {
    "proven": ("✓ proven", "good", 3),
    "built, not run": ("○ built", "", 2),
    "not proven": ("✗ not proven", "bad", 1),
    "failed": ("✗ failed", "bad", 0),
}


def dsc_section(files: Sequence[DscFile]) -> Section:
    """The Dice tables of the thesis, ours beside theirs."""
    title = "Dice, ours and the thesis'"
    if not files:
        return Section(
            name="dsc",
            title=title,
            missing="No Dice tables in this folder.",
            command="segkit bench dsc --data phantom --quick",
        )
    blocks = [_dsc_table(file, table) for file in files for table in dict.fromkeys(row.table for row in file.rows)]
    lead = (
        "Ours is hard Dice of the whole held-out subject; the thesis prints soft Dice of random patches of real heads. "
        "Phantoms all descend from one average head: they are easier than real ones."
    )
    return Section(name="dsc", title=title, lead=lead, blocks=blocks)


def _dsc_table(file: DscFile, table: str) -> Table:
    rows = [row for row in file.rows if row.table == table]
    names = list(dict.fromkeys(name for row in rows for name in row.thesis))
    data = ", ".join(dict.fromkeys(row.dataset for row in rows))
    columns = [Column(title="network", figures=False)]
    for name in names:
        columns += [Column(title="then", unit="%", group=name, side="then"), Column(title="now", unit="%", group=name)]
    columns += [
        Column(title="ours on", figures=False, group="training"),
        Column(title="steps", group="training"),
        Column(title="minutes", group="training"),
    ]
    return Table(
        caption=f"{table}: now on {data}, protocol {file.protocol!r}",
        columns=columns,
        rows=[_dsc_row(row, names) for row in rows],
        notes=[f"{file.convention}. {file.minutes:g} minutes of training in all."],
    )


def _dsc_row(row: DscRow, names: Sequence[str]) -> list[Cell]:
    cells = [text_cell(row.model, note=f"thesis: {row.row}")]
    for name in names:
        ours = (row.ours or {}).get(name, math.nan)
        cells.append(figure_cell(row.thesis.get(name), 2))
        cells.append(reason_cell(row.failed) if row.failed else figure_cell(_known(ours), 2))
    where = f"{row.dataset} {', '.join(row.held_out)}"
    return [
        *cells,
        text_cell(where, note=", ".join(row.modalities)),
        figure_cell(row.steps, 0),
        figure_cell(row.seconds and row.seconds / 60, 1),
    ]


def evaluation_section(runs: Sequence[TrainedRun]) -> Section:
    """Scores of whole volumes, one table for each evaluated run."""
    title = "Scores on whole volumes"
    scored = [run for run in runs if run.scores]
    if not scored:
        return Section(name="scores", title=title, missing="No run was evaluated.", command="segkit evaluate RUN")
    lead = "Mean over subjects; ± is the standard deviation, of two subjects or more. HD95 in millimetres."
    return Section(name="scores", title=title, lead=lead, blocks=[_score_table(run) for run in scored])


def _score_table(run: TrainedRun) -> Table:
    scores = run.scores
    assert scores is not None  # noqa: S101 - chosen so
    metrics = {
        "dice": ("Dice", "%", 100.0),
        "hd95_mm": ("HD95", "mm", 1.0),
        "surface_dice": (f"surface Dice at {scores.tolerance_mm:g} mm", "%", 100.0),
        "volume_similarity": ("volume similarity", "%", 100.0),
    }
    rows = []
    for structure in scores.mean:
        cells = [text_cell(structure)]
        for metric, (_, _, scale) in metrics.items():
            found = scores.statistic(metric, structure)
            spread = f"± {scale * found.sd:.2f}" if found and found.sd is not None else ""
            cells.append(figure_cell(found.mean if found else None, 2, scale=scale, note=spread))
        rows.append(cells)
    names = ", ".join(str(subject["subject"]) for subject in scores.subjects)
    mean = NOTHING if scores.foreground_mean is None else f"{100 * scores.foreground_mean:.2f} %"
    return Table(
        caption=f"{run.name}: {len(scores.subjects)} subjects, foreground mean {mean}",
        columns=[
            Column(title="structure", figures=False),
            *(Column(title=title, unit=unit) for title, unit, _ in metrics.values()),
        ],
        rows=rows,
        notes=[f"Subjects: {names}. Surfaces as in {scores.surface_convention}."],
    )


def curves_section(runs: Sequence[TrainedRun]) -> Section:
    """Learning curves of each run: losses, and Dice of whole held-out volumes."""
    title = "Learning curves"
    if not runs:
        return Section(
            name="curves", title=title, missing="No run with an epoch here.", command="segkit train ... --out DIR/run"
        )
    lead = "Losses are means of an epoch; Dice is hard, of whole volumes that were held out."
    return Section(
        name="curves", title=title, lead=lead, blocks=[_curves(number, run) for number, run in enumerate(runs)]
    )


def _curves(number: int, run: TrainedRun) -> Figure:
    classes = [key for key in run.epochs[0] if key.startswith("dice_") and key != "dice_background"]
    dices = {"mean": "mean_dice", **{key.removeprefix("dice_"): key for key in classes}}
    losses = {"training": "loss", "validation": "validation_loss"}
    best = max(run.epochs, key=lambda row: row["mean_dice"])
    table = Table(
        caption=f"Epochs of {run.name}",
        columns=[
            Column(title="epoch"),
            *(Column(title=name, unit="%", group="Dice") for name in dices),
            *(Column(title=name, group="loss") for name in losses),
        ],
        rows=[
            [
                figure_cell(row["epoch"], 0),
                *(figure_cell(_known(row[key]), 2, scale=100) for key in dices.values()),
                *(figure_cell(_known(row[key]), 4) for key in losses.values()),
            ]
            for row in run.epochs
        ],
    )
    plots = [
        _curve(f"curve-{number}-dice", "Dice, %", run, dices, 100.0),
        _curve(f"curve-{number}-loss", "loss", run, losses, 1.0),
    ]
    caption = f"{run.name}: best mean Dice {100 * best['mean_dice']:.2f} %, in epoch {best['epoch']}"
    return Figure(plots=[plot for plot in plots if plot], caption=caption, table=table)


def _curve(name: str, label: str, run: TrainedRun, keys: Mapping[str, str], scale: float) -> Plot | None:
    """Curves of some columns of the log; None where none of them has a value."""
    series = [
        Series(name=title, points=points, style=style)
        for style, (title, key) in enumerate(keys.items())
        if (points := [(float(row["epoch"]), scale * row[key]) for row in run.epochs if _known(row[key]) is not None])
    ]
    if not series:
        return None
    epochs = [row["epoch"] for row in run.epochs]
    across = Axis(label="epoch", low=min(0.0, epochs[0] - 1.0), high=float(epochs[-1]))
    values = [y for one in series for _, y in one.points]
    up = Axis(label=label, low=0, high=100) if scale > 1 else fit_axis(label, values, zero=min(values) >= 0)
    ends = ", ".join(f"{one.name} {one.points[-1][1]:.3g}" for one in series)
    description = f"{len(epochs)} epochs. At the end: {ends}."
    return curves(name, f"{label} of {run.name} by epoch", description, (across, up), series)


def _known(value: float) -> float | None:
    """None for NaN, the Dice of a class that is nowhere, and for a loss that was not taken."""
    return None if math.isnan(value) else value


def exports_section(files: Sequence[ExportsFile]) -> Section:
    """Which network is proven in which precision on which runtime."""
    title = "What is proven"
    if not files:
        return Section(
            name="exports",
            title=title,
            missing="No proofs of exports in this folder.",
            command="segkit bench exports RUN --out DIR",
        )
    lead = (
        "Every file and runtime is held against torch in fp32 on whole volumes. The figure is the share of voxels with "
        "the same label. Emulated: rounded to the precision in ONNX Runtime. Engines for TensorRT are built, not run."
    )
    return Section(name="exports", title=title, lead=lead, blocks=[_exports_table(file) for file in files])


def _exports_table(file: ExportsFile) -> Table:
    ways = sorted(
        dict.fromkeys((row.precision, row.runtime) for row in file.rows if row.runtime != "-"),
        key=lambda way: (["fp32", "tf32", "fp16", "bf16", "int8"].index(way[0]), way[1]),
    )
    sources = dict.fromkeys((row.source, row.trained) for row in file.rows)
    rows = []
    for source, trained in sources:
        found = {(row.precision, row.runtime): row for row in file.rows if row.source == source}
        rows.append(
            [
                text_cell(source, note="trained" if trained else "random weights"),
                *(_export_cell(found.get(way)) for way in ways),
            ]
        )
    reasons = [
        f"{row.source}, {row.precision} on {row.runtime}: {row.reason}"
        for row in file.rows
        if row.reason and row.status != "built, not run"
    ]
    versions = ", ".join(f"{name} {version}" for name, version in file.versions.items())
    columns = [Column(title="network", figures=False)]
    columns += [
        Column(title=runtime.replace(", emulated", " emulated"), group=precision, figures=False)
        for precision, runtime in ways
    ]
    return Table(
        caption=f"{len(sources)} networks, {len(file.rows)} proofs and engines",
        columns=columns,
        rows=rows,
        notes=[*reasons, f"Versions: {versions}."],
    )


def _export_cell(row: ExportRow | None) -> Cell:
    if row is None:
        return Cell(text="not tried", kind="missing")
    text, kind, rank = _STATUS.get(row.status, (row.status, "missing", 0))
    share = row.label_agreement
    return Cell(
        text=text,
        value=rank + (share or 0.0),
        kind=kind,
        note="" if share is None else f"{100 * share:.4f} %",
    )


def profiles_section(files: Sequence[ProfileFile]) -> Section:
    """What each bundle costs on this machine."""
    title = "Profiles of bundles"
    if not files:
        return Section(name="profiles", title=title, missing="No bundle was profiled.", command="segkit profile BUNDLE")
    return Section(name="profiles", title=title, blocks=[_profile_table(file) for file in files])


def _profile_table(file: ProfileFile) -> Table:
    network = file.network
    return Table(
        caption=f"{file.bundle}: {network.model}, {network.parameters:,} parameters, "
        f"{network.macs / 1e9:,.1f} G MACs a patch of {format_size(network.patch)}, {file.onnx_mib:g} MiB of ONNX",
        columns=[
            Column(title="runtime", figures=False),
            Column(title="precision", figures=False),
            Column(title="load", unit="s"),
            Column(title="first run", unit="ms"),
            Column(title="p50", unit="ms"),
            Column(title="p95", unit="ms"),
            Column(title="p99", unit="ms"),
            Column(title="runs"),
            Column(title="GFLOP/s"),
            Column(title="memory", unit="MiB"),
        ],
        rows=[
            [
                text_cell(row.runtime, note=row.version),
                text_cell(row.precision),
                significant_cell(row.load_seconds),
                significant_cell(row.first_run_ms),
                reason_cell(row.failed) if row.failed else significant_cell(row.p50_ms),
                significant_cell(row.p95_ms),
                significant_cell(row.p99_ms),
                figure_cell(row.runs or None, 0),
                significant_cell(row.gflops_per_second),
                figure_cell(row.peak_mib, 0),
            ]
            for row in file.runtimes
        ],
        notes=[f"{file.method}. Machine: {file.machine.get('cpu')}, {file.machine.get('cores')} cores."],
    )
