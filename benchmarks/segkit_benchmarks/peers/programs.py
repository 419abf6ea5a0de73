"""Programs that are started anew in each round: until the first patch, and from files to labels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from segkit.errors import SegkitError
from segkit_benchmarks.peers.prepare import image_path
from segkit_benchmarks.peers.report import same_labels
from segkit_benchmarks.peers.work import (
    MODALITIES,
    MONAI,
    MONAI_CROPPED,
    PROGRAM_OVERLAP,
    SEGKIT,
    TORCH,
    Content,
    Net,
    bundle_path,
)
from segkit_benchmarks.turns import Figures, Result, Side, Turn

FIRST_PATCH = "segkit_benchmarks.peers.first_patch"
COLD = ", nothing cached"
"""Of a side that compiles its network, as at the first start on a machine."""


@dataclass(frozen=True, kw_only=True)
class Program:
    """A program that is timed.

    Attributes:
        words: its command line behind `python -m`.
        until: what ends the time: its first line, or its end.
        cache: folder of compiled networks, or None for a new one each time.
        once: command line that is run before all rounds, or none.
        tells: whether its output is JSON that names the "runtime" and the "precision" that really ran.
    """

    words: Sequence[str]
    until: Literal["line", "end"]
    cache: Path | None
    once: Sequence[str] = ()
    tells: bool = False


def repeat(turn: Turn, program: Program) -> None:
    """Run a program once, untimed, and then once in each round. A side of `segkit_benchmarks.turns`."""
    _run(program.once or program.words, program)
    turn({})
    while True:
        figures, said = _run(program.words, program)
        turn({**figures} | ({"ran": _what_ran(json.loads(said))} if program.tells else {}))


def _what_ran(told: Mapping[str, Any]) -> str:
    """A runtime and, if it is not fp32, its precision."""
    return str(told["runtime"]) + ("" if told["precision"] == "fp32" else f" {told['precision']}")


def by_what_ran(results: Mapping[str, Result]) -> dict[str, Result]:
    """The same results, ours named by what they say they ran, as sides of whole volumes are named."""
    named = {}
    for name, result in results.items():
        ran = " and ".join(dict.fromkeys(figures["ran"] for figures in result.rounds if "ran" in figures))
        named[name.replace(SEGKIT, f"{SEGKIT}, {ran}", 1) if ran else name] = result
    return named


def _run(words: Sequence[str], program: Program) -> tuple[Figures, bytes]:
    """The time in s that a program took, its largest resident memory in MiB, and what it said."""
    with tempfile.TemporaryDirectory(prefix="segkit-peers-") as fresh, tempfile.TemporaryFile() as errors:
        environment = os.environ | {"XDG_CACHE_HOME": str(program.cache or fresh)}
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", *words], stdout=subprocess.PIPE, stderr=errors, env=environment
        )
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        with process.stdout:
            out = process.stdout.readline() if program.until == "line" else process.stdout.read()
            seconds = time.perf_counter() - began
            out += process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = code = os.waitstatus_to_exitcode(status)
        if program.until == "end":
            seconds = time.perf_counter() - began
        if code:
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip().splitlines()
            raise SegkitError(f"its program ended with code {code}: {said[-1] if said else 'it said nothing'}")
    peak_mib = usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return {"seconds": seconds, "peak_mib": round(peak_mib, 1)}, out


def first_patches(
    folder: Path, network: Mapping[str, Any], net: Net, peers: Sequence[str], threads: int
) -> dict[str, Side]:
    """Sides that start and segment one patch, by name."""
    cache = folder / "cache"
    bundle = bundle_path(folder, net.model, PROGRAM_OVERLAP)
    words = (FIRST_PATCH, "segkit", json.dumps({"bundle": str(bundle), "threads": threads}))
    sides: dict[str, Side] = {
        name: partial(repeat, program=Program(words=words, until="line", cache=kept, tells=True))
        for name, kept in ((SEGKIT, cache), (f"{SEGKIT}{COLD}", None))
    }
    facts = json.dumps({"network": dict(network), "patch": net.patch})
    for name, way in ((TORCH, "torch"), (MONAI, "monai")):
        if way in peers:
            program = Program(words=(FIRST_PATCH, way, facts), until="line", cache=cache)
            sides[name] = partial(repeat, program=program)
    return sides


def whole_runs(
    folder: Path, network: Mapping[str, Any], net: Net, peers: Sequence[str], threads: int
) -> dict[str, Side]:
    """Sides that read the stripped head's files and write its labels, by name.

    Before all else each does so with the check volume, and what it wrote stays; see `written`.
    """
    contents: tuple[Content, Content] = ("check", "stripped")
    commands = {SEGKIT: [_segkit(folder, net, content, threads) for content in contents]}
    if "monai" in peers:
        for name, cropped in ((MONAI, False), (MONAI_CROPPED, True)):
            commands[name] = [_monai(folder, name, network, net, content, cropped) for content in contents]
    cache = folder / "cache"
    return {
        name: partial(repeat, program=Program(words=words, until="end", cache=cache, once=first, tells=name == SEGKIT))
        for name, (first, words) in commands.items()
    }


def _images(folder: Path, content: Content) -> dict[str, str]:
    return {name: str(image_path(folder, content, name)) for name in MODALITIES}


def _segkit(folder: Path, net: Net, content: Content, threads: int) -> list[str]:
    images = [f"--modality={name}={path}" for name, path in _images(folder, content).items()]
    out = written(folder, SEGKIT, content)
    out.parent.mkdir(parents=True, exist_ok=True)
    words = ["segkit", "segment", str(bundle_path(folder, net.model, PROGRAM_OVERLAP)), *images, "--out", str(out)]
    return [*words, "--threads", str(threads), "--allow-untrained", "--overwrite", "--json"]


def _monai(folder: Path, side: str, network: Mapping[str, Any], net: Net, content: Content, cropped: bool) -> list[str]:
    facts = {
        "images": list(_images(folder, content).values()),
        "network": dict(network),
        "patch": net.patch,
        "cropped": cropped,
        "out": str(written(folder, side, content).parent),
    }
    return ["segkit_benchmarks.peers.monai_run", json.dumps(facts)]


def written(folder: Path, side: str, content: Content) -> Path:
    """Where a side of the whole runs writes labels."""
    return folder / "written" / side / content / "labels.nii.gz"


def agreement(folder: Path, side: str, reference: str) -> float | None:
    """Share of the check volume's voxels that two sides of the whole runs label alike; None if one wrote none."""
    import nibabel

    names = [SEGKIT if name.startswith(SEGKIT) else name for name in (side, reference)]
    paths = [written(folder, name, "check") for name in names]
    if not all(path.is_file() for path in paths):
        return None
    mine, theirs = (np.asarray(nibabel.load(path).dataobj).squeeze() for path in paths)
    return same_labels(mine, theirs, np.load(folder / "check-mask.npy"), blended=True)
