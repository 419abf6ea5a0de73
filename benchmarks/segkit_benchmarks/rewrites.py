"""`segkit bench exports --rewrites`: what each piece of work on the ONNX graph is worth, measured with it and without.

Every file is timed from a patch to its labels, so that the largest class counts wherever it is taken. All files of a
network run in turn, another first in each round, and each ratio is that of a round.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segkit.cards import Size
from segkit.inference.blending import largest_class

if TYPE_CHECKING:
    import torch

    from segkit.registry import Registry
    from segkit_runtime.engines import RuntimeEngine

RESULT = "rewrites.json"

NETWORKS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "vnet-light": ("vnet-light", {}),
    "unet3d": ("unet3d", {"width": 8, "norm": "batch"}),
    "unet3d, instance norms": ("unet3d", {"width": 8, "norm": "instance"}),
}

_ALL = "all"
_WITHOUT = {
    "fold": "batch norms folded",
    "dropout": "dropout gone",
    "norms": "instance norms written out",
    "strip": "notes and paths stripped",
    "labels": "largest class in the graph",
}
_INLINE = "weights in the file"

_COLUMNS = (
    *("network", "work", "runtime", "ms with", "ms without", "ratio"),
    *("KiB with", "KiB without", "error with", "error without"),
)

_READING = """\
Each line is one piece of work on the graph: what a patch takes from its voxels to its labels with all of the work done,
and with this piece left out; the ratio is without : with, the median of the rounds. Notes change nothing that is
computed, nor does dropout: how far their ratios are from 1 is the noise of the run. `error` is the largest difference
of a logit from torch. *{inline}* is timed as it is opened, since what runs afterwards is the same.
Networks are untrained, patches {patch}, {rounds} rounds in turn on {cpu}, {cores} cores, by `segkit bench exports
--rewrites`; {versions}."""

Row = dict[str, Any]


def measure_rewrites(
    registry: Registry,
    patch: Size,
    rounds: int,
    progress: Callable[[str], None],
    networks: Mapping[str, Any] = NETWORKS,
) -> list[Row]:
    """Time each network with all of the work and without each piece of it, on each runtime that is installed."""
    import torch

    from segkit_runtime.engines import ONNX_RUNTIMES, missing_runtimes

    rows: list[Row] = []
    image = np.random.default_rng(0).standard_normal((1, 1, *patch)).astype(np.float32)
    for name, (model, options) in networks.items():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = registry.build_model(model, 1, 4, options).eval()
        with torch.inference_mode():
            expected = network(torch.from_numpy(image)).numpy()
        progress(f"{name}: export")
        files = export_each(network, patch)
        for runtime in (runtime for runtime in ONNX_RUNTIMES if runtime not in missing_runtimes()):
            progress(f"{name}: {runtime}")
            timed = _time_in_turn(runtime, files, image, expected, rounds)
            rows += [
                {"network": name, "runtime": runtime, "rewrite": _WITHOUT[piece], **_beside(timed, piece, files)}
                for piece in files
                if piece != _ALL
            ]
            rows.append({"network": name, "runtime": runtime, "rewrite": _INLINE, **_open_both(runtime, files[_ALL])})
    return rows


def export_each(network: torch.nn.Module, patch: Size) -> dict[str, bytes]:
    """The file with all of the work on its graph, and without each piece that matters to this network."""
    import torch

    from segkit_export.graph_edit import add_labels
    from segkit_export.onnx_export import to_onnx

    plain = to_onnx(network, 1, patch)
    files = {_ALL: add_labels(plain), "labels": plain}
    kinds = {type(module) for module in network.modules()}
    if torch.nn.BatchNorm3d in kinds:
        files["fold"] = add_labels(to_onnx(network, 1, patch, without=["fold"]))
    if torch.nn.Dropout3d in kinds:
        files["dropout"] = add_labels(_with_dropout(network, patch))
    if torch.nn.InstanceNorm3d in kinds:
        files["norms"] = add_labels(to_onnx(network, 1, patch, without=["norms"]))
    files["strip"] = _with_notes(files[_ALL], to_onnx(network, 1, patch, without=["strip"]))
    return files


def _with_dropout(network: torch.nn.Module, patch: Size) -> bytes:
    """The file with each dropout left in it, as an operator that does nothing: torch would leave none."""
    import onnx
    import torch

    from segkit_export.onnx_export import to_onnx

    class Kept(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            kept: torch.Tensor = torch.onnx.ops.symbolic(
                "kept::Dropout", (images,), dtype=images.dtype, shape=images.shape, version=1
            )
            return kept

    changed = copy.deepcopy(network)
    for path, module in list(changed.named_modules()):
        if isinstance(module, torch.nn.Dropout3d):
            changed.set_submodule(path, Kept())
    model = onnx.load_model_from_string(to_onnx(changed.eval(), 1, patch))
    for node in model.graph.node:
        if node.domain == "kept":
            node.domain = ""
    for imported in [imported for imported in model.opset_import if imported.domain == "kept"]:
        model.opset_import.remove(imported)
    return bytes(model.SerializeToString())


def _with_notes(content: bytes, noted: bytes) -> bytes:
    """The file with the notes that the exporter leaves beside its nodes."""
    import onnx

    model = onnx.load_model_from_string(content)
    notes = {node.name: node for node in onnx.load_model_from_string(noted).graph.node}
    for node in model.graph.node:
        if node.name in notes:
            node.metadata_props.extend(notes[node.name].metadata_props)
    return bytes(model.SerializeToString())


def _time_in_turn(
    runtime: str, files: Mapping[str, bytes], image: NDArray[np.float32], expected: NDArray[np.float32], rounds: int
) -> dict[str, Row]:
    """Milliseconds of each round, and the error of the logits, of each file."""
    from segkit_runtime.engines import open_engine

    timed: dict[str, Row] = {}
    for name, content in files.items():
        engine = open_engine(runtime, content)
        error = float(np.abs(engine.run(image) - expected).max())
        engine.close()
        timed[name] = {"ms": [], "error": error}
    engines = {name: open_engine(runtime, content, output="labels") for name, content in files.items()}
    for engine in engines.values():
        _segment(engine, image)
    names = list(files)
    for number in range(rounds):
        at = number % len(names)
        for name in names[at:] + names[:at]:
            timed[name]["ms"].append(_segment(engines[name], image))
    for engine in engines.values():
        engine.close()
    return timed


def _segment(engine: RuntimeEngine, image: NDArray[np.float32]) -> float:
    """Milliseconds from a patch to its labels."""
    began = time.perf_counter()
    answer = engine.run(image)[0]
    if engine.output == "logits":
        labels = np.empty(answer.shape[1:], np.uint8)
        for plane in range(len(labels)):
            labels[plane] = largest_class(answer[:, plane])
    return 1000 * (time.perf_counter() - began)


def _beside(timed: Mapping[str, Row], piece: str, files: Mapping[str, bytes]) -> Row:
    done, left = timed[_ALL], timed[piece]
    ratios = [without / with_all for without, with_all in zip(left["ms"], done["ms"], strict=True)]
    return {
        "ms": round(statistics.median(done["ms"]), 2),
        "without_ms": round(statistics.median(left["ms"]), 2),
        "ratio": round(statistics.median(ratios), 3),
        "kib": round(len(files[_ALL]) / 2**10, 1),
        "without_kib": round(len(files[piece]) / 2**10, 1),
        "error": done["error"],
        "without_error": left["error"],
    }


def _open_both(runtime: str, content: bytes, times: int = 3) -> Row:
    """Milliseconds to open a file from memory, and one whose weights lie beside it."""
    import onnx

    with TemporaryDirectory(prefix="segkit-rewrites-") as folder:
        path = Path(folder, "model.onnx")
        onnx.save_model(
            onnx.load_model_from_string(content),
            path,
            save_as_external_data=True,
            location="model.data",
            size_threshold=2**10,  # shapes are read as the file is checked
        )
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
        pairs = [(_open_ms(runtime, content), _open_ms(runtime, str(path))) for _ in range(times)]
    return {
        "ms": round(statistics.median(inline for inline, _ in pairs), 2),
        "without_ms": round(statistics.median(beside for _, beside in pairs), 2),
        "ratio": round(statistics.median(beside / inline for inline, beside in pairs), 3),
        "kib": round(len(content) / 2**10, 1),
        "without_kib": round(size / 2**10, 1),
        "error": None,
        "without_error": None,
    }


def _open_ms(runtime: str, model: bytes | str) -> float:
    """What the runtime itself takes; segkit's engines take no file whose weights lie beside it."""
    began = time.perf_counter()
    if runtime == "openvino":
        from segkit_runtime.engines.openvino_module import openvino_core

        core = openvino_core()
        core.compile_model(core.read_model(model), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    else:
        import onnxruntime

        onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return 1000 * (time.perf_counter() - began)


def render_rewrites(report: Mapping[str, Any]) -> list[str]:
    """The part of `docs/exports.md` that a result file gives, line by line."""
    machine = report["machine"]
    reading = _READING.format(
        inline=_INLINE,
        patch="x".join(map(str, report["patch"])),
        rounds=report["rounds"],
        cpu=machine["cpu"],
        cores=machine["cores"],
        versions=", ".join(f"{name} {version}" for name, version in report["versions"].items()),
    )
    lines = [
        "",
        "## What the work on the graph is worth",
        "",
        reading,
        "",
        f"| {' | '.join(_COLUMNS)} |",
        f"| {' | '.join(['---'] * len(_COLUMNS))} |",
    ]
    for row in report["rows"]:
        errors = ["-" if row[key] is None else f"{row[key]:.1e}" for key in ("error", "without_error")]
        cells = [
            row["network"],
            row["rewrite"],
            row["runtime"],
            f"{row['ms']:.1f}",
            f"{row['without_ms']:.1f}",
            f"{row['ratio']:.2f}",
            f"{row['kib']:,.0f}",
            f"{row['without_kib']:,.0f}",
            *errors,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines
