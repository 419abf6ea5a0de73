"""The plots of the HTML report: latency against memory, predicted against measured memory, roofline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from segkit.volume import format_size
from segkit_benchmarks.html_report_files import ProfileFile
from segkit_benchmarks.html_report_parts import (
    Column,
    Figure,
    Section,
    Table,
    figure_cell,
    significant_cell,
    text_cell,
)
from segkit_benchmarks.html_report_svg import Axis, Bar, Line, Series, bars, fit_axis, scatter
from segkit_benchmarks.html_report_table1 import COMMAND
from segkit_benchmarks.table1_result import Cell as Measured
from segkit_benchmarks.table1_result import Row, Table1

_PARTS = (
    ("weights_mib", "weights"),
    ("gradients_mib", "gradients"),
    ("activations_mib", "activations"),
    ("optimizer_mib", "optimizer"),
    ("temporaries_mib", "temporaries"),
)


def latency_section(table: Table1 | None, profiles: Sequence[ProfileFile]) -> Section:
    """Latency against memory of each network on each runtime."""
    title = "Latency against memory"
    points = [*(_table_points(table) if table else ()), *_profile_points(profiles)]
    if not points:
        return Section(
            name="latency", title=title, missing="Nothing was timed in this folder.", command="segkit profile BUNDLE"
        )
    kinds = list(dict.fromkeys(kind for _, kind, _, _ in points))
    series = [
        Series(
            name=kind,
            points=[(p50, peak) for _, of, p50, peak in points if of == kind],
            names=[f"{net}, {kind}: {p50:,.0f} ms, {peak:,.0f} MiB" for net, of, p50, peak in points if of == kind],
            style=style,
        )
        for style, kind in enumerate(kinds)
    ]
    nets = dict.fromkeys(net for net, *_ in points)
    paths = [sorted((p50, peak) for of, _, p50, peak in points if of == net) for net in nets]
    axes = (
        fit_axis("median latency of a patch, ms", [point[2] for point in points], log=True),
        fit_axis("largest resident memory, MiB", [point[3] for point in points], log=True),
    )
    fastest = min(points, key=lambda point: point[2])
    plot = scatter(
        "latency-plot",
        "Median latency of a patch against the largest resident memory of the process",
        f"{len(points)} networks on {len(kinds)} runtimes. Fastest: {fastest[0]} on {fastest[1]}, "
        f"{fastest[2]:,.0f} ms. The table beside holds every point.",
        axes,
        series,
        labels=[(*path[0], net) for net, path in zip(nets, paths, strict=True)],
        paths=[path for path in paths if len(path) > 1],
    )
    beside = Table(
        caption="Median latency and memory",
        columns=[
            Column(title="network", figures=False),
            Column(title="runtime", figures=False),
            Column(title="median", unit="ms"),
            Column(title="memory", unit="MiB"),
        ],
        rows=[
            [text_cell(net), text_cell(kind), significant_cell(p50), figure_cell(peak, 0)]
            for net, kind, p50, peak in points
        ],
    )
    caption = "Down and to the left is better. Lines join the runtimes of one network; memory counts libraries too."
    figure = Figure(plots=[plot], caption=caption, table=beside)
    return Section(name="latency", title=title, lead="Batch 1, each in a process of its own.", blocks=[figure])


def memory_section(table: Table1 | None) -> Section:
    """Training memory, predicted in parts, against what a step took."""
    title = "Predicted against measured memory"
    rows = [(row, found) for row in table.rows if (found := row.predicted_at(row.patch))] if table else []
    if not rows:
        return Section(name="memory", title=title, missing="No prediction of training memory here.", command=COMMAND)
    measured = {row.model: row.training.measured_mib if row.training else None for row, _ in rows}
    plot = bars(
        "memory-plot",
        "Predicted memory of a training step by what it holds, and the measured memory",
        f"One bar for each of {len(rows)} networks. The table beside holds every figure.",
        "training step, MiB",
        [
            Bar(
                name=row.model.removeprefix("densenet3d-") if len(row.model) > 18 else row.model,
                parts=[(style, text, getattr(found, key)) for style, (key, text) in enumerate(_PARTS)],
                mark=measured[row.model],
            )
            for row, found in rows
        ],
        "measured",
    )
    beside = Table(
        caption="Memory of a training step, MiB",
        columns=[
            Column(title="network", figures=False),
            *(Column(title=text, unit="MiB", group="predicted") for _, text in _PARTS),
            Column(title="total", unit="MiB", group="predicted"),
            Column(title="step", unit="MiB", group="measured"),
            Column(title="measured / predicted", group="measured"),
        ],
        rows=[
            [
                text_cell(row.model, note=format_size(row.patch)),
                *(figure_cell(getattr(found, key), 0) for key, _ in _PARTS),
                figure_cell(found.total_mib, 0),
                figure_cell(measured[row.model], 0),
                figure_cell(_ratio(measured[row.model], found.total_mib), 2),
            ]
            for row, found in rows
        ],
        notes=list(dict.fromkeys(f"Measured: {how}." for row, _ in rows if (how := _measured_how(row)))),
    )
    caption = "Bars are predicted before anything runs, triangles are what a step then took. Batch 1, fp32, SGD."
    return Section(name="memory", title=title, blocks=[Figure(plots=[plot], caption=caption, table=beside)])


def roofline_section(table: Table1 | None) -> Section:
    """Speed against arithmetic intensity, below what the machine can do."""
    title = "Roofline"
    points = list(_roofline_points(table)) if table else []
    if not points:
        return Section(name="roofline", title=title, missing="No measured GFLOP/s here.", command=COMMAND)
    assert table is not None  # noqa: S101 - it has points
    kinds = list(dict.fromkeys(_kind(cell) for _, cell, _ in points))
    roofs = [
        (device, peak["gemm_gflops_per_second"], peak.get("copy_gb_per_second"))
        for device, peak in table.peaks.items()
        if "gemm_gflops_per_second" in peak
    ]
    lowest, highest = min(at for *_, at in points), max(at for *_, at in points)
    speeds = [cell.gflops_per_second or 0.0 for _, cell, _ in points] + [gemm for _, gemm, _ in roofs]
    ridges = [gemm / copy for _, gemm, copy in roofs if copy]
    axes = (
        fit_axis("arithmetic intensity, FLOP per byte", [lowest, highest, *(0.6 * at for at in ridges)], log=True),
        fit_axis("GFLOP/s", speeds, log=True),
    )
    lines = [Line(name=f"fp32 GEMM peak, {device}", points=_roof(axes, gemm, copy)) for device, gemm, copy in roofs]
    plot = scatter(
        "roofline-plot",
        "GFLOP/s reached against arithmetic intensity, below the machine's roofs",
        f"{len(points)} measurements below the measured fp32 GEMM peak "
        f"of {', '.join(f'{gemm:,.0f} GFLOP/s on {device}' for device, gemm, _ in roofs) or 'no device'}.",
        axes,
        [
            Series(
                name=kind,
                style=style,
                points=[(at, cell.gflops_per_second or 0.0) for _, cell, at in points if _kind(cell) == kind],
                names=[
                    f"{row.model}, {kind}: {cell.gflops_per_second:,.0f} GFLOP/s at {at:,.0f} FLOP per byte"
                    for row, cell, at in points
                    if _kind(cell) == kind
                ],
            )
            for style, kind in enumerate(kinds)
        ],
        lines=lines,
        labels=_top_labels(points),
    )
    caption = (
        "Intensity counts each layer's inputs, outputs and weights as moved once, none fused; a runtime that fuses "
        "layers moves less, and may lie above the slope. Winograd convolutions do fewer operations than are counted."
    )
    return Section(name="roofline", title=title, blocks=[Figure(plots=[plot], caption=caption, table=_speeds(points))])


def _speeds(points: Sequence[tuple[Row, Measured, float]]) -> Table:
    return Table(
        caption="Speed and intensity",
        columns=[
            Column(title="network", figures=False),
            Column(title="runtime", figures=False),
            Column(title="intensity", unit="FLOP/byte"),
            Column(title="speed", unit="GFLOP/s"),
            Column(title="of GEMM peak", unit="%"),
        ],
        rows=[
            [
                text_cell(row.model),
                text_cell(_kind(cell)),
                figure_cell(at, 1),
                figure_cell(cell.gflops_per_second, 1),
                figure_cell(cell.gemm_share, 0, scale=100),
            ]
            for row, cell, at in points
        ],
    )


def _ratio(one: float | None, other: float) -> float | None:
    return None if one is None or not other else one / other


def _measured_how(row: Row) -> str | None:
    return row.training.measured_is if row.training else None


def _kind(cell: Measured) -> str:
    return f"{cell.runtime} {cell.precision}"


def _table_points(table: Table1) -> Iterator[tuple[str, str, float, float]]:
    for row in table.rows:
        for cell in row.cells:
            if cell.timing and cell.peak_mib:
                yield row.model, _kind(cell), cell.timing.p50_ms, cell.peak_mib


def _profile_points(profiles: Sequence[ProfileFile]) -> Iterator[tuple[str, str, float, float]]:
    for profile in profiles:
        for row in profile.runtimes:
            if row.p50_ms and row.peak_mib:
                yield profile.bundle, f"{row.runtime} {row.precision}", row.p50_ms, row.peak_mib


def _roofline_points(table: Table1) -> Iterator[tuple[Row, Measured, float]]:
    for row in table.rows:
        for cell in row.cells if row.network else ():
            if cell.gflops_per_second and row.network:
                yield row, cell, 2 * row.network.macs / (row.network.moved_mib * 2**20)


def _roof(axes: tuple[Axis, Axis], gemm: float, copy: float | None) -> list[tuple[float, float]]:
    """The GEMM peak, and before it the slope of what copies can feed; cut off where the plot ends."""
    left, right, low = axes[0].low, axes[0].high, axes[1].low
    if not copy:
        return [(left, gemm), (right, gemm)]
    start = max(left, low / copy)
    return [(start, min(gemm, copy * start)), (min(right, gemm / copy), gemm), (right, gemm)]


def _top_labels(points: Sequence[tuple[Row, Measured, float]]) -> list[tuple[float, float, str]]:
    """A name at the fastest point of each network."""
    tops: dict[str, tuple[float, float, str]] = {}
    for row, cell, at in points:
        speed = cell.gflops_per_second or 0.0
        if row.model not in tops or speed > tops[row.model][1]:
            tops[row.model] = (at, speed, row.model)
    return list(tops.values())
