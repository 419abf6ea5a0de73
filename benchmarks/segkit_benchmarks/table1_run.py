"""The run of `segkit bench table1`: network by network, each piece in a process of its own, written cell by cell.

What fails fills its cell with the reason, and the rest goes on. What a file holds already is not measured again.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from segkit.extras import is_installed
from segkit.registry import Registry
from segkit.training.recipes import thesis_recipe
from segkit_benchmarks import table1_files as files
from segkit_benchmarks import table1_sides as sides
from segkit_benchmarks.machine import load_average, peaks
from segkit_benchmarks.table1_files import REFERENCE, logits_path
from segkit_benchmarks.table1_nets import ENGINE_RUNTIMES, TORCH, Net, Way
from segkit_benchmarks.table1_result import Accuracy, Cell, Network, PredictedTraining, Row, Table1, Timing, Training
from segkit_benchmarks.table1_sides import Pace
from segkit_benchmarks.turns import Result, Side, take_turns
from segkit_runtime.cuda import why_no_device
from segkit_runtime.engines import ENGINES
from segkit_runtime.manifest import Precision

Proven = Mapping[tuple[str, str, str], Accuracy]
"""Model, runtime, precision -> what a bundle of trained weights proves of it."""


class Runner:
    """Fills a table.

    Args:
        registry: without what it has loaded, so that it can be sent to processes.
        table: is filled in place.
        nets: what is measured.
        ways: runtimes and precisions.
        pace: how much is measured.
        timeout_seconds: the longest that one step of a cell may take.
        proven: figures of bundles.
        save: called after each cell.
        show: called with what is going on.
    """

    def __init__(
        self,
        registry: Registry,
        table: Table1,
        nets: Sequence[Net],
        ways: Sequence[Way],
        pace: Pace,
        *,
        timeout_seconds: float,
        proven: Proven,
        save: Callable[[], None],
        show: Callable[[str], None],
    ) -> None:
        self.registry, self.table, self.nets, self.ways = registry, table, nets, ways
        self.pace, self.timeout_seconds, self.proven = pace, timeout_seconds, proven
        self.show, self._save = show, save
        self._began, self._minutes = time.monotonic(), table.minutes

    def run(self) -> None:
        """Measure all that the table lacks."""
        if not self.table.peaks:
            result = self._alone("the machine's own peak", partial(peaks, cores=self.pace.cores), 0)
            self.table.peaks, self.table.peaks_reason = dict(result.first), result.failed
        for net in self.nets:
            self._measure(net)
        self.table.finished = datetime.now(UTC).isoformat(timespec="seconds")
        self.save()

    def save(self) -> None:
        """Take note of the time, and write."""
        self.table.minutes = round(self._minutes + (time.monotonic() - self._began) / 60, 2)
        self._save()

    def _measure(self, net: Net) -> None:
        row = self.table.row(net.model)
        if row is None:
            row = net.row()
            self.table.rows.append(row)
        missing = [way for way in self.ways if _is_missing(row.cell(way.runtime, way.precision))]
        train = row.training is None or row.training.status == "failed"
        if not missing and not train:
            return
        with tempfile.TemporaryDirectory(prefix="segkit-table1-") as folder:
            self._fill(net, row, missing, train, Path(folder))

    def _fill(self, net: Net, row: Row, missing: Sequence[Way], train: bool, folder: Path) -> None:
        wanted = list(dict.fromkeys(way.file for way in missing if way.file))
        side = partial(
            files.prepare, registry=self.registry, net=net, files=wanted, folder=folder, cores=self.pace.cores
        )
        result = self._alone(f"{net.model}: trace and predict", side, 1)
        if not result.first:
            row.reason = result.failed
            row.training = Training(status="failed", reason=result.failed)
            for way in missing:
                row.put(_failed(way, result.failed))
            self.save()
            return
        row.reason = None
        row.network = Network.model_validate(result.first["network"])
        row.predicted = [PredictedTraining.model_validate(found) for found in result.first["predicted"]]
        self.save()
        if train:
            row.training = self._train(net)
            self.save()
        made: Mapping[str, Any] = result.rounds[0] if result.rounds else {}
        ready = [cell for way in missing if (cell := self._ready(net, row, way, made, result.failed, folder))]
        for precision in dict.fromkeys(way.precision for way, _ in ready):
            self._infer(net, row, [pair for pair in ready if pair[0].precision == precision], folder)
        row.cells.sort(key=self._place)
        self.save()

    def _place(self, cell: Cell) -> int:
        """Where a cell stands in its row: as it was asked for, and after those what an earlier call asked for."""
        order = [(way.precision, way.runtime) for way in self.ways]
        place = (cell.precision, cell.runtime)
        return order.index(place) if place in order else len(order)

    def _train(self, net: Net) -> Training:
        load = load_average()
        side = partial(sides.train, registry=self.registry, net=net, pace=self.pace)
        result = self._alone(f"{net.model}: training steps", side, self.pace.rounds)
        if result.failed:
            return Training(status="failed", reason=result.failed, load_average=load)
        timing = Timing.of([time_ms for figures in result.rounds for time_ms in figures["times_ms"]])
        recipe = thesis_recipe(net.patch)
        steps = recipe["epochs"] * recipe["patches_per_epoch"]
        same = net.patch in net.patches
        return Training(
            status="measured",
            device=result.first["device"],
            timing=timing,
            steps=steps,
            hours=round(steps * timing.p50_ms / 3_600_000, 1) if same else None,
            measured_mib=result.first["measured_mib"],
            measured_is=result.first["measured_is"],
            peak_mib=result.peak_mib,
            load_average=load,
        )

    def _ready(
        self, net: Net, row: Row, way: Way, made: Mapping[str, Any], failed: str | None, folder: Path
    ) -> tuple[Way, Cell] | None:
        """A cell with what is known before it runs; None where it cannot run, which the row then says."""
        cell = Cell(runtime=way.runtime, precision=way.precision, status="failed")
        reason = self._why_not(way)
        if reason is None and way.file:
            found = made.get(way.file, {"failed": failed or "its file was not made"})
            reason = found.get("failed")
            cell = cell.with_figures({name: found.get(name) for name in ("build_seconds", "file_mib")})
        if reason is None and way.runtime in ENGINE_RUNTIMES:
            cell, reason = self._build(net, way, cell, folder)
        if reason is None and cell.status == "failed":
            return way, cell
        row.put(cell.with_figures({"reason": reason}))
        self.save()
        return None

    def _why_not(self, way: Way) -> str | None:
        if way.precision == "tf32" and way.runtime not in ENGINE_RUNTIMES:
            return "TF32 is TensorRT's alone"
        if way.runtime in ENGINES:
            module = ENGINES[way.runtime].module
            return None if is_installed(module) else f"the module {module!r} is not installed"
        card = self.registry.card("runtime", way.runtime)
        if way.precision != "fp32":
            return f"{way.runtime} is measured in fp32 alone"
        return None if is_installed(card.module) else f"the module {card.module!r} is not installed"

    def _build(self, net: Net, way: Way, cell: Cell, folder: Path) -> tuple[Cell, str | None]:
        """Build an engine; where no GPU is, that is all, and the cell says so."""
        side = partial(
            files.build_tensorrt,
            module=way.runtime,
            precision=cast("Precision", way.precision),
            net=net,
            folder=folder,
            onnx=f"{way.file}.onnx",
        )
        load = load_average()
        result = self._alone(f"{net.model}: build {way.runtime} {way.precision}", side, 0)
        if not result.first:
            return cell, result.failed
        built = cell.with_figures({**result.first, "peak_mib": result.peak_mib, "load_average": load})
        if reason := why_no_device():
            return built.with_figures({"status": "built, not run"}), f"no CUDA device: {reason}"
        return built, None

    def _infer(self, net: Net, row: Row, cells: Sequence[tuple[Way, Cell]], folder: Path) -> None:
        """Run runtimes of one precision in turn."""
        load = load_average()
        arguments: Mapping[str, Any] = {"registry": self.registry, "net": net, "folder": folder, "pace": self.pace}
        reference = logits_path(folder, REFERENCE)
        if REFERENCE not in [way for way, _ in cells] and REFERENCE in self.ways and not reference.exists():
            self._alone(f"{net.model}: torch, to compare", partial(sides.infer, way=REFERENCE, **arguments), 0)
        results = take_turns(
            {way.runtime: partial(sides.infer, way=way, **arguments) for way, _ in cells},
            self.pace.rounds,
            self.pace.threads,
            lambda name: self.show(f"{net.model}: {name} {cells[0][0].precision}"),
            timeout_seconds=self.timeout_seconds,
        )
        for way, cell in cells:
            measured = self._measured(net, row, cell, results[way.runtime])
            accuracy = self.proven.get((net.model, way.runtime, way.precision)) or _compare(folder, way)
            row.put(measured.with_figures({"load_average": load, "accuracy": accuracy}))
        self.save()

    def _measured(self, net: Net, row: Row, cell: Cell, result: Result) -> Cell:
        times = [time_ms for figures in result.rounds for time_ms in figures["times_ms"]]
        if result.failed or not times:
            return cell.with_figures({"status": "failed", "reason": result.failed})
        timing = Timing.of(times)
        per_second = 1000 / timing.p50_ms
        macs = row.network.macs if row.network else 0
        gflops = 2 * macs * per_second / 1e9
        peak = self.table.peaks.get(result.first["device"], {}).get("gemm_gflops_per_second")
        first = {name: value for name, value in result.first.items() if name != "precision"}
        return cell.with_figures(
            {
                **first,
                "status": "measured",
                "timing": timing,
                "patches_per_second": round(per_second, 3),
                "voxels_per_second": round(net.voxels * per_second),
                "gflops_per_second": round(gflops, 1),
                "gemm_share": round(gflops / peak, 3) if peak else None,
                "peak_mib": result.peak_mib,
            }
        )

    def _alone(self, name: str, side: Side, rounds: int) -> Result:
        results = take_turns({name: side}, rounds, self.pace.threads, self.show, timeout_seconds=self.timeout_seconds)
        return results[name]


def _is_missing(cell: Cell | None) -> bool:
    """What failed is tried again: the reason may be gone."""
    return cell is None or cell.status == "failed"


def _failed(way: Way, reason: str | None) -> Cell:
    return Cell(runtime=way.runtime, precision=way.precision, status="failed", reason=reason)


def _compare(folder: Path, way: Way) -> Accuracy | None:
    """Hold the logits of a runtime against torch's, if both are there."""
    mine, reference = logits_path(folder, way), logits_path(folder, REFERENCE)
    if way.runtime == TORCH or not (mine.exists() and reference.exists()):
        return None
    found, truth = np.load(mine), np.load(reference)
    return Accuracy(
        max_abs_logit_difference=float(np.abs(found - truth).max()),
        max_abs_logit=float(np.abs(truth).max()),
        label_agreement=float((found.argmax(1) == truth.argmax(1)).mean()),
        basis="random weights and one random patch",
    )
