"""The plan of `segkit export --plan`: the predictions put together, as a table and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from segkit.cards import Size
from segkit.cli.output import print_table
from segkit_export.memory_plan import (
    GPU_OVERHEAD_BYTES,
    OPTIMIZERS,
    TensorBytes,
    predict_inference,
    predict_training,
)
from segkit_export.memory_runtimes import RuntimeMemory, engine_memory, measured_memory
from segkit_export.progress import Progress, silent

if TYPE_CHECKING:
    from torch import nn

RUNTIMES = ("tensorrt_rtx", "onnxruntime", "openvino")
"""The runtimes of a plan beside torch."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What training and inference of a network need.

    Attributes:
        channels: channels of the input.
        patch: size (x, y, z) in voxels.
        batch: patches per step of training; inference is told for one patch.
        optimizer: of training.
        training: predicted peak of training in fp32: a lower bound.
        inference: what each runtime needs for one patch, torch first.
    """

    channels: int
    patch: Size
    batch: int
    optimizer: str
    training: TensorBytes
    inference: tuple[RuntimeMemory, ...]

    def to_json(self) -> dict[str, Any]:
        """The plan as plain values, in bytes."""
        training = {**dataclasses.asdict(self.training), "total": self.training.total}
        return {
            "schema": 1,
            "channels": self.channels,
            "patch": list(self.patch),
            "batch": self.batch,
            "optimizer": self.optimizer,
            "training_bytes": training,
            "training_is": "a lower bound: tensors alone",
            "expected_training_bytes": self.training.expected,
            "gpu_overhead_bytes": list(GPU_OVERHEAD_BYTES),
            "inference": [dataclasses.asdict(row) for row in self.inference],
        }


def plan(
    network: nn.Module,
    channels: int,
    patch: Size,
    batch: int = 1,
    optimizer: str = OPTIMIZERS[0],
    *,
    runtimes: Sequence[str] = RUNTIMES,
    progress: Progress = silent,
) -> Plan:
    """Tell what training and inference of a network need.

    Training and torch are predicted, TensorRT is built, the other runtimes run a patch in a process of their own. What
    cannot be told here says why, instead of a figure.

    Args:
        network: in eval mode; it is left as it is.
        channels: channels of its input.
        patch: size (x, y, z) in voxels.
        batch: patches per step of training.
        optimizer: of training.
        runtimes: of `RUNTIMES`, beside torch.
        progress: called as it goes on.

    Raises:
        UsageError: the network does not take the patch, or there is no such optimizer.
        ExportFailed: the network cannot be traced.
    """
    progress("predict memory", 0, 0)
    training = predict_training(network, channels, patch, batch, optimizer)
    eager = predict_inference(network, channels, patch)
    rows = [
        RuntimeMemory(
            runtime="torch",
            basis="predicted",
            total_bytes=eager.total,
            weight_bytes=eager.weights,
            activation_bytes=eager.activations + eager.patches + eager.temporaries,
            note="tensors alone: a lower bound",
        )
    ]
    if runtimes:
        from segkit_export.onnx_export import to_onnx

        progress("trace to ONNX", 0, 0)
        onnx = to_onnx(network, channels, patch)
        for runtime in runtimes:
            progress(f"memory of {runtime}", 0, 0)
            if runtime == "tensorrt_rtx":
                rows.append(engine_memory(onnx, progress))
            else:
                rows.append(measured_memory(runtime, onnx, (1, channels, *patch)))
    return Plan(
        channels=channels, patch=patch, batch=batch, optimizer=optimizer, training=training, inference=tuple(rows)
    )


def print_plan(plan: Plan) -> None:
    """Print a plan for people."""
    patch = " x ".join(map(str, plan.patch))
    click.echo(f"Training on {plan.batch} x {plan.channels} x {patch} voxels a step, fp32, {plan.optimizer}\n")
    parts = {**vars(plan.training), "at least": plan.training.total}
    print_table([{"tensors": name, "MiB": _mib(size)} for name, size in parts.items()])
    low, high = (f"{size / 2**30:.1f}" for size in GPU_OVERHEAD_BYTES)
    click.echo(
        "\nA lower bound: tensors alone, told without running.\n"
        f"Expect up to {_mib(plan.training.expected)} MiB on a CPU; GPUs held {low} to {high} GiB more than\n"
        "the bound, for their context and the workspaces of kernels.\n\n"
        f"Inference on one patch of {plan.channels} x {patch} voxels, fp32\n"
    )
    print_table(
        [
            {
                "runtime": row.runtime,
                "basis": row.basis,
                "MiB": "" if row.total_bytes is None else _mib(row.total_bytes),
                "weights, MiB": "" if row.weight_bytes is None else _mib(row.weight_bytes),
                "activations, MiB": "" if row.activation_bytes is None else _mib(row.activation_bytes),
                "note": row.note,
            }
            for row in plan.inference
        ]
    )


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f}"
