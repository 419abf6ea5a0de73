"""What is in a bundle and where it runs, as plain data for `segkit inspect` and for scripts."""

from __future__ import annotations

import itertools
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any

from segkit.errors import SegkitError
from segkit.extras import is_installed
from segkit_runtime.bundle import SIGNATURE, SUMS, Bundle
from segkit_runtime.engines import ENGINES
from segkit_runtime.manifest import CompiledEngine, Manifest, Proof

_REBUILD = "build it again: segkit rebuild BUNDLE"


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to run a bundle.

    Attributes:
        runtime: what runs it.
        versions: the versions it was held against torch with, or the one that built the engine.
        device: where, for example "cpu".
        precision: what it computes in.
        file: the ONNX file or the engine that it loads.
        status: "proven", "emulated only" (a runtime that rounded to this precision proved the file), "not proven"
            (it was held against torch and failed), or "built, not run".
        here: whether it can run on this machine.
        reason: why not, or what is different here; empty where there is nothing to say.
    """

    runtime: str
    versions: tuple[str, ...]
    device: str
    precision: str
    file: str
    status: str
    here: bool
    reason: str


def describe(bundle: Bundle) -> dict[str, Any]:
    """All about a bundle that `segkit inspect --json` prints: files, signature, ways to run it, and its manifest."""
    sizes = {name: (bundle.folder / name).stat().st_size for name in _names(bundle)}
    return {
        "path": str(bundle.path),
        "id": bundle.id,
        "signature": {"signed_by": bundle.signed_by, "checked": bundle.trusted},
        "bytes": sum(sizes.values()),
        "files": [
            {"file": name, "bytes": size, "sha256": bundle.checksums.get(name)} for name, size in sorted(sizes.items())
        ],
        "machine": f"{platform.system()} {platform.machine()}",
        "runs_on": [asdict(way) for way in list_ways(bundle.manifest)],
        "manifest": bundle.manifest.model_dump(mode="json"),
    }


def list_ways(manifest: Manifest) -> list[Way]:
    """Every runtime with every file and precision that the bundle has a proof or an engine for."""
    hashes = {model.file: model.sha256 for model in manifest.models}
    ways = [_engine_way(engine, engine.onnx_sha256 != hashes[engine.model]) for engine in manifest.engines]
    compiled = {(engine.runtime, engine.precision, engine.model) for engine in manifest.engines}

    def key(proof: Proof) -> tuple[str, str, str, str]:
        return proof.runtime, proof.precision, proof.model, proof.device

    for _, group in itertools.groupby(sorted(manifest.proofs, key=key), key):
        proofs = list(group)
        if key(proofs[0])[:3] not in compiled:
            ways.append(_proof_way(proofs))
    order = ["proven", "emulated only", "not proven", "built, not run"]
    return sorted(ways, key=lambda way: (order.index(way.status), way.runtime, way.precision))


def _engine_way(engine: CompiledEngine, stale: bool) -> Way:
    reason = f"built from another {engine.model}; {_REBUILD}" if stale else ""
    reason = reason or _why_not(engine.runtime, "cuda") or _why_not_this(engine)
    return Way(
        runtime=engine.runtime,
        versions=(engine.version,),
        device="cuda",
        precision=engine.precision,
        file=engine.file,
        status=engine.status,
        here=not reason,
        reason=reason,
    )


def _proof_way(proofs: Sequence[Proof]) -> Way:
    first = proofs[0]
    kept = [proof for proof in proofs if proof.proven]
    native = [proof for proof in kept if proof.arithmetic == "native"]
    versions = tuple(dict.fromkeys(proof.version for proof in native or kept or proofs))
    reason = _why_not(first.runtime, first.device)
    if kept and not native:
        reason = f"it cannot compute in {first.precision} itself"
    note = "" if reason else _other_version(first.runtime, versions)
    return Way(
        runtime=first.runtime,
        versions=versions,
        device=first.device,
        precision=first.precision,
        file=first.model,
        status="proven" if native else "emulated only" if kept else "not proven",
        here=not reason,
        reason=reason or note,
    )


def _why_not(runtime: str, device: str) -> str:
    """Why a runtime cannot run here at all, or nothing."""
    if runtime not in ENGINES:
        return "this segkit knows no such runtime"
    kind = ENGINES[runtime]
    if not is_installed(kind.module):
        return f'not installed: pip install "segkit3d[{kind.extra}]"'
    try:
        import_module(kind.module)
    except Exception as error:
        return f"its module does not load: {type(error).__name__}: {error}"
    if device.startswith("cuda"):
        from segkit_runtime.cuda import why_no_device

        return _prefixed("no CUDA device: ", why_no_device(kind.extra))
    return ""


def _why_not_this(engine: CompiledEngine) -> str:
    """Why an engine cannot run here although its module and a device are there, or nothing."""
    here = _version(engine.runtime)
    if here != engine.version:
        return f"built with {engine.version}, {here} is installed; {_REBUILD}"
    from segkit_runtime.cuda import device_capability
    from segkit_runtime.trt import capability_name, runs_on

    try:
        capability = device_capability("cuda:0", ENGINES[engine.runtime].extra)
    except SegkitError as error:
        return str(error)
    if not runs_on(engine.targets, capability, import_module(engine.runtime)):
        return f"built for {', '.join(engine.targets)}, this device is {capability_name(capability)}; {_REBUILD}"
    return ""


def _other_version(runtime: str, versions: Sequence[str]) -> str:
    here = _version(runtime)
    return "" if here in versions else f"proven with {', '.join(versions)}, {here} is installed: it runs with a warning"


def _version(runtime: str) -> str:
    module = import_module(runtime)
    return str(getattr(module, "__version__", "unknown")).split("-", maxsplit=1)[0]


def _prefixed(prefix: str, text: str | None) -> str:
    return prefix + text if text else ""


def _names(bundle: Bundle) -> Iterator[str]:
    yield from bundle.checksums
    yield SUMS
    if bundle.signed_by is not None:
        yield SIGNATURE
