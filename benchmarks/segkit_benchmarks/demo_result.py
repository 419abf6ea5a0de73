"""What a demo made, as demo.json, and as the lines of the README that are made from it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from segkit import __version__
from segkit.volume import format_size
from segkit_benchmarks.machine import installed_versions, machine_facts

RESULT = "demo.json"
"""The committed one is docs/results/demo.json; a test holds the README against it."""

_VERSIONS = ["numpy", "torch", "monai", "onnx", "onnxruntime", "openvino", "tensorrt_rtx_cu13"]
_TITLES = {
    "torch": "torch",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "tensorrt_rtx": "TensorRT for RTX",
    "tensorrt": "TensorRT",
}


def make_report(
    out: Path,
    steps: Sequence[Mapping[str, Any]],
    brain: Mapping[str, float | None],
    *,
    minutes: float,
    load: float | None,
    resumed: bool,
) -> dict[str, Any]:
    """The content of demo.json, schema 1, from what the steps wrote.

    Args:
        out: the folder of the demo.
        steps: each command with its seconds.
        brain: Dice of the real brain, and its foreground mean.
        minutes: that all of it took.
        load: how many processes wanted a core before it.
        resumed: whether the training had begun before; the minutes are then not those of the whole.
    """
    scores = json.loads((out / "run" / "scores.json").read_text())
    manifest = json.loads((out / "unet3d.segkit" / "manifest.json").read_text())
    profile = json.loads((out / "unet3d.profile.json").read_text())
    return {
        "schema": 1,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "segkit_version": __version__,
        "versions": installed_versions(_VERSIONS),
        "machine": machine_facts(),
        "load_average": load,
        "minutes": round(minutes, 2),
        "resumed": resumed,
        "phantom": {
            "subjects": [subject["subject"] for subject in scores["subjects"]],
            "dice": _rounded({**scores["mean"], "foreground_mean": scores["foreground_mean"]}),
        },
        "mni152": {"dice": _rounded(brain)},
        "proofs": [
            _only(proof, "runtime", "version", "precision", "max_abs_logit_difference", "label_agreement", "proven")
            for proof in manifest["proofs"]
        ],
        "patch": profile["network"]["patch"],
        "runtimes": [_only(row, "runtime", "version", "precision", "p50_ms", "failed") for row in profile["runtimes"]],
        "engines": [
            _only(row, "runtime", "version", "precision", "build_seconds", "activation_mib", "weights_mib", "status")
            for row in profile["engines"]
        ],
        "steps": list(steps),
    }


def render_markdown(report: Mapping[str, Any]) -> str:
    """The lines of the README that say what a demo gave: where and how long, and a table."""
    machine, heads = report["machine"], len(report["phantom"]["subjects"])
    instructions = ", ".join(machine["capabilities"]) or "instructions not known"
    load = "" if report["load_average"] is None else f"; load average {report['load_average']:.1f} before it"
    again = ", on what an earlier start had left" if report["resumed"] else ""
    rows = [
        (f"Dice on {heads} held-out phantom heads, %", _dice(report["phantom"]["dice"])),
        (
            "Dice on the real MNI152 T1 against its own tissue maps, %",
            f"{_dice(report['mni152']['dice'])} (an average of 152 heads: a picture of sense, no validation)",
        ),
        *((f"{_title(proof)} against torch, whole head", _proof(proof)) for proof in report["proofs"]),
        (f"a patch of {format_size(report['patch'])}, median", ", ".join(_speeds(report))),
        *((f"{_title(engine)} engine", _engine(engine)) for engine in report["engines"]),
    ]
    where = f"{machine['cores']} cores ({machine['cpu']}; {instructions}{load})"
    lines = [f"On {where} that took {report['minutes']:.1f} minutes{again}, and gave:", "", "| | |", "|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {found} |" for name, found in rows)])


def _only(row: Mapping[str, Any], *fields: str) -> dict[str, Any]:
    return {field: row[field] for field in fields if field in row}


def _rounded(scores: Mapping[str, float | None]) -> dict[str, float | None]:
    return {name: None if score is None else round(score, 4) for name, score in scores.items()}


def _dice(scores: Mapping[str, float | None]) -> str:
    """Of each class but background that is there, and their mean."""
    return ", ".join(
        f"{name.replace('_', ' ')} {100 * score:.1f}"
        for name, score in scores.items()
        if score is not None and name != "background"
    )


def _title(row: Mapping[str, Any]) -> str:
    name = _TITLES.get(row["runtime"], row["runtime"])
    return name if row["precision"] == "fp32" else f"{name}, {row['precision']},"


def _proof(proof: Mapping[str, Any]) -> str:
    return (
        f"logits within {proof['max_abs_logit_difference']:.1e}, "
        f"{100 * proof['label_agreement']:.4f} % of the labels the same{'' if proof['proven'] else '; NOT proven'}"
    )


def _speeds(report: Mapping[str, Any]) -> Iterator[str]:
    """Each runtime, the fastest first; then those that failed, but engines: their own row says that they did not."""
    built = {engine["runtime"] for engine in report["engines"] if engine["status"] != "proven"}
    for row in sorted((row for row in report["runtimes"] if "failed" not in row), key=lambda row: row["p50_ms"]):
        yield f"{_TITLES.get(row['runtime'], row['runtime'])} {row['p50_ms']:.0f} ms ({row['precision']})"
    for row in report["runtimes"]:
        if "failed" in row and row["runtime"] not in built:
            yield f"{_TITLES.get(row['runtime'], row['runtime'])} not run: {row['failed']}"


def _engine(engine: Mapping[str, Any]) -> str:
    return (
        f"built in {engine['build_seconds']:.1f} s, {engine['activation_mib']:.0f} MiB of activations, "
        f"{engine['weights_mib']:.1f} MiB of weights; "
        + ("proven" if engine["status"] == "proven" else "not run, no GPU there")
    )
