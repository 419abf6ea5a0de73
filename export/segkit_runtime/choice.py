"""Which way to run a bundle: of those that are proven and asked for, the fastest that this machine can take."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np

from segkit.cards import Size
from segkit.errors import BundleError, MissingExtra, SegkitError, UnknownName, UsageError
from segkit.memory import held_bytes
from segkit_runtime.bundle import Bundle
from segkit_runtime.engines import (
    ENGINES,
    RuntimeEngine,
    open_engine,
    reopen_engine,
    require_device,
    require_precision,
    require_runtime,
)
from segkit_runtime.engines.checked import CheckedEngine
from segkit_runtime.manifest import CompiledEngine, Manifest, Precision, Proof
from segkit_runtime.processor import FAST_BF16, cpu_instructions
from segkit_runtime.selfcheck import passed_before, remember_passed, run_selfcheck

AUTO: Final = "auto"

_WITHOUT_AMX: tuple[Precision, ...] = ("fp32", "tf32", "fp16", "bf16", "int8")
_WITH_AMX: tuple[Precision, ...] = ("bf16", *(precision for precision in _WITHOUT_AMX if precision != "bf16"))
"""Precisions, the likely fastest first, for where no times tell; int8 is last, since it is the least exact."""


@dataclass(frozen=True)
class Way:
    """A way to run a bundle that is proven.

    Attributes:
        proof: what it was proven with.
        device: where it shall run.
        file: what the runtime loads: an ONNX file, or an engine that was compiled from one.
        built: what the manifest says of that engine; None for an ONNX file.
    """

    proof: Proof
    device: str
    file: str
    built: CompiledEngine | None = None

    def __str__(self) -> str:
        return f"{self.proof.runtime} on {self.device} in {self.proof.precision}"


@dataclass(frozen=True)
class Opened:
    """An engine that is ready.

    Attributes:
        engine: the engine.
        way: how it runs.
        selfchecked: whether it passed the bundle's self-check.
        patches: the sizes of tiles that it may be run with: those that it was proven on and that fit the budget.
        warnings: the ways that come before it and cannot be taken here, each with the reason.
    """

    engine: RuntimeEngine
    way: Way
    selfchecked: bool
    patches: tuple[Size, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Wanted:
    """How an engine is to be opened.

    Attributes:
        threads: CPU threads, or None for the runtime's own choice.
        selfcheck: whether a way must pass the bundle's self-check; see `load`.
        budget_bytes: the most main memory that the process may hold, or None for any.
    """

    threads: int | None = None
    selfcheck: bool | Literal["auto"] = AUTO
    budget_bytes: int | None = None


def proven_ways(manifest: Manifest) -> list[Way]:
    """All ways that are proven, the fastest first.

    Times of a CPU with other instructions than this one has say nothing here: bf16 that takes half as long as fp32 may
    take longer than it without AMX. Where there are no times to go by, fp32 comes first (with AMX bf16), int8 last, and
    then the order of `ENGINES` counts.

    A proof by emulation is of a file and not of a runtime: it is no way to run anything. A compiled engine must be
    proven itself, and not only the file that it was built from.
    """
    found = []
    for proof in manifest.proofs:
        if proof.runtime not in ENGINES or not proof.proven or proof.arithmetic != "native":
            continue
        if ENGINES[proof.runtime].takes == "onnx":
            found.append(Way(proof, proof.device, proof.model))
            continue
        same = (proof.runtime, proof.precision, proof.model)
        found += [
            Way(proof, proof.device, engine.file, engine)
            for engine in manifest.engines
            if engine.status == "proven" and (engine.runtime, engine.precision, engine.model) == same
        ]
    return sorted(found, key=_place)


def choose_ways(manifest: Manifest, runtime: str = AUTO, precision: str = AUTO, device: str = AUTO) -> list[Way]:
    """The proven ways that fit what was asked for, the fastest first.

    Args:
        manifest: of the bundle.
        runtime: a name of `ENGINES`, or "auto" for any.
        precision: a precision, or "auto" for any.
        device: "cpu", "cuda:1", or "auto" for where it was proven. A proof on one CUDA device is one for all of them.

    Raises:
        UnknownName: no such runtime or precision.
        UsageError: no such device, or nothing that was asked for is proven.
        BundleError: nothing at all is proven.
    """
    if runtime not in (AUTO, *ENGINES):
        raise UnknownName("runtime", runtime, ENGINES)
    if precision != AUTO:
        require_precision(precision)
    if device != AUTO:
        require_device(device)
    proven = proven_ways(manifest)
    if not proven:
        emulated = any(proof.proven and proof.arithmetic == "emulated" for proof in manifest.proofs)
        raise BundleError(
            f"expected a runtime that is proven for the bundle {manifest.name!r}, found "
            + ("proofs by emulation only, which are of a file and not of a runtime" if emulated else "none"),
            hint="export it again with one of them installed: " + ", ".join(ENGINES),
        )
    fitting = [
        way if device == AUTO else replace(way, device=device)
        for way in proven
        if runtime in (AUTO, way.proof.runtime)
        and precision in (AUTO, way.proof.precision)
        and (device == AUTO or _kind(device) == _kind(way.device))
    ]
    if not fitting:
        asked = [word for word in (runtime, device, precision) if word != AUTO]
        raise UsageError(
            f"expected a way to run that is proven for the bundle {manifest.name!r}, got {' '.join(asked)}",
            hint=f"proven: {'; '.join(dict.fromkeys(map(str, proven)))}; export the bundle again to prove another",
        )
    return fitting


def open_fastest(bundle: Bundle, ways: Sequence[Way], wanted: Wanted | None = None) -> Opened:
    """Open the first way that this machine can take, and its memory. What is passed over is told.

    Args:
        bundle: where the files are.
        ways: as `choose_ways` gives them; at least one.
        wanted: how.

    Raises:
        BundleError: a file was altered since the bundle was opened, or is not what the manifest says.
        SegkitError: none can be taken; where all have the same reason, it is that error.
    """
    refused: list[tuple[Way, SegkitError]] = []
    for way in _each_once(ways):
        opened = _take(bundle, way, ways, wanted or Wanted())
        if isinstance(opened, Opened):
            told = [f"{other} comes before {way} and cannot be taken here: {error}" for other, error in refused]
            return replace(opened, warnings=tuple(told))
        refused.append((way, opened))
    if len({str(error) for _, error in refused}) == 1:
        raise refused[0][1]
    raise UsageError(
        f"expected a way to run that is proven for the bundle {bundle.manifest.name!r} and can be taken here, found "
        f"none: {'; '.join(f'{way}: {error}' for way, error in refused)}"
    )


def _take(bundle: Bundle, way: Way, ways: Sequence[Way], wanted: Wanted) -> Opened | SegkitError:
    """Open one way, or say why this machine cannot take it. A file that is not as it should be is raised."""
    try:
        require_runtime(way.proof.runtime)
    except MissingExtra as error:
        return error
    runtime, sha256 = way.proof.runtime, bundle.checksums[way.file]
    options: dict[str, Any] = {
        "precision": way.proof.precision,
        "device": way.device,
        "threads": wanted.threads,
        "output": "labels" if bundle.manifest.inference.overlap == 0 else "logits",
    }
    try:
        engine = reopen_engine(runtime, sha256, **options)
    except SegkitError as error:
        return error
    if engine is None:
        content = bundle.read(way.file)
        try:
            engine = open_engine(runtime, content, built=way.built, **options)
        except SegkitError as error:
            # Its frames hold the content of the file.
            error.__traceback__ = error.__cause__ = error.__context__ = None
            return error
        del content
        engine.keep(sha256)
    way = _of_version(way, ways, engine.version)
    try:
        selfchecked = _check(bundle, way, engine, wanted.selfcheck)
        patches = _fitting_patches(bundle, engine, way.proof, wanted.budget_bytes)
        return Opened(engine, way, selfchecked, patches)
    except BaseException as error:
        engine.close()
        if isinstance(error, BundleError) or not isinstance(error, SegkitError):
            raise
        return error


def _check(bundle: Bundle, way: Way, engine: RuntimeEngine, selfcheck: bool | Literal["auto"]) -> bool:
    """Hold an engine against the manifest, and against the self-check where that is called for; whether it passed that.

    Integers are always checked: where a CPU lacks the instructions that they were proven with, sums may overflow. What
    passed on this CPU before is not run again, unless it is asked for.
    """
    expected = bundle.manifest.channels
    if engine.channels not in (None, expected):
        raise BundleError(
            f"expected a model for {expected} channels, {way.file} takes {engine.channels}",
            hint="export the bundle again",
        )
    called_for = way.proof.version != engine.version or way.proof.precision == "int8"
    if not (called_for if selfcheck == AUTO else selfcheck) or bundle.manifest.selfcheck is None:
        return False
    if selfcheck is True or not passed_before(bundle, engine, way.proof):
        run_selfcheck(bundle, engine, way.proof)
        remember_passed(bundle, engine, way.proof)
    return True


def _fitting_patches(bundle: Bundle, engine: RuntimeEngine, proof: Proof, budget_bytes: int | None) -> tuple[Size, ...]:
    """The sizes of tiles that an engine was proven on, without those that would not fit the budget.

    The smallest is run, on nothing, and then each larger one that would fit if memory grew with its voxels.

    Raises:
        SegkitError: the engine holds more than the budget with the smallest, or it fails.
    """
    manifest = bundle.manifest
    proven = (manifest.inference.patch, *(tiles.patch for tiles in proof.tiles if tiles.proven))
    if budget_bytes is None:
        return proven
    checked = CheckedEngine(engine, len(manifest.labels))
    fitting: list[Size] = []
    before = held = held_bytes() or 0
    voxel_bytes = 4 * engine.batch * (manifest.channels + len(manifest.labels))  # of what goes in and comes out
    for patch in sorted(proven, key=math.prod):
        voxels = math.prod(patch)
        grown = max(voxels * voxel_bytes, (held - before) * voxels / math.prod(fitting[-1])) if fitting else 0
        if before + grown > budget_bytes:
            break
        checked.run(np.zeros((engine.batch, manifest.channels, *patch), np.float32))
        held = held_bytes() or 0
        if held > budget_bytes:
            break
        fitting.append(patch)
    if not fitting:
        raise UsageError(
            f"expected a network that runs within {budget_bytes / 2**20:,.0f} MiB, {engine.runtime} in "
            f"{engine.precision} holds {held / 2**20:,.0f} MiB before any volume is read",
            hint="raise the budget, or export the bundle with a smaller patch or --also-patch",
        )
    return tuple(patch for patch in proven if patch in fitting)


def _each_once(ways: Iterable[Way]) -> list[Way]:
    """Each file on each runtime once, however many versions of the runtime it was proven with."""
    found: dict[tuple[str, str], Way] = {}
    for way in ways:
        found.setdefault((str(way), way.file), way)
    return list(found.values())


def _of_version(way: Way, ways: Iterable[Way], version: str) -> Way:
    """The same way with the proof of this very version, if there is one."""
    same = [other for other in ways if (str(other), other.file) == (str(way), way.file)]
    return next((other for other in same if other.proof.version == version), way)


def _kind(device: str) -> str:
    return device.partition(":")[0]


def _place(way: Way) -> tuple[bool, float, int, int]:
    """Where it comes in line."""
    proof, here = way.proof, cpu_instructions()
    patch_ms = proof.patch_ms if proof.cpu_instructions in (None, list(here)) else None
    order = _WITH_AMX if FAST_BF16 in here else _WITHOUT_AMX
    rank = order.index(proof.precision) if patch_ms is None else 0
    return (patch_ms is None, patch_ms or 0.0, rank, list(ENGINES).index(proof.runtime))
