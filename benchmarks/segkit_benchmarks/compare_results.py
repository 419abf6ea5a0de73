"""Two result files held against each other: what changed beyond noise, what is missing, what is not the same work."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from segkit.errors import DataError, UsageError
from segkit.volume import format_size
from segkit_benchmarks.spread import ratio_interval
from segkit_benchmarks.table1_result import Table1

CONFIDENCE, LEAST_CHANGE = 0.99, 0.05

RULE = (
    f"changed: times whose ratio of medians (B over A) has a {CONFIDENCE:.0%} bootstrap interval that leaves out 1, "
    f"where it is {LEAST_CHANGE:.0%} or more from 1; memory that differs by {LEAST_CHANGE:.0%} or more; any other "
    "figure that differs"
)
"""Within one run times scatter less than from run to run, hence the least change."""

Verdict = Literal["same", "changed", "only in A", "only in B", "not the same work"]


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What can be compared of one piece of work.

    Attributes:
        work: what was done, in words; other work is not compared.
        times_ms: samples of times.
        memory: figures in MiB that scatter a little.
        exact: figures and texts that should not differ at all.
    """

    work: str
    times_ms: Mapping[str, Sequence[float]] = field(default_factory=dict)
    memory: Mapping[str, float] = field(default_factory=dict)
    exact: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A result file.

    Attributes:
        kind: which benchmark wrote it.
        conditions: machine, versions and settings, by name.
        cells: by name.
    """

    kind: str
    conditions: Mapping[str, object]
    cells: Mapping[str, Figures]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One figure of one cell in both files."""

    cell: str
    figure: str
    verdict: Verdict
    a: object = None
    b: object = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None


def load(path: Path) -> Loaded:
    """Read table1.json or profile.json, or the one that lies in a folder.

    Raises:
        DataError: it is neither.
    """
    if path.is_dir():
        inside = [path / "table1.json", *sorted(path.glob("*.profile.json"))]
        path = next((file for file in inside if file.is_file()), path / "table1.json")
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(
            f"expected a result file at {path}, {error.strerror}",
            hint="name table1.json, NAME.profile.json, or a folder that holds one",
        ) from error
    except ValueError as error:
        raise DataError(f"expected a result file, {path} is not JSON: {error}", hint="measure again") from error
    if isinstance(content, dict) and "rows" in content and "layer_rules" in content:
        return _table1(Table1.read(path))
    if isinstance(content, dict) and "runtimes" in content and "bundle" in content:
        return _profile(path, content)
    raise DataError(
        f"expected a result of segkit bench table1 or segkit profile, {path} is another file",
        hint="compare table1.json or NAME.profile.json",
    )


def compare_results(a: Loaded, b: Loaded) -> tuple[dict[str, tuple[object, object]], list[Finding]]:
    """Hold B against A.

    Returns:
        Conditions that differ, and findings: every figure that both have, and each cell that one lacks.

    Raises:
        UsageError: they are results of different benchmarks, or share no cell.
    """
    if a.kind != b.kind:
        raise UsageError(
            f"expected two results of one benchmark, got {a.kind} and {b.kind}", hint="compare two of a kind"
        )
    if not set(a.cells) & set(b.cells):
        raise UsageError(
            f"expected results with a cell in common, A has {_few(a.cells)}, B {_few(b.cells)}",
            hint="measure the same networks and runtimes",
        )
    names = dict.fromkeys((*a.conditions, *b.conditions))
    differing = {
        name: (a.conditions.get(name), b.conditions.get(name))
        for name in names
        if a.conditions.get(name) != b.conditions.get(name)
    }
    findings = [
        finding
        for cell in dict.fromkeys((*a.cells, *b.cells))
        for finding in _compare_cell(cell, a.cells.get(cell), b.cells.get(cell))
    ]
    return differing, findings


def _few(names: Mapping[str, Figures]) -> str:
    return ", ".join(list(names)[:4]) or "none"


def _compare_cell(cell: str, a: Figures | None, b: Figures | None) -> Iterator[Finding]:
    if a is None or b is None:
        yield Finding(cell=cell, figure="-", verdict="only in B" if a is None else "only in A")
        return
    if a.work != b.work:
        yield Finding(cell=cell, figure="work", verdict="not the same work", a=a.work, b=b.work)
        return
    for name in _names(a.times_ms, b.times_ms):
        yield _compare_times(cell, name, a.times_ms.get(name), b.times_ms.get(name))
    for name in _names(a.memory, b.memory):
        yield _compare_memory(cell, name, a.memory.get(name), b.memory.get(name))
    for name in _names(a.exact, b.exact):
        left, right = a.exact.get(name), b.exact.get(name)
        yield Finding(cell=cell, figure=name, verdict="same" if left == right else "changed", a=left, b=right)


def _names(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys((*a, *b)))


def _compare_times(cell: str, name: str, a: Sequence[float] | None, b: Sequence[float] | None) -> Finding:
    if not a or not b:
        return Finding(cell=cell, figure=name, verdict="only in B" if not a else "only in A")
    ratio, low, high = ratio_interval(a, b, CONFIDENCE)
    changed = not low <= 1 <= high and abs(ratio - 1) >= LEAST_CHANGE
    return Finding(
        cell=cell,
        figure=name,
        verdict="changed" if changed else "same",
        a=_median(a),
        b=_median(b),
        ratio=round(ratio, 4),
        ratio_low=round(low, 4),
        ratio_high=round(high, 4),
    )


def _compare_memory(cell: str, name: str, a: float | None, b: float | None) -> Finding:
    if a is None or b is None:
        return Finding(cell=cell, figure=name, verdict="only in B" if a is None else "only in A", a=a, b=b)
    ratio = b / a if a else float(b == a)
    verdict: Verdict = "changed" if abs(ratio - 1) >= LEAST_CHANGE else "same"
    return Finding(cell=cell, figure=name, verdict=verdict, a=a, b=b, ratio=round(ratio, 4))


def _median(values: Sequence[float]) -> float:
    return round(statistics.median(values), 3)


def _table1(table: Table1) -> Loaded:
    cells: dict[str, Figures] = {}
    for row in table.rows:
        work = f"{row.channels} x {format_size(row.patch)}, {row.classes} classes, {row.options or 'its own options'}"
        if row.network:
            network = row.network.model_dump()
            exact = {**network, "layers": json.dumps(network["layers"])}
            predicted = row.predicted_at(row.patch)
            exact["predicted_training_mib"] = predicted and predicted.total_mib
            cells[f"{row.model}: network"] = Figures(work=work, exact=exact)
        if row.training:
            training = row.training
            cells[f"{row.model}: training"] = Figures(
                work=work,
                times_ms={"step, ms": training.timing.times_ms} if training.timing else {},
                memory=_known(training, "measured_mib", "peak_mib"),
                exact={"status": training.status, "device": training.device},
            )
        for cell in row.cells:
            cells[f"{row.model}: {cell.runtime} {cell.precision}"] = Figures(
                work=work,
                times_ms={"run, ms": cell.timing.times_ms} if cell.timing else {},
                memory=_known(cell, "file_mib", "peak_mib", "predicted_activation_mib", "predicted_weights_mib"),
                exact={"status": cell.status, "device": cell.device},
            )
    settings = {f"setting {name}": value for name, value in table.settings.model_dump().items()}
    return Loaded(
        kind="segkit bench table1",
        conditions={
            **_prefixed("machine", table.machine),
            **_prefixed("version", {"segkit": table.segkit_version, **table.versions}),
            **settings,
        },
        cells=cells,
    )


def _known(part: Any, *names: str) -> dict[str, float]:
    return {name: value for name in names if (value := getattr(part, name)) is not None}


def _prefixed(prefix: str, values: Mapping[str, object]) -> dict[str, object]:
    return {f"{prefix} {name}": value for name, value in values.items()}


def _profile(path: Path, report: Mapping[str, Any]) -> Loaded:
    """A file of `segkit profile`; one that was written before it kept its times can say nothing about noise."""
    try:
        network, cells = report["network"], {}
        work = f"{network['model']}, {network['in_channels']} x {format_size(network['patch'])}"
        for row in report["runtimes"]:
            failed = "failed" in row
            # A bundle may have several engines of one runtime.
            cells[f"{report['bundle']}: {row.get('engine', row['runtime'])}"] = Figures(
                work=work,
                times_ms={} if failed else {"run, ms": row["times_ms"]},
                memory={} if failed or row["peak_mib"] is None else {"peak_mib": row["peak_mib"]},
                exact={"status": "failed" if failed else "measured", "precision": row.get("precision")},
            )
        versions = {row["runtime"]: row["version"] for row in report["runtimes"] if "version" in row}
        return Loaded(
            kind="segkit profile",
            conditions={**_prefixed("machine", report["machine"]), **_prefixed("version", versions)},
            cells=cells,
        )
    except (KeyError, TypeError) as error:
        raise DataError(
            f"expected a profile with its times in {path}, found {type(error).__name__}: {error}",
            hint="profile again with this version: segkit profile",
        ) from error
