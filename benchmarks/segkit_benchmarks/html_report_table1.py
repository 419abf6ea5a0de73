"""The tables of the HTML report that are made of table1.json: what networks are, and what they cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from segkit.volume import format_size
from segkit_benchmarks.html_report_parts import (
    NOTHING,
    Cell,
    Column,
    Section,
    Table,
    figure_cell,
    reason_cell,
    significant_cell,
    text_cell,
)
from segkit_benchmarks.table1_result import Cell as Measured
from segkit_benchmarks.table1_result import Row, Table1

COMMAND = "segkit bench table1 --out DIR"

_MIB_PER_GB = 1e9 / 2**20
"""The thesis prints GB; what is measured here is in MiB."""


def table1_section(table: Table1 | None) -> Section:
    """Table 1 of the thesis, with what segkit measures beside every figure that it prints."""
    title = "Table 1, then and now"
    if table is None:
        return Section(name="table1", title=title, missing="No table1.json in this folder.", command=COMMAND)
    lead = (
        "What the thesis printed in 2019 on a GTX 1080 (then), and what segkit counts, predicts and measures (now). "
        "Predicted memory is a lower bound: the tensors of a training step, batch 1, fp32, at the patch of iSEG 2017."
    )
    if table.finished is None:
        lead += f" Not all of it is measured yet: {COMMAND} --resume goes on."
    blocks = [_networks(table), *([_inference(table)] if any(row.cells for row in table.rows) else [])]
    return Section(name="table1", title=title, lead=lead, blocks=blocks)


def _networks(table: Table1) -> Table:
    columns = [
        Column(title="network", figures=False),
        Column(title="then", unit="M", group="parameters", side="then"),
        Column(title="now", unit="M", group="parameters"),
        Column(title="then", group="layers", side="then"),
        Column(title="now", group="layers"),
        Column(title="MACs", unit="G", group="a patch"),
        Column(title="size", unit="voxels", group="a patch", figures=False),
        Column(title="channels", group="a patch"),
        Column(title="then", unit="GB", group="training memory", side="then"),
        Column(title="predicted", unit="GB", group="training memory"),
        Column(title="measured", unit="GB", group="training memory"),
        Column(title="step", unit="ms", group="training time"),
        Column(title="then", unit="h", group="training time", side="then"),
        Column(title="now", unit="h", group="training time"),
    ]
    rules = "; ".join(f"{name.replace('_', ' ')}: {rule}" for name, rule in table.layer_rules.items())
    return Table(
        caption="Networks and their training",
        columns=columns,
        rows=[_network_row(row) for row in table.rows],
        notes=[
            "Two figures of memory are those of iSEG 2017 and MRBrainS 2018, whose patches differ.",
            f"Layers are counted by the rule that fits the thesis' figure. {rules}.",
            *(f"{what.capitalize()} of {', '.join(models)}: {why}" for (what, why), models in table.reasons().items()),
        ],
    )


def _network_row(row: Row) -> list[Cell]:
    printed, network, training = row.printed, row.network, row.training
    thesis_patch = next(iter(printed.patches.values())) if printed else row.patch
    predicted = row.predicted_at(thesis_patch)
    elsewhere = "" if thesis_patch == row.patch else f"at {format_size(row.patch)}"
    name = text_cell(row.model, note=f"thesis: {printed.title}" if printed else "")
    memory = list(dict.fromkeys(printed.memory_gb.values())) if printed else []
    steps = training.steps if training else None
    rule = printed.layer_rule if printed else next(iter(network.layers), "") if network else ""
    failed = reason_cell(row.reason) if row.reason else None
    timing = training.timing if training else None
    unmeasured = reason_cell(training.reason) if training and training.reason else None
    return [
        name,
        figure_cell(printed.parameters_million if printed else None, 1),
        failed or figure_cell(network.parameters / 1e6 if network else None, 2),
        figure_cell(printed.layers if printed else None, 0),
        figure_cell(network.layers.get(rule) if network else None, 0, note=rule.replace("_", " ")),
        significant_cell(network.macs / 1e9 if network else None),
        Cell(text=format_size(row.patch), value=float(row.patch[0] * row.patch[1] * row.patch[2])),
        figure_cell(row.channels, 0),
        figure_cell(
            max(memory, default=None),
            1,
            note=" / ".join(f"{value:g}" for value in memory[:2]) if len(memory) > 1 else "",
        ),
        figure_cell(predicted.total_mib / _MIB_PER_GB if predicted else None, 2),
        unmeasured
        or figure_cell(
            training.measured_mib / _MIB_PER_GB if training and training.measured_mib else None,
            2,
            note=elsewhere or (training.device if training else None) or "",
        ),
        significant_cell(timing.p50_ms, note=elsewhere or f"{timing.runs} runs") if timing else figure_cell(None),
        figure_cell(printed.hours if printed else None, 0),
        significant_cell(training.hours if training else None, note=f"{steps:,} steps" if steps else ""),
    ]


def _inference(table: Table1) -> Table:
    columns = [
        Column(title="network", figures=False),
        Column(title="runtime", figures=False),
        Column(title="precision", figures=False),
        Column(title="build", unit="s", group="before the first run"),
        Column(title="file", unit="MiB", group="before the first run"),
        Column(title="load", unit="s", group="before the first run"),
        Column(title="first run", unit="ms", group="before the first run"),
        Column(title="p50", unit="ms", group="latency of a patch"),
        Column(title="p95", unit="ms", group="latency of a patch"),
        Column(title="p99", unit="ms", group="latency of a patch"),
        Column(title="runs", group="latency of a patch"),
        Column(title="patches/s", group="speed"),
        Column(title="Mvoxel/s", group="speed"),
        Column(title="GFLOP/s", group="speed"),
        Column(title="of GEMM", unit="%", group="speed"),
        Column(title="host, peak", unit="MiB", group="memory"),
        Column(title="device", unit="MiB", group="memory"),
        Column(title="logits within", group="against torch, fp32"),
        Column(title="same labels", unit="%", group="against torch, fp32"),
    ]
    fastest = {
        row.model: min(times) for row in table.rows if (times := [c.timing.p50_ms for c in row.cells if c.timing])
    }
    whys = Counter(f"{cell.status}: {cell.reason}" for row in table.rows for cell in row.cells if cell.reason)
    common = [why for why, count in whys.items() if count > 1]
    rows = [_inference_row(row, cell, fastest.get(row.model), common) for row in table.rows for cell in row.cells]
    return Table(
        caption="Inference, batch 1; the fastest runtime of each network is bold",
        columns=columns,
        rows=rows,
        notes=["Columns that the thesis does not have.", f"{table.method[:1].upper()}{table.method[1:]}.", *common],
    )


def _inference_row(row: Row, cell: Measured, fastest: float | None, common: Collection[str]) -> list[Cell]:
    """A row of the table; a reason that several cells have in common stands below it."""
    timing, accuracy = cell.timing, cell.accuracy
    why = f"{cell.status}: {cell.reason}"
    predicted = [part for part in (cell.predicted_activation_mib, cell.predicted_weights_mib) if part is not None]
    device = cell.device_mib if cell.device_mib is not None else sum(predicted) if predicted else None
    latency = (
        significant_cell(
            timing.p50_ms,
            note=f"{timing.p50_low_ms:.4g} to {timing.p50_high_ms:.4g}",
            kind="best" if timing.p50_ms == fastest else "",
        )
        if timing
        else reason_cell(why if cell.reason and why not in common else cell.status)
    )
    return [
        text_cell(row.model),
        text_cell(cell.runtime, note=cell.version or ""),
        text_cell(cell.precision),
        significant_cell(cell.build_seconds),
        significant_cell(cell.file_mib),
        significant_cell(cell.load_seconds),
        significant_cell(cell.first_run_ms),
        latency,
        significant_cell(timing.p95_ms if timing else None),
        significant_cell(timing.p99_ms if timing else None),
        figure_cell(timing.runs if timing else None, 0),
        significant_cell(cell.patches_per_second),
        significant_cell(cell.voxels_per_second and cell.voxels_per_second / 1e6),
        significant_cell(cell.gflops_per_second),
        figure_cell(cell.gemm_share, 0, scale=100),
        figure_cell(cell.peak_mib, 0),
        figure_cell(device, 0, note="predicted" if predicted and cell.device_mib is None else ""),
        Cell(
            text=f"{accuracy.max_abs_logit_difference:.1e}" if accuracy else NOTHING,
            value=accuracy.max_abs_logit_difference if accuracy else None,
        ),
        figure_cell(accuracy.label_agreement if accuracy else None, 4, scale=100),
    ]
