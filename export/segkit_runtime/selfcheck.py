"""The self-check: a patch in the bundle, and the labels that the network gives it, tried where the runtime is."""

from __future__ import annotations

import io
import math

import numpy as np
from numpy.typing import NDArray

from segkit.errors import BundleError, SegkitError, UsageError
from segkit_runtime.bundle import Bundle
from segkit_runtime.engines import RuntimeEngine
from segkit_runtime.engines.cache import entry_key, read_entry, write_entry
from segkit_runtime.engines.checked import CheckedEngine
from segkit_runtime.manifest import Proof, SelfCheck

_MAGIC = b"\x93NUMPY\x01\x00"
_ONE_PATCH = 10
"""How many times as many labels may differ as on whole volumes: one patch may be nothing but borders."""

SELFCHECK = SelfCheck(image="selfcheck/image.npy", labels="selfcheck/labels.npy")
"""Where the files lie in every bundle that has them."""


def write_selfcheck(image: NDArray[np.float32], labels: NDArray[np.integer]) -> dict[str, bytes]:
    """The files of a self-check, by their names in the bundle (`SELFCHECK`).

    Args:
        image: (C, X, Y, Z), normalised, rounded to float16 before the network saw it: what is stored is then what the
            labels are of.
        labels: (X, Y, Z), the class index that torch in fp32 gives each voxel of `image`.

    Raises:
        UsageError: the shapes do not fit, or values are lost on the way into the files.
    """
    if image.ndim != 4 or labels.shape != image.shape[1:]:
        raise UsageError(f"expected an image (C, X, Y, Z) and labels (X, Y, Z), got {image.shape} and {labels.shape}")
    with np.errstate(over="ignore"):
        halves = image.astype(np.float16)
    if not (np.isfinite(halves).all() and np.array_equal(halves.astype(np.float32), image)):
        raise UsageError(
            "expected an image whose values are finite and float16, got others",
            hint="give the network image.astype(np.float16).astype(np.float32), and that image here",
        )
    indices = labels.astype(np.uint8)
    if not np.array_equal(indices, labels):
        raise UsageError(f"expected class indices of 0 to 255, got {labels.min()} to {labels.max()}")
    return {SELFCHECK.image: _to_npy(halves), SELFCHECK.labels: _to_npy(indices)}


def run_selfcheck(bundle: Bundle, engine: RuntimeEngine, proof: Proof) -> None:
    """Run the bundle's patch through an engine and hold its labels against those in the bundle.

    Does nothing for a bundle that has no self-check.

    Args:
        bundle: what the engine was made of.
        engine: the engine, ready to run.
        proof: the proof that it runs under, whose tolerance says how many labels may differ.

    Raises:
        BundleError: the files of the self-check are not what the manifest says.
        SegkitError: too many labels differ, or the engine fails.
    """
    manifest = bundle.manifest
    check = manifest.selfcheck
    if check is None:
        return
    patch, classes = manifest.inference.patch, len(manifest.labels)
    image = _from_npy(bundle.read(check.image), check.image, np.dtype("<f2"), (manifest.channels, *patch))
    expected = _from_npy(bundle.read(check.labels), check.labels, np.dtype("u1"), patch)
    if not np.isfinite(image).all() or int(expected.max()) >= classes:
        raise BundleError(
            f"expected finite intensities and classes below {classes} in the self-check, found others",
            hint="export the bundle again",
        )
    answer = CheckedEngine(engine, classes).run(image[np.newaxis].astype(np.float32))[0]
    labels = answer if engine.output == "labels" else answer.argmax(axis=0)
    agreement = float((labels == expected).mean())
    least = 1 - _ONE_PATCH * (1 - proof.tolerance.least_label_agreement)
    if agreement < least:
        raise SegkitError(
            f"expected the labels that the network gave the self-check on {100 * least:.6g} % of the voxels, "
            f"{engine.runtime} {engine.version} on {engine.device} in {engine.precision} gives them "
            f"on {100 * agreement:.6g} %",
            hint="choose another --runtime, or export the bundle again on this machine",
        )


def passed_before(bundle: Bundle, engine: RuntimeEngine, proof: Proof) -> bool:
    """Whether the user's cache says that the same model passed the same self-check on this CPU, run in the same way."""
    return engine.device == "cpu" and read_entry(_passed_key(bundle, engine, proof)) is not None


def remember_passed(bundle: Bundle, engine: RuntimeEngine, proof: Proof) -> None:
    """Put that into the user's cache."""
    if engine.device == "cpu":
        write_entry(_passed_key(bundle, engine, proof), b"passed")


def _passed_key(bundle: Bundle, engine: RuntimeEngine, proof: Proof) -> str:
    check = bundle.manifest.selfcheck or SELFCHECK
    facts = {
        "selfcheck": [bundle.checksums[name] for name in (check.image, check.labels)],
        "least_label_agreement": proof.tolerance.least_label_agreement,
        "runtime": engine.runtime,
        "version": engine.version,
        "precision": engine.precision,
        "output": engine.output,
    }
    return entry_key(bundle.checksums[proof.model], facts)


def _to_npy(array: NDArray[np.generic]) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return out.getvalue()


def _from_npy(content: bytes, file: str, dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> NDArray[np.generic]:
    """Read an .npy file whose dtype and shape are known: its header is compared with them as text, and never parsed."""
    start = len(_MAGIC) + 2 + int.from_bytes(content[len(_MAGIC) : len(_MAGIC) + 2], "little")
    header, data = content[len(_MAGIC) + 2 : start], content[start:]
    expected = f"{{'descr': {dtype.str!r}, 'fortran_order': False, 'shape': {shape!r}, }}"
    if (
        not content.startswith(_MAGIC)
        or header.rstrip(b" \n") != expected.encode()
        or len(data) != math.prod(shape) * dtype.itemsize
    ):
        raise BundleError(
            f"expected {shape} of {dtype} as .npy in {file!r}, found {header[:80].strip()!r} and {len(data)} bytes",
            hint="export the bundle again",
        )
    return np.frombuffer(data, dtype).reshape(shape)
