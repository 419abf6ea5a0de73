"""Lines of the tables of `segkit bench table1`: ours first, what the thesis prints beside it."""

from __future__ import annotations

from typing import Any

from segkit.volume import format_size
from segkit_benchmarks.table1_result import Accuracy, Cell, PredictedTraining, Row, Table1, Timing

_GB_PER_MIB = 2**20 / 1e9

Line = dict[str, Any]


def network_line(row: Row, table: Table1) -> Line:
    """What a network is, beside what the thesis prints."""
    printed, network = row.printed, row.network
    million = network.parameters / 1e6 if network else None
    line: Line = {
        "network": row.model,
        "parameters, M": beside(number(million, 2), printed and f"~{printed.parameters_million:g}")
        + difference(million, printed.parameters_million if printed else None),
    }
    for rule in table.layer_rules:
        theirs = printed.layers if printed and printed.layer_rule == rule else None
        line[f"layers, {rule.replace('_', ' ')}"] = beside(network and network.layers[rule], theirs)
    return {
        **line,
        "patch": format_size(row.patch),
        "modalities": beside(row.channels, printed and ", ".join(map(str, printed.modalities))),
        "GMAC a patch": number(network.macs / 1e9 if network else None, 1),
        "weights, MiB": number(network.weights_mib if network else None, 1),
        **({"why nothing": row.reason} if row.reason else {}),
    }


def predicted_line(row: Row, found: PredictedTraining) -> Line:
    """Predicted memory by kind, beside what the thesis prints for that patch."""
    gigabytes = found.total_mib * _GB_PER_MIB
    theirs = (
        [row.printed.memory_gb[name] for name, patch in row.printed.patches.items() if patch == found.patch]
        if (row.printed)
        else []
    )
    kinds = ("weights", "gradients", "activations", "optimizer", "temporaries", "patches", "total")
    return {
        "network": row.model,
        "patch": format_size(found.patch),
        **{f"{kind}, MiB": number(getattr(found, f"{kind}_mib"), 0) for kind in kinds},
        "total, GB": beside(number(gigabytes, 2), theirs[0] if theirs else None)
        + difference(gigabytes, theirs[0] if theirs else None),
    }


def training_line(row: Row) -> Line:
    """Measured training, beside what the thesis prints and what was predicted."""
    training, printed = row.training, row.printed
    line: Line = {"network": row.model, "patch": format_size(row.patch)}
    if training is None or training.timing is None:
        return {**line, "device": (training and training.reason) or "not measured yet", **dict.fromkeys(_TRAINING, "-")}
    predicted = row.predicted_at(row.patch)
    same = printed and row.patch in printed.patches.values()
    values = (
        f"{training.timing.p50_ms / 1000:.3g} ({_seconds(training.timing.p50_low_ms, training.timing.p50_high_ms)})",
        training.timing.runs,
        beside(number(training.hours, 0), printed and f"{printed.hours:g}" if same else None),
        f"{training.steps:,}",
        number(predicted.total_mib if predicted else None, 0),
        number(training.measured_mib, 0),
        number(training.peak_mib, 0),
        number(training.load_average, 1),
    )
    return {**line, "device": training.device, **dict(zip(_TRAINING, values, strict=True))}


_TRAINING = (
    "a step, s (95 %)",
    "steps timed",
    "hours of the thesis' schedule",
    "its steps",
    "predicted, MiB",
    "measured, MiB",
    "process peak, MiB",
    "load",
)


def speed_line(row: Row, cell: Cell) -> Line:
    """How fast one runtime is in one precision, or why nobody knows."""
    timing = cell.timing
    return {
        **_place(row, cell),
        "p50, ms (95 %)": _median(timing) if timing else "-",
        "p95, ms": _digits(timing.p95_ms) if timing else "-",
        "p99, ms": _digits(timing.p99_ms) if timing else "-",
        "runs": timing.runs if timing else "-",
        "patches/s": _digits(cell.patches_per_second) if cell.patches_per_second else "-",
        "Mvoxel/s": _digits(cell.voxels_per_second / 1e6) if cell.voxels_per_second else "-",
        "GFLOP/s": number(cell.gflops_per_second, 0),
        "of GEMM peak": f"{cell.gemm_share:.0%}" if cell.gemm_share else "-",
        "load": number(cell.load_average, 1),
        "status": cell.status if cell.reason is None else f"{cell.status}: {cell.reason}",
    }


def cost_line(row: Row, cell: Cell) -> Line:
    """What it takes to get there: time, size, memory, and closeness to torch."""
    return {
        **_place(row, cell),
        "build, s": number(cell.build_seconds, 1),
        "file, MiB": number(cell.file_mib, 1),
        "load, s": number(cell.load_seconds, 2),
        "first run, ms": number(cell.first_run_ms, 0),
        "process peak, MiB": number(cell.peak_mib, 0),
        "device, MiB": _device(cell),
        "against torch": _accuracy(cell.accuracy),
    }


def _median(timing: Timing) -> str:
    return f"{_digits(timing.p50_ms)} ({_digits(timing.p50_low_ms)} to {_digits(timing.p50_high_ms)})"


def _place(row: Row, cell: Cell) -> Line:
    return {"network": row.model, "runtime": cell.runtime, "precision": cell.precision}


def _device(cell: Cell) -> str:
    """Device memory: measured, or activations and weights as the builder of an engine predicts them."""
    if cell.device_mib is not None:
        return number(cell.device_mib, 0)
    if cell.predicted_activation_mib is None:
        return "-"
    return f"{cell.predicted_activation_mib:,.0f} + {number(cell.predicted_weights_mib, 0)} predicted"


def _accuracy(accuracy: Accuracy | None) -> str:
    if accuracy is None:
        return "-"
    dice = "" if accuracy.dice_difference is None else f", Dice changes by {accuracy.dice_difference:.5f}"
    return (
        f"logits within {accuracy.max_abs_logit_difference:.1e} of {accuracy.max_abs_logit:.2g}, same labels "
        f"{accuracy.label_agreement:.4%}{dice}"
    )


def beside(ours: object, theirs: object) -> str:
    """Ours and what is printed, in one field."""
    mine = "-" if ours is None else str(ours)
    return mine if theirs is None else f"{mine} / {theirs}"


def difference(ours: float | None, theirs: float | None) -> str:
    """How far ours is from what is printed, in %."""
    return f" ({round(ours / theirs - 1, 2) + 0.0:+.0%})" if ours and theirs else ""


def number(value: float | None, digits: int) -> str:
    """A number, or a dash for none."""
    return "-" if value is None else f"{value:,.{digits}f}"


def _seconds(low_ms: float, high_ms: float) -> str:
    return f"{low_ms / 1000:.3g} to {high_ms / 1000:.3g}"


def _digits(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
