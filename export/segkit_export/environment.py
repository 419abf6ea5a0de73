"""What this environment is: packages, what they were built for, the NVIDIA driver, plugins that fail. No judgement.

Everything that runs foreign code is asked in a process of its own, since a bad library can end the process it is in.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segkit.conformance import HEAVY
from segkit.installed import OWN_DISTRIBUTION, Entry, normalise, shadowed_distributions, unreadable_distributions
from segkit_export.probes import DRIVER_PROBE, MODULE_PROBE, PLUGIN_MARK, PLUGIN_PROBE

OVERWRITTEN = ("onnxruntime", "tensorrt", "tensorrt_rtx")
"""Modules that several distributions bring, each overwriting the other's files."""

_TIMEOUT_SECONDS = 300
_BUSY = "still busy after"
_FLOOR = re.compile(r"\s*([A-Za-z0-9._-]+)\s*>=\s*([0-9][0-9.]*)")


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One module, imported in a process of its own.

    Attributes:
        module: its name.
        version: what it says of itself.
        seconds: how long the import took.
        error: why it does not import; empty where it does.
        slow: whether the error is that it took too long, as it may on a busy machine.
        details: what it was built for and finds here.
    """

    module: str
    version: str = ""
    seconds: float | None = None
    error: str = ""
    slow: bool = False
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU and its compute capability, such as "8.6"."""

    name: str
    capability: str


@dataclass(frozen=True, kw_only=True)
class Driver:
    """The NVIDIA driver.

    Attributes:
        cuda: the newest CUDA (major, minor) it serves.
        gpus: what it finds.
        error: CUDA's code where it does not start; 0 where it does, 100 where there is no GPU.
    """

    cuda: tuple[int, int]
    gpus: tuple[Gpu, ...] = ()
    error: int = 0


@dataclass(frozen=True, kw_only=True)
class BrokenPlugin:
    """A plugin that does not load."""

    kind: str
    name: str
    distribution: str
    stage: str
    error: str


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What was found.

    Attributes:
        python: version of the interpreter.
        platform: system and processor.
        processors: CPU cores that this process may use.
        distributions: version of each installed distribution, by normalised name.
        modules: probed modules -> the distributions that bring them.
        damaged: distributions -> how many of their files are gone or no longer theirs, if any.
        probes: the modules that are installed, imported.
        driver: the NVIDIA driver, or None where there is none.
        broken_plugins: plugins that do not load.
        floors: least versions that segkit asks for, by normalised name.
        shadowed: distributions with plugins that are on the path more than once, and where.
        unreadable: folders of metadata that cannot be read, and why.
    """

    python: str
    platform: str
    processors: int
    distributions: Mapping[str, str]
    modules: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    damaged: Mapping[str, int] = field(default_factory=dict)
    probes: tuple[Probe, ...] = ()
    driver: Driver | None = None
    broken_plugins: tuple[BrokenPlugin, ...] = ()
    floors: Mapping[str, str] = field(default_factory=dict)
    shadowed: Mapping[str, Sequence[str]] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)

    def probe(self, module: str) -> Probe | None:
        """The probe of a module, if it is installed."""
        return next((probe for probe in self.probes if probe.module == module), None)


def collect(entries: Iterable[Entry] = ()) -> Facts:
    """Look at this environment.

    Args:
        entries: the plugins that may be loaded.
    """
    found = _distributions()
    modules = _modules(found)
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        probes = [pool.submit(_probe, module) for module in modules]
        driver = pool.submit(_driver)
        broken = pool.submit(_broken_plugins, list(entries))
    return Facts(
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        processors=_processors(),
        distributions={name: distribution.version for name, distribution in sorted(found.items())},
        modules=modules,
        damaged=_damaged(found, modules),
        probes=tuple(probe.result() for probe in probes),
        driver=driver.result(),
        broken_plugins=tuple(broken.result()),
        floors=_floors(),
        shadowed=shadowed_distributions(),
        unreadable=unreadable_distributions(),
    )


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _distributions() -> dict[str, importlib.metadata.Distribution]:
    """Each distribution once: the first on the path is the one that is imported."""
    found: dict[str, importlib.metadata.Distribution] = {}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"] if distribution.metadata else None
        if name:
            found.setdefault(normalise(name), distribution)
    return found


def _modules(found: Mapping[str, importlib.metadata.Distribution]) -> dict[str, tuple[str, ...]]:
    """The heavy modules of which anything is installed, with the distributions that bring them."""
    brought: dict[str, list[str]] = {module: [] for module in HEAVY}
    for name, distribution in found.items():
        tops = {file.parts[0] for file in distribution.files or () if len(file.parts) > 1}
        for module in tops & brought.keys():
            brought[module].append(name)
    return {
        module: tuple(sorted(names))
        for module, names in brought.items()
        if names or importlib.util.find_spec(module) is not None
    }


def _damaged(
    found: Mapping[str, importlib.metadata.Distribution], modules: Mapping[str, Sequence[str]]
) -> dict[str, int]:
    """Count the files that are not what their distribution installed, by size, of modules that get overwritten."""
    damaged = {}
    for module in OVERWRITTEN:
        for name in modules.get(module, ()):
            ours = [file for file in found[name].files or () if file.parts[0] == module and file.size is not None]
            count = sum(not _is_of_size(file) for file in ours)
            if count:
                damaged[name] = count
    return damaged


def _is_of_size(file: importlib.metadata.PackagePath) -> bool:
    try:
        return Path(file.locate()).stat().st_size == file.size
    except OSError:
        return False


def _floors() -> dict[str, str]:
    """What segkit's own metadata asks for, extras included."""
    try:
        required = importlib.metadata.requires(OWN_DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    return {normalise(match[1]): match[2] for text in required if (match := _FLOOR.match(text))}


def _probe(module: str) -> Probe:
    answer, complaint = _ask(MODULE_PROBE, module)
    if answer is None:
        return Probe(module=module, error=complaint, slow=complaint.startswith(_BUSY))
    return Probe(module=module, **answer)


def _driver() -> Driver | None:
    answer, complaint = _ask(DRIVER_PROBE)
    if complaint:  # there is a driver, and it ended the process that asked it
        return Driver(cuda=(0, 0), error=-1)
    if answer is None:
        return None
    gpus = tuple(Gpu(name=name, capability=capability) for name, capability in answer["gpus"])
    return Driver(cuda=(answer["version"] // 1000, answer["version"] % 1000 // 10), gpus=gpus, error=answer["error"])


def _ask(code: str, *arguments: str) -> tuple[dict[str, Any] | None, str]:
    """Run a probe; its answer is the last line that it prints, or there is a complaint."""
    out, complaint = _run(code, *arguments)
    try:
        answer: dict[str, Any] | None = json.loads(out.splitlines()[-1])
    except (IndexError, ValueError):
        return None, complaint or "the process said nothing"
    return answer, ""


def _run(code: str, *arguments: str) -> tuple[str, str]:
    """The output of a probe, and why it ended before its end, if it did."""
    command = [sys.executable, "-P", "-c", code, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False)
    except subprocess.TimeoutExpired as expired:
        out = expired.stdout or b""
        return out.decode(errors="replace") if isinstance(out, bytes) else out, f"{_BUSY} {_TIMEOUT_SECONDS} s"
    if done.returncode == 0:
        return done.stdout, ""
    last = (done.stderr.strip().splitlines() or [""])[-1].strip()
    return done.stdout, last if done.returncode == 1 and last else f"the process ended with code {done.returncode}"


def _broken_plugins(entries: list[Entry]) -> list[BrokenPlugin]:
    """Load all plugins in one process; where one ends it, the rest goes on in the next."""
    broken = []
    while entries:
        out, complaint = _run(PLUGIN_PROBE, json.dumps([dataclasses.asdict(entry) for entry in entries]))
        lines = [line.removeprefix(PLUGIN_MARK) for line in out.splitlines() if line.startswith(PLUGIN_MARK)]
        answers = [json.loads(line) for line in lines]
        if len(answers) < len(entries):
            answers.append({"stage": "import", "error": complaint or "the process ended"})
        for entry, answer in zip(entries, answers, strict=False):
            if answer is not None:
                broken.append(BrokenPlugin(kind=entry.kind, name=entry.name, distribution=entry.distribution, **answer))
        entries = entries[len(answers) :]
    return broken
