"""Before anything runs in `segkit bench table1`: what a network is and will need, its ONNX files, its engines.

Each piece is a side of `segkit_benchmarks.turns`, for a process of its own.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from segkit.errors import SegkitError
from segkit.registry import Registry
from segkit_benchmarks.machine import pin
from segkit_benchmarks.table1_nets import TORCH, Net, Way, build
from segkit_benchmarks.turns import Figures, Turn

if TYPE_CHECKING:
    import torch

    from segkit_export.variants import Variants
    from segkit_runtime.manifest import Precision

_MIB = 2**20

REFERENCE = Way(runtime=TORCH, precision="fp32", file="")
"""What all others are compared with."""


def prepare(
    turn: Turn, registry: Registry, net: Net, files: Sequence[str], folder: Path, cores: list[int]
) -> None:  # one process, since both need the network traced or counted in torch
    """Say what a network is and will need; then, in the first round, write its ONNX files."""
    pin(cores)
    from segkit_export.memory_plan import predict_training

    network = build(registry, net)
    patches = dict.fromkeys((net.patch, *net.patches))
    predicted = []
    for patch in patches:
        found = predict_training(network, net.channels, patch, 1, "sgd")
        sizes = {**vars(found), "total": found.total, "expected": found.expected}
        predicted.append({"patch": patch, **{f"{name}_mib": round(size / _MIB, 2) for name, size in sizes.items()}})
    turn({"network": _facts(network, net), "predicted": predicted})
    turn(_write_files(network, net, files, folder) if files else {})


def _facts(network: torch.nn.Module, net: Net) -> Figures:
    from segkit.complexity import RULES, measure

    size = measure(network, net.channels, net.patch)
    return {
        "parameters": size.parameters,
        "layers": {rule: getattr(size, rule) for rule in RULES},
        "macs": size.macs,
        "weights_mib": round(size.weights_mib, 2),
        "moved_mib": round(_moved_bytes(network, net) / _MIB, 2),
    }


def _moved_bytes(network: torch.nn.Module, net: Net) -> int:
    """What the innermost modules read and write: inputs, outputs and weights, each once."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    moved = sum(tensor.numel() * tensor.element_size() for tensor in network.parameters())

    def count(module: torch.nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal moved
        tensors = [tensor for tensor in (*inputs, output) if isinstance(tensor, torch.Tensor)]
        moved += sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    leaves = [module for module in network.modules() if not any(module.children())]
    hooks = [leaf.register_forward_hook(count) for leaf in leaves]
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            network(torch.empty(1, net.channels, *net.patch))
    finally:
        for hook in hooks:
            hook.remove()
    return moved


def _write_files(network: torch.nn.Module, net: Net, files: Sequence[str], folder: Path) -> Figures:
    """Each file's size and the seconds it took, or why it could not be made."""
    from segkit_export.onnx_export import to_onnx
    from segkit_export.variants import Variants

    began = time.perf_counter()
    onnx = to_onnx(network, net.channels, net.patch)
    traced = time.perf_counter() - began
    variants = Variants(onnx, lambda: [random_patch(net)])
    return {name: _write_file(variants, name, traced, folder) for name in files}


def _write_file(variants: Variants, name: str, traced: float, folder: Path) -> Figures:
    began = time.perf_counter()
    try:
        if name == "fp32":
            variant = variants.fp32
        elif name in ("fp16", "bf16"):
            variant = variants.half(cast("Any", name))
        else:
            variant = variants.quantised(cast("Any", name.removeprefix("int8.")))
    except Exception as error:
        return {"failed": str(error) if isinstance(error, SegkitError) else f"{type(error).__name__}: {error}"}
    (folder / f"{name}.onnx").write_bytes(variant.onnx)
    seconds = traced + time.perf_counter() - began
    return {"build_seconds": round(seconds, 2), "file_mib": round(len(variant.onnx) / _MIB, 2)}


def build_tensorrt(turn: Turn, module: str, precision: Precision, net: Net, folder: Path, onnx: str) -> None:
    """Build an engine, and write it and its entry of a manifest."""
    from segkit_export.engines import engine_entry
    from segkit_export.tensorrt_build import EngineRequest, build_engine

    model = (folder / onnx).read_bytes()
    built = build_engine(model, request=EngineRequest(module=module, precision=precision))
    entry = engine_entry(net.model, built, onnx, model)
    name = engine_name(module, precision)
    (folder / name).write_bytes(built.engine)
    (folder / f"{name}.json").write_text(entry.model_dump_json())
    turn(
        {
            "version": built.version,
            "build_seconds": round(built.build_seconds, 2),
            "file_mib": round(len(built.engine) / _MIB, 2),
            "predicted_activation_mib": round(built.activation_bytes / _MIB, 2),
            "predicted_weights_mib": round(built.weight_bytes / _MIB, 2),
        }
    )
    while True:
        turn({})


def engine_name(module: str, precision: str) -> str:
    """The engine's file."""
    return f"{module}.{precision}.engine"


def random_patch(net: Net) -> NDArray[np.float32]:
    """The patch (1, C, *patch) that every runtime gets."""
    return np.random.default_rng(0).standard_normal((1, net.channels, *net.patch), dtype=np.float32)


def logits_path(folder: Path, way: Way) -> Path:
    """Where a side leaves its logits."""
    return folder / f"{way.runtime}.{way.precision}.npy"
