"""Which GPUs an engine is built for, and what cannot be built for them: said before anything is built."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from segkit.errors import UnknownName, UsageError
from segkit_runtime.trt import PORTABLE, capability_name, runs_on

NEEDS_CLASSIC = {
    "sm87": "Jetson Orin",
    "sm90": "H100, H200",
    "sm100": "B200",
    "sm103": "B300",
    "sm110": "Jetson Thor",
}
"""Compute capabilities that TensorRT for RTX does not build for, and classic TensorRT does."""

TURING = "sm75"
"""The one capability on which TensorRT for RTX has no 3D convolution in fp32 or bf16."""

_SPELLING = re.compile(r"(?:sm_?)?(\d{1,2})\.?(\d)(\+?)", re.IGNORECASE)


def parse_targets(names: Iterable[str], known: Iterable[str]) -> tuple[str, ...]:
    """Turn names of compute capabilities as people write them into the manifest's: "8.6" and "SM86" become "sm86".

    Args:
        names: what was typed.
        known: the names that the module builds for, such as "sm86".

    Returns:
        The names in ascending order, each once.

    Raises:
        UnknownName: no such target.
        UsageError: only classic TensorRT builds for it.
    """
    allowed = [*known, PORTABLE]
    found = set()
    for name in names:
        match = _SPELLING.fullmatch(name.strip())
        target = f"sm{match[1]}{match[2]}{match[3]}" if match else name.lower()
        if target in allowed:
            found.add(target)
        elif target in NEEDS_CLASSIC:
            raise UsageError(
                f"expected a GPU that TensorRT for RTX builds for, got {target} ({NEEDS_CLASSIC[target]})",
                hint="needs classic TensorRT: --trt-module tensorrt on a machine with that GPU",
            )
        else:
            raise UnknownName("GPU target", target, allowed)
    if PORTABLE in found and len(found) > 1:
        raise UsageError(f"expected {PORTABLE} alone or named targets, got both: {', '.join(sorted(found))}")
    return tuple(sorted(found, key=_number))


def rtx_targets(trt: Any, names: Sequence[str], precision: str) -> tuple[str, ...]:
    """The targets of an engine of TensorRT for RTX; without names, one portable engine.

    Raises:
        UnknownName: no such target.
        UsageError: the module does not build for it, or not in this precision.
    """
    known = [name.lower() for name in trt.ComputeCapability.__members__ if re.fullmatch(r"SM\d+", name)]
    targets = parse_targets(names, known) or (PORTABLE,)
    if TURING in targets and precision not in ("fp16", "int8"):
        raise UsageError(
            f"expected fp16, or int8 made of fp16, for {TURING} (Turing), got {precision}: TensorRT for RTX has no 3D "
            "convolution in fp32 or bf16 there",
            hint="export in fp16, or leave this target out",
        )
    return targets


def classic_targets(
    trt: Any, names: Sequence[str], capability: tuple[int, int], *, hardware_compatible: bool
) -> tuple[str, ...]:
    """The targets of an engine of classic TensorRT, which builds on the GPU that the engine is for.

    Args:
        trt: the module.
        names: what was asked for; none means what this machine gives.
        capability: compute capability of the GPU here.
        hardware_compatible: whether the engine is to run on Ampere and everything newer.

    Raises:
        UnknownName: no such target.
        UsageError: another GPU than the one here is asked for, or it is older than Ampere.
    """
    here = capability_name(capability)
    made = PORTABLE if hardware_compatible else here
    if not runs_on([made], capability, trt):
        raise UsageError(f"expected Ampere or newer for an engine that runs on several GPUs, found {here}")
    asked = parse_targets(names, [here, *NEEDS_CLASSIC, TURING, "sm80", "sm86", "sm89", "sm120", "sm121"])
    if asked and asked != (made,):
        raise UsageError(
            f"expected the target {made}, got {', '.join(asked)}: classic TensorRT builds on the GPU the engine is for",
            hint="run the export on a machine with that GPU",
        )
    return (made,)


def _number(target: str) -> int:
    return int(target.strip("sm+"))
