"""A result of `segkit bench table1` as a page, as a sheet, and on a terminal."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from segkit.cli.output import print_table
from segkit.volume import format_size
from segkit_benchmarks.table1_lines import Line, cost_line, network_line, predicted_line, speed_line, training_line
from segkit_benchmarks.table1_result import Row, Table1


def render_markdown(table: Table1) -> str:
    """The page of a result, such as docs/table1.md."""
    parts = [
        "# Table 1, then and now",
        _provenance(table),
        "Where two figures stand in one field, ours is the first and the printed one of the thesis the second. "
        "What the thesis did not print has one. All networks have four classes; the thesis trained on a GTX 1080.",
        "## Networks",
        markdown_table([network_line(row, table) for row in table.rows]),
        "Layers by two rules: " + "; ".join(f"*{name}*: {rule}" for name, rule in table.layer_rules.items()) + ".",
        "## Memory of training, predicted",
        "Tensors at the peak of a step, told without running it: a lower bound, fp32, batch 1, SGD with momentum. "
        "Gradients are near zero where the peak lies at the start of the backward pass.",
        markdown_table([predicted_line(row, found) for row in table.rows for found in row.predicted]),
        "## Training, measured",
        markdown_table([training_line(row) for row in table.rows]),
        "## Speed of inference",
        _peaks(table),
        markdown_table([speed_line(row, cell) for row in table.rows for cell in row.cells]),
        "## What inference takes",
        "Process peak: with libraries; of an engine that was not run, of its build. Device: activations and weights.",
        markdown_table([cost_line(row, cell) for row in table.rows for cell in row.cells]),
        "## Where ours and the printed figures differ",
        _reasons(table),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def render_csv(table: Table1) -> str:
    """All figures of all cells, one line each, with those of the network and its training repeated."""
    lines = [line for row in table.rows for line in _sheet_lines(row)]
    columns = dict.fromkeys(key for line in lines for key in line)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def print_table1(table: Table1) -> None:
    """Print the tables for people."""
    print_table([network_line(row, table) for row in table.rows], title="networks: ours | thesis")
    click.echo()
    print_table([training_line(row) for row in table.rows], title="training, batch 1, fp32: ours | thesis")
    click.echo()
    print_table(
        [speed_line(row, cell) for row in table.rows for cell in row.cells], title="inference, batch 1, random weights"
    )
    click.echo(f"\n{_peaks(table)}")


def _sheet_lines(row: Row) -> Iterator[Line]:
    network = row.network.model_dump() if row.network else {}
    layers = {f"layers_{rule}": count for rule, count in network.pop("layers", {}).items()}
    training = row.training.model_dump(exclude={"timing"}) if row.training else {}
    if row.training and row.training.timing:
        training["step_p50_ms"] = row.training.timing.p50_ms
    printed = row.printed.model_dump() if row.printed else {}
    common: Line = {
        "model": row.model,
        "patch": format_size(row.patch),
        "channels": row.channels,
        **network,
        **layers,
        **{f"training_{name}": value for name, value in training.items()},
        **{f"predicted_training_{name}": value for name, value in _first_prediction(row).items()},
        **{
            f"thesis_{name}": value if not isinstance(value, dict | list) else json.dumps(value)
            for name, value in printed.items()
        },
    }
    for cell in row.cells:
        timing = cell.timing.model_dump(exclude={"times_ms"}) if cell.timing else {}
        accuracy = cell.accuracy.model_dump() if cell.accuracy else {}
        yield {**common, **cell.model_dump(exclude={"timing", "accuracy"}), **timing, **accuracy}
    if not row.cells:
        yield common


def _first_prediction(row: Row) -> Mapping[str, Any]:
    found = row.predicted_at(row.patch)
    return found.model_dump(exclude={"patch"}) if found else {}


def _provenance(table: Table1) -> str:
    machine, settings = table.machine, table.settings
    versions = ", ".join(f"{name} {version}" for name, version in table.versions.items())
    capabilities = ", ".join(machine.get("capabilities", [])) or "instructions not known"
    kind = "quick form, smaller patches and fewer runs" if settings.quick else "full form"
    cells = [cell for row in table.rows for cell in row.cells]
    loads = [cell.load_average for cell in cells if cell.load_average is not None]
    load = f"load average {min(loads):.1f} to {max(loads):.1f} before the cells" if loads else "load not told"
    return (
        f"From `segkit bench table1` ({kind}), {table.created[:10]}, {table.minutes:.0f} minutes, segkit "
        f"{table.segkit_version}; {versions}.\n\n"
        f"{machine['cpu']} ({capabilities}), {machine['cores']} cores, {machine.get('memory_mib') or '?'} MiB, "
        f"{machine['system']}, Python {machine['python']}; {settings.threads} threads on cores "
        f"{', '.join(map(str, settings.cores))}, CPU governor {machine.get('governor')}, {load}.\n\n"
        f"Method: {table.method}. Here: {settings.rounds} rounds, up to {settings.runs} runs or {settings.seconds:g} s "
        "a cell."
    )


def _peaks(table: Table1) -> str:
    if not table.peaks:
        return f"The machine's own peak was not measured: {table.peaks_reason}."
    return "; ".join(
        f"{device}: fp32 products of 2048 x 2048 matrices at {peak['gemm_gflops_per_second']:,.0f} GFLOP/s (the GEMM "
        f"peak), copies at {peak['copy_gb_per_second']:.1f} GB/s"
        for device, peak in table.peaks.items()
    )


def _reasons(table: Table1) -> str:
    return "\n".join(
        f"- {quantity}, {', '.join(models)}: {reason}." for (quantity, reason), models in table.reasons().items()
    )


def markdown_table(lines: Sequence[Line]) -> str:
    """A table in Markdown; its columns are the keys of all lines, and a dash stands for None."""
    if not lines:
        return "Nothing yet."
    columns = list(dict.fromkeys(key for line in lines for key in line))
    rows = [columns, ["---"] * len(columns), *([line.get(key, "") for key in columns] for line in lines)]
    return "\n".join("| " + " | ".join(_escaped(cell) for cell in row) + " |" for row in rows)


def _escaped(cell: object) -> str:
    return str("-" if cell is None else cell).replace("|", "\\|").replace("\n", " ")
