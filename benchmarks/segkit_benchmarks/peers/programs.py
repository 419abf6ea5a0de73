"""Programs that are started anew in each round: until the first patch, and from files to labels."""

from __future__ import annotations

import json
import os
import resource
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
from segkit_benchmarks.peers.work import BUNDLE, MODALITIES, MONAI, MONAI_CROPPED, OPENVINO, TORCH, Content, Net
from segkit_benchmarks.turns import Side, Turn

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
    """

    words: Sequence[str]
    until: Literal["line", "end"]
    cache: Path | None
    once: Sequence[str] = ()


def repeat(turn: Turn, program: Program) -> None:
    """Run a program once, untimed, and then once in each round. A side of `segkit_benchmarks.turns`."""
    _run(program.once or program.words, program)
    turn({})
    while True:
        seconds = _run(program.words, program)
        # The largest of all so far; each run of a program takes the same.
        largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        turn({"seconds": seconds, "peak_mib": round(largest / (2**20 if sys.platform == "darwin" else 2**10), 1)})


def _run(words: Sequence[str], program: Program) -> float:
    with tempfile.TemporaryDirectory(prefix="segkit-peers-") as fresh, tempfile.TemporaryFile() as errors:
        environment = os.environ | {"XDG_CACHE_HOME": str(program.cache or fresh)}
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", *words], stdout=subprocess.PIPE, stderr=errors, env=environment
        )
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        with process.stdout:
            process.stdout.readline() if program.until == "line" else process.stdout.read()
            seconds = time.perf_counter() - began
            process.stdout.read()
        code = process.wait()
        if program.until == "end":
            seconds = time.perf_counter() - began
        if code:
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip().splitlines()
            raise SegkitError(f"its program ended with code {code}: {said[-1] if said else 'it said nothing'}")
    return seconds


def first_patches(
    folder: Path, network: Mapping[str, Any], net: Net, peers: Sequence[str], threads: int
) -> dict[str, Side]:
    """Sides that start and segment one patch, by name."""
    cache = folder / "cache"
    words = (FIRST_PATCH, "segkit", json.dumps({"bundle": str(folder / BUNDLE), "threads": threads}))
    sides: dict[str, Side] = {
        OPENVINO: partial(repeat, program=Program(words=words, until="line", cache=cache)),
        f"{OPENVINO}{COLD}": partial(repeat, program=Program(words=words, until="line", cache=None)),
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
    commands = {OPENVINO: [_segkit(folder, OPENVINO, content, threads) for content in contents]}
    if "monai" in peers:
        for name, cropped in ((MONAI, False), (MONAI_CROPPED, True)):
            commands[name] = [_monai(folder, name, network, net, content, cropped) for content in contents]
    cache = folder / "cache"
    return {
        name: partial(repeat, program=Program(words=words, until="end", cache=cache, once=first))
        for name, (first, words) in commands.items()
    }


def _images(folder: Path, content: Content) -> dict[str, str]:
    return {name: str(image_path(folder, content, name)) for name in MODALITIES}


def _segkit(folder: Path, side: str, content: Content, threads: int) -> list[str]:
    images = [f"--modality={name}={path}" for name, path in _images(folder, content).items()]
    out = written(folder, side, content)
    out.parent.mkdir(parents=True, exist_ok=True)
    words = ["segkit", "segment", str(folder / BUNDLE), *images, "--out", str(out)]
    return [*words, "--threads", str(threads), "--allow-untrained", "--overwrite"]


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

    paths = [written(folder, name, "check") for name in (side, reference)]
    if not all(path.is_file() for path in paths):
        return None
    mine, theirs = (np.asarray(nibabel.load(path).dataobj).squeeze() for path in paths)
    return same_labels(mine, theirs, blended=True)
