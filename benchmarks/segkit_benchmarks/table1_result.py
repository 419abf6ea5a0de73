"""The result file of `segkit bench table1`: what it holds, read and written in one way.

`Table1.read` and `Table1.write` are its only doors; `segkit bench compare` and reports read it through them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from segkit.cards import OptionValue, Size
from segkit.errors import DataError
from segkit.files import write_bytes
from segkit_benchmarks.spread import median_interval, percentiles

RESULT = "table1.json"

Status = Literal["measured", "built, not run", "failed"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Timing(_Part):
    """Times of the same work again and again.

    Attributes:
        runs: how many are in it.
        times_ms: each, in the order they were taken.
        p50_ms: their median.
        p50_low_ms: lower end of its 95 % bootstrap interval.
        p50_high_ms: upper end.
        p95_ms: what 95 % of the runs keep to.
        p99_ms: what 99 % of them keep to; of fewer than 100 runs, near the slowest.
    """

    runs: int
    times_ms: list[float]
    p50_ms: float
    p50_low_ms: float
    p50_high_ms: float
    p95_ms: float
    p99_ms: float

    @classmethod
    def of(cls, times_ms: Sequence[float]) -> Self:
        """Sum up some times."""
        p50, p95, p99 = percentiles(times_ms, (50, 95, 99))
        low, high = median_interval(times_ms)
        return cls(
            runs=len(times_ms),
            times_ms=[round(time, 3) for time in times_ms],
            p50_ms=round(p50, 3),
            p50_low_ms=round(low, 3),
            p50_high_ms=round(high, 3),
            p95_ms=round(p95, 3),
            p99_ms=round(p99, 3),
        )


class Printed(_Part):
    """What the thesis prints of a network; memory and patches by challenge."""

    title: str
    parameters_million: float
    layers: int
    layer_rule: str
    patches: dict[str, Size]
    modalities: list[int]
    memory_gb: dict[str, float]
    hours: float


class Network(_Part):
    """What a network is, at the measured patch.

    Attributes:
        parameters: all of them, shared ones once.
        layers: by each rule of `Table1.layer_rules`.
        macs: multiply-accumulate operations of a patch.
        weights_mib: parameters and buffers.
        moved_mib: what its layers read and write of a patch in fp32 if none is fused: outputs, inputs and weights.
    """

    parameters: int
    layers: dict[str, int]
    macs: int
    weights_mib: float
    moved_mib: float


class PredictedTraining(_Part):
    """Tensors of a training step at its peak, predicted without running it: batch 1, fp32, SGD with momentum.

    Attributes:
        patch: size in voxels.
        weights_mib: parameters and buffers.
        gradients_mib: near zero where the peak lies at the start of the backward pass.
        activations_mib: kept for the backward pass.
        optimizer_mib: its state.
        temporaries_mib: what the backward pass holds for a while.
        patches_mib: the input and its labels.
        total_mib: all of them, a lower bound.
        expected_mib: what a process on a CPU takes at most.
    """

    patch: Size
    weights_mib: float
    gradients_mib: float
    activations_mib: float
    optimizer_mib: float
    temporaries_mib: float
    patches_mib: float
    total_mib: float
    expected_mib: float


class Training(_Part):
    """Training steps as they were measured: batch 1, fp32, SGD with momentum, cross-entropy.

    Attributes:
        status: whether there are figures.
        reason: why there are none.
        device: where it ran.
        timing: of a step.
        steps: of the thesis' schedule: patches of an epoch times epochs.
        hours: of that many steps; None where the patch is not the thesis'.
        measured_mib: memory of a step, weights included, to hold against the prediction.
        measured_is: how that was taken.
        peak_mib: largest resident memory of the process, libraries included.
        load_average: of the machine, before.
    """

    status: Status
    reason: str | None = None
    device: str | None = None
    timing: Timing | None = None
    steps: int | None = None
    hours: float | None = None
    measured_mib: float | None = None
    measured_is: str | None = None
    peak_mib: float | None = None
    load_average: float | None = None


class Accuracy(_Part):
    """How far a runtime is from torch in fp32.

    Attributes:
        max_abs_logit_difference: largest difference of a logit.
        max_abs_logit: largest logit of torch, for scale.
        label_agreement: share of voxels with the same label, 0 to 1.
        dice_difference: largest change of a class's Dice against the truth, 0 to 1; None without a truth.
        basis: what it was taken on.
    """

    max_abs_logit_difference: float
    max_abs_logit: float
    label_agreement: float
    dice_difference: float | None = None
    basis: str


class Cell(_Part):
    """One network on one runtime in one precision, batch 1.

    Attributes:
        runtime: its name.
        precision: what it was to compute in.
        status: whether there are figures of runs.
        reason: why there are none, or why it was built and not run.
        version: of the runtime.
        device: where it ran.
        build_seconds: making its file: tracing to ONNX, lowering, quantising, or building the engine.
        file_mib: size of that file.
        load_seconds: from the file to a network that is ready, the import of the runtime counted.
        first_run_ms: time of the first run.
        timing: of the timed runs.
        patches_per_second: at the median.
        voxels_per_second: at the median.
        gflops_per_second: at the median; two operations a MAC.
        gemm_share: of the device's fp32 GEMM peak, 1 = all of it.
        peak_mib: largest resident memory of its process, libraries included.
        predicted_activation_mib: device memory for activations, as the engine's builder says.
        predicted_weights_mib: device memory for weights, as the engine's builder says.
        device_mib: memory that the process holds on the GPU, by NVML.
        device_ms: median time of the network on the GPU by CUDA events, copies left out.
        accuracy: how far it is from torch.
        load_average: of the machine, before.
    """

    runtime: str
    precision: str
    status: Status
    reason: str | None = None
    version: str | None = None
    device: str | None = None
    build_seconds: float | None = None
    file_mib: float | None = None
    load_seconds: float | None = None
    first_run_ms: float | None = None
    timing: Timing | None = None
    patches_per_second: float | None = None
    voxels_per_second: float | None = None
    gflops_per_second: float | None = None
    gemm_share: float | None = None
    peak_mib: float | None = None
    predicted_activation_mib: float | None = None
    predicted_weights_mib: float | None = None
    device_mib: float | None = None
    device_ms: float | None = None
    accuracy: Accuracy | None = None
    load_average: float | None = None

    def with_figures(self, figures: Mapping[str, Any]) -> Self:
        """The cell with some fields set, each checked."""
        return type(self).model_validate({**self.model_dump(), **figures})


class Row(_Part):
    """One network.

    Attributes:
        model: its name here.
        printed: its row of the thesis' Table 1, if it has one.
        reasons: quantity of that row -> why ours is another, where that is known.
        channels: of the input: modalities.
        classes: of the output.
        options: of the network, where they are not its defaults.
        patch: that was measured, in voxels.
        network: what it is.
        predicted: training memory at the measured patch and at those of the thesis.
        training: measured steps.
        cells: by runtime and precision.
        reason: why there is nothing, if it could not be built.
    """

    model: str
    printed: Printed | None = None
    reasons: dict[str, str] = Field(default_factory=dict)
    channels: int
    classes: int
    options: dict[str, OptionValue] = Field(default_factory=dict)
    patch: Size
    network: Network | None = None
    predicted: list[PredictedTraining] = Field(default_factory=list)
    training: Training | None = None
    cells: list[Cell] = Field(default_factory=list)
    reason: str | None = None

    def cell(self, runtime: str, precision: str) -> Cell | None:
        """The cell of a runtime and precision, if it is there."""
        return next((c for c in self.cells if (c.runtime, c.precision) == (runtime, precision)), None)

    def predicted_at(self, patch: Size) -> PredictedTraining | None:
        """The prediction of a training step at a patch, if it is there."""
        return next((found for found in self.predicted if found.patch == patch), None)

    def put(self, cell: Cell) -> None:
        """Add a cell, in the place of an older one."""
        self.cells = [c for c in self.cells if (c.runtime, c.precision) != (cell.runtime, cell.precision)] + [cell]


class Settings(_Part):
    """How it was measured.

    Attributes:
        quick: smaller patches and fewer runs.
        patch: that replaces those of the thesis, or None.
        runs: timed runs of a cell, at most.
        seconds: time for the timed runs of a cell; each round has a run even when it is up.
        rounds: of all runtimes in turn.
        threads: of each process.
        cores: logical cores that each process is bound to.
    """

    quick: bool
    patch: Size | None
    runs: int
    seconds: float
    rounds: int = 5
    threads: int
    cores: list[int]


class Table1(_Part):
    """The whole file.

    Attributes:
        schema_: version of this form.
        created: when it was begun.
        finished: when the last cell was written, or None while some are missing.
        minutes: that were spent on it.
        segkit_version: of segkit.
        versions: of what it ran on.
        machine: in words and figures.
        peaks: device -> its fp32 GEMM in GFLOP/s and its copies in GB/s, measured in the same run.
        peaks_reason: why there are none.
        settings: how it was measured.
        method: the same in words.
        layer_rules: the rules that layers are counted by.
        rows: one for each network.
    """

    model_config = ConfigDict(extra="forbid", validate_by_name=True)

    schema_: Literal[1] = Field(default=1, alias="schema")
    created: str
    finished: str | None = None
    minutes: float = 0.0
    segkit_version: str
    versions: dict[str, str]
    machine: dict[str, Any]
    peaks: dict[str, dict[str, float]] = Field(default_factory=dict)
    peaks_reason: str | None = None
    settings: Settings
    method: str
    layer_rules: dict[str, str]
    rows: list[Row] = Field(default_factory=list)

    def row(self, model: str) -> Row | None:
        """The row of a model, if it is there."""
        return next((row for row in self.rows if row.model == model), None)

    def reasons(self) -> dict[tuple[str, str], list[str]]:
        """Each reason once: (quantity, reason) -> the networks that it is of."""
        networks: dict[tuple[str, str], list[str]] = {}
        for row in self.rows:
            for found in row.reasons.items():
                networks.setdefault(found, []).append(row.model)
        return networks

    def to_json(self) -> dict[str, Any]:
        """The file as plain values."""
        return self.model_dump(mode="json", by_alias=True)

    def write(self, path: Path) -> None:
        """Write the file in one step.

        Raises:
            UsageError: it cannot be written there.
        """
        write_bytes(path, (json.dumps(self.to_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file.

        Raises:
            DataError: it is not one of these.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise DataError(f"expected a result of segkit bench table1 at {path}, {error.strerror}") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            raise DataError(
                f"expected a result of segkit bench table1, schema 1, in {path}, found at {where}: {first['msg']}",
                hint="measure again with this version: segkit bench table1",
            ) from error
