"""The machine that figures come from: what it is, what else it does, and what it can do at most."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segkit_benchmarks.profile import describe_machine
from segkit_runtime.processor import cpu_instructions

if TYPE_CHECKING:
    import torch

    from segkit_benchmarks.turns import Turn

GEMM_SIDE = 2048
"""Of the square matrices whose product is the peak that all else is held against."""

_COPY_BYTES, GEMM_REPEATS = 128 * 2**20, 20
_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
_SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


def machine_facts() -> dict[str, Any]:
    """What the machine is: its CPU with the instructions that matter, its memory, its governor."""
    return {
        **describe_machine(),
        "memory_mib": _memory_mib(),
        "capabilities": cpu_capabilities(),
        "governor": _governor(),
    }


def cpu_capabilities() -> list[str]:
    """Instructions of the CPU that decide how fast it computes, by Linux' names, as far as the system tells."""
    return list(cpu_instructions())


def installed_versions(distributions: Iterable[str]) -> dict[str, str]:
    """Versions of the distributions that are installed."""
    found: dict[str, str] = {}
    for name in distributions:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def load_average() -> float | None:
    """How many processes wanted a core in the last minute, or None where the system does not tell."""
    try:
        return round(os.getloadavg()[0], 2)
    except OSError:
        return None


def usable_cores() -> list[int]:
    """The logical cores that this process may use, one of each physical core first."""
    if not hasattr(os, "sched_getaffinity"):
        return list(range(os.cpu_count() or 1))
    mine = sorted(os.sched_getaffinity(0))
    seen: set[str] = set()
    first: list[int] = []
    second: list[int] = []
    for core in mine:
        try:
            physical = Path(_SIBLINGS.format(core)).read_text(encoding="ascii").strip()
        except OSError:
            physical = str(core)
        (second if physical in seen else first).append(core)
        seen.add(physical)
    return first + second


def pin(cores: list[int]) -> None:
    """Bind this process and all its later threads to cores, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


def peaks(turn: Turn, cores: list[int]) -> None:
    """Measure what the machine can do: GFLOP/s of fp32 products of 2048^2 matrices, GB/s of a copy; the best of some.

    A side of `segkit_benchmarks.turns`: each device's figures in the first hand-over.
    """
    pin(cores)
    import torch

    devices = ["cpu", *(["cuda:0"] if torch.cuda.is_available() else [])]
    with torch.inference_mode():  # torch leaves TF32 off for products: fp32 is meant
        turn({device: _peak(torch.device(device)) for device in devices})
    while True:
        turn({})


def _peak(device: torch.device) -> dict[str, float]:
    import torch

    a, b = torch.randn(2, GEMM_SIDE, GEMM_SIDE, device=device)
    source = torch.ones(_COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return {
        "gemm_gflops_per_second": round(2 * GEMM_SIDE**3 / _best_seconds(lambda: torch.mm(a, b), device) / 1e9, 1),
        "copy_gb_per_second": round(2 * _COPY_BYTES / _best_seconds(lambda: target.copy_(source), device) / 1e9, 1),
    }


def _best_seconds(work: Callable[[], object], device: torch.device) -> float:
    import torch

    times = []
    for _ in range(GEMM_REPEATS):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return min(times)


def _memory_mib() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    except (AttributeError, ValueError, OSError):
        return None


def _governor() -> str:
    try:
        return _GOVERNOR.read_text(encoding="ascii").strip()
    except OSError:
        return "not told by the system"
