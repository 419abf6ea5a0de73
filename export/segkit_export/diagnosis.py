"""What is wrong in an environment: a pure function of its facts, each finding with the command that mends it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from segkit_export.environment import OVERWRITTEN, Driver, Facts, Probe

SAFE_FLOORS = {"torch": "2.10", "onnx": "1.21"}
"""Older ones have known holes in how they read files."""
RTX_CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
"""What TensorRT for RTX builds for; portable engines run from 8.0 on, up to the newest of these."""

_NO_DEVICE = 100
_WHEELS = "https://download.pytorch.org/whl"
_ORT_FOR_CPU = "pip uninstall -y onnxruntime-gpu && pip install --force-reinstall onnxruntime"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that does not match.

    Attributes:
        problem: what is wrong, in a sentence.
        evidence: what shows it.
        command: what mends it.
        broken: whether something does not work, or is not safe; False where it only does less than it could.
    """

    problem: str
    evidence: str
    command: str
    broken: bool = True


def diagnose(facts: Facts) -> list[Finding]:
    """Everything that does not match, what is broken first."""
    checks = (_overwritten, _imports, _floors, _driver, _onnxruntime, _torch, _tensorrt, _plugins)
    found = [finding for check in checks for finding in check(facts)]
    return sorted(found, key=lambda finding: not finding.broken)


def _overwritten(facts: Facts) -> Iterator[Finding]:
    """Several distributions in one folder, and what an uninstall of one of them leaves."""
    for module in OVERWRITTEN:
        names = facts.modules.get(module, ())
        if len(names) > 1:
            keep = _to_keep(facts, names)
            there = ", ".join(f"{name} {facts.distributions[name]}" for name in names)
            harm = ", ".join(f"{facts.damaged[name]} files of {name}" for name in names if name in facts.damaged)
            probe = facts.probe(module)
            yield Finding(
                problem=f"{len(names)} packages write the same folder {module}/, and pip does not say so",
                evidence=f"installed: {there}; overwritten: {harm or 'nothing that shows'}; the import gives "
                f"{(probe and (probe.version or probe.error)) or 'nothing'}",
                command=f"pip uninstall -y {' '.join(names)} && {_reinstall(facts, keep)}",
            )
        for name in names if len(names) == 1 else ():
            if name in facts.damaged:
                yield Finding(
                    problem=f"{name} is incomplete: another package has overwritten or taken away its files",
                    evidence=f"{facts.damaged[name]} files are gone or have another size",
                    command=_reinstall(facts, name),
                )


def _to_keep(facts: Facts, names: Sequence[str]) -> str:
    """With a GPU the distribution for it, of the driver's CUDA; else the plain one."""
    if facts.driver is not None and facts.driver.gpus:
        for wanted in ("onnxruntime-gpu", *(name for name in names if name.endswith(f"-cu{facts.driver.cuda[0]}"))):
            if wanted in names:
                return wanted
    return min(names, key=len)


def _reinstall(facts: Facts, name: str) -> str:
    return f"pip install --force-reinstall --no-deps {name}=={facts.distributions[name]}"


def _imports(facts: Facts) -> Iterator[Finding]:
    for probe in facts.probes:
        names = facts.modules.get(probe.module, ())
        if not probe.error or (probe.module in OVERWRITTEN and len(names) > 1) or facts.damaged.keys() & set(names):
            continue
        if probe.slow:
            yield Finding(
                problem=f"nobody knows whether the module {probe.module} imports: it took too long",
                evidence=probe.error,
                command=f'python -X importtime -c "import {probe.module}"',
                broken=False,
            )
            continue
        yield Finding(
            problem=f"the module {probe.module} is installed and does not load",
            evidence=probe.error,
            command=" && ".join(_reinstall(facts, name) for name in names)
            or f"pip install --force-reinstall {probe.module}",
        )


def _floors(facts: Facts) -> Iterator[Finding]:
    for name, floor in {**facts.floors, **SAFE_FLOORS}.items():
        version = facts.distributions.get(name)
        if version is not None and _numbers(version) < _numbers(floor):
            why = "older ones are not safe" if name in SAFE_FLOORS else "segkit asks for it"
            yield Finding(
                problem=f"{name} is older than {floor}: {why}",
                evidence=f"{name} {version}",
                command=f'pip install --upgrade "{name}>={floor}"',
            )


def _driver(facts: Facts) -> Iterator[Finding]:
    driver = facts.driver
    if driver is not None and driver.error:
        none = driver.error == _NO_DEVICE
        yield Finding(
            problem="the NVIDIA driver finds no GPU" if none else "the NVIDIA driver does not start",
            evidence=f"cuInit gives {driver.error}; driver for CUDA {_dotted(driver)}",
            command="nvidia-smi && echo CUDA_VISIBLE_DEVICES=$CUDA_VISIBLE_DEVICES",
            broken=not none,
        )


def _onnxruntime(facts: Facts) -> Iterator[Finding]:
    probe, driver = facts.probe("onnxruntime"), facts.driver
    if probe is None or probe.error:
        return
    gpu_build, asked = "onnxruntime-gpu" in facts.distributions, "CUDAExecutionProvider"
    if gpu_build and driver is None:
        yield Finding(
            problem="onnxruntime-gpu is installed and there is no NVIDIA driver: it runs on the CPU without a word",
            evidence="libcuda does not load",
            command=_ORT_FOR_CPU,
        )
    elif gpu_build and driver is not None and driver.gpus:
        session = probe.details.get("session")
        if too_new := _newer_cuda(probe, driver):
            yield _other_cuda("onnxruntime-gpu", too_new, driver, _ORT_FOR_CPU)
        elif session is not None and asked not in session:
            yield Finding(
                problem="onnxruntime-gpu does not find CUDA's libraries: it runs on the CPU without a word",
                evidence=f"asked for {asked}, a session gives {', '.join(session)}",
                command='pip install --force-reinstall "onnxruntime-gpu[cuda,cudnn]"',
            )
    elif driver is not None and driver.gpus and "onnxruntime" in facts.distributions:
        yield Finding(
            problem="there is a GPU, and ONNX Runtime is the build for CPUs",
            evidence=f"{driver.gpus[0].name}; providers: {', '.join(probe.details.get('providers', ()))}",
            command='pip uninstall -y onnxruntime && pip install --force-reinstall "onnxruntime-gpu[cuda,cudnn]"',
            broken=False,
        )


def _torch(facts: Facts) -> Iterator[Finding]:
    probe, driver = facts.probe("torch"), facts.driver
    if probe is None or probe.error:
        return
    built_for = probe.details.get("cuda", "")
    evidence = f"torch {probe.version}, built for {f'CUDA {built_for}' if built_for else 'CPUs'}"
    if built_for and driver is None:
        yield Finding(
            problem="torch is a build for CUDA and there is no NVIDIA driver: it runs on the CPU",
            evidence=evidence,
            command=f"pip install --force-reinstall torch --index-url {_WHEELS}/cpu",
            broken=False,
        )
    elif driver is not None and driver.gpus and not built_for:
        yield Finding(
            problem="there is a GPU, and torch is the build for CPUs",
            evidence=f"{driver.gpus[0].name}; {evidence}",
            command=_torch_for(driver),
            broken=False,
        )
    elif driver is not None and driver.gpus and _newer_cuda(probe, driver):
        yield _other_cuda("torch", built_for, driver, _torch_for(driver))
    elif driver is not None and driver.gpus and not probe.details.get("finds_cuda"):
        yield Finding(
            problem="torch finds no CUDA device, and the driver does",
            evidence=f"{driver.gpus[0].name}; {evidence}",
            command=_torch_for(driver),
        )


def _torch_for(driver: Driver) -> str:
    build = "cu130" if driver.cuda >= (13, 0) else "cu126"
    return f"pip install --force-reinstall torch --index-url {_WHEELS}/{build}"


def _tensorrt(facts: Facts) -> Iterator[Finding]:
    driver = facts.driver
    for module in ("tensorrt", "tensorrt_rtx"):
        names = facts.modules.get(module, ())
        if not names:
            continue
        build = re.search(r"-cu(\d+)", " ".join(names))
        if driver is None and module == "tensorrt":
            yield Finding(
                problem="TensorRT is installed and there is no NVIDIA driver: it builds and runs nothing here",
                evidence=f"{names[0]} {facts.distributions[names[0]]}; libcuda does not load",
                command='pip install "segkit3d[trt]"',
                broken=False,
            )
        elif driver is not None and build and int(build[1]) > driver.cuda[0]:
            ours = f"{names[0].split('-cu')[0]}-cu{driver.cuda[0]}"
            command = f"pip uninstall -y {' '.join(names)} && pip install --force-reinstall {ours}"
            yield _other_cuda(names[0], build[1], driver, command)
        elif driver is not None and module == "tensorrt_rtx":
            for gpu in driver.gpus:
                if gpu.capability not in RTX_CAPABILITIES:
                    yield Finding(
                        problem=f"TensorRT for RTX builds nothing for the {gpu.name}, classic TensorRT does",
                        evidence=f"compute capability {gpu.capability}, it takes {', '.join(RTX_CAPABILITIES)}",
                        command='pip install "segkit3d[tensorrt]"',
                        broken=False,
                    )


def _plugins(facts: Facts) -> Iterator[Finding]:
    for plugin in facts.broken_plugins:
        yield Finding(
            problem=f"the {plugin.kind} {plugin.name!r} of {plugin.distribution} does not load",
            evidence=f"at stage {plugin.stage}: {plugin.error}",
            command=f"segkit plugins doctor {plugin.distribution}",
        )
    for name, places in facts.shadowed.items():
        yield Finding(
            problem=f"{name} is installed {len(places)} times, and the first is used",
            evidence=", ".join(places),
            command=f"pip uninstall -y {name} && pip install {name}",
            broken=False,
        )
    for folder, error in facts.unreadable.items():
        yield Finding(
            problem="metadata of a package cannot be read, so its plugins are left out",
            evidence=f"{folder}: {error}",
            command=f"rm -r {shlex.quote(folder)}",
            broken=False,
        )


def _newer_cuda(probe: Probe, driver: Driver) -> str:
    """The CUDA that a module was built for, if the driver is too old for it."""
    built_for = str(probe.details.get("cuda", ""))
    return built_for if built_for and _numbers(built_for)[:1] > driver.cuda[:1] else ""


def _other_cuda(name: str, built_for: str, driver: Driver, command: str) -> Finding:
    return Finding(
        problem=f"{name} is built for CUDA {built_for}, the NVIDIA driver serves CUDA up to {_dotted(driver)}",
        evidence=f"{driver.gpus[0].name if driver.gpus else 'no GPU'}; or install a driver for CUDA {built_for}",
        command=command,
    )


def _dotted(driver: Driver) -> str:
    return ".".join(map(str, driver.cuda))


def _numbers(version: str) -> tuple[int, ...]:
    """The numbers of a version, without what follows them: "2.13.0+cpu" is (2, 13, 0)."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, match[0].split("."))) if match else ()
