"""What may be wrong with a bundle or an image: how it comes about, and what the error says of it."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .heads import SHAPE


def rewrite_sums(bundle: Path) -> None:
    """Make the hashes right again after a change: what is left is what the manifest says."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    files = sorted(file for file in bundle.rglob("*") if file.is_file() and not file.name.startswith("SHA256SUMS"))
    sums = {file.relative_to(bundle).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    (bundle / "SHA256SUMS").write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()))
    assert manifest["models"]


def change_manifest(bundle: Path, **changes: Any) -> None:
    path = bundle / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    rewrite_sums(bundle)


def flip_byte(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def preprocessing(**changes: str) -> dict[str, Any]:
    plain = {"registration": "none", "bias_correction": "none", "normalisation": "none", "background": "zero"}
    return {"preprocessing": {**plain, **changes}}


BAD_BUNDLES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a changed byte in the model": (lambda b: flip_byte(b / "model.onnx", 200), "'model.onnx' with SHA-256"),
    "a changed byte in the manifest": (lambda b: flip_byte(b / "manifest.json", 50), "'manifest.json' with SHA-256"),
    "a changed hash": (lambda b: flip_byte(b / "SHA256SUMS", 0), "SHA256SUMS|SHA-256"),
    "a file too many": (lambda b: (b / "more.txt").write_text("x"), "found 'more.txt'"),
    "a file too few": (lambda b: (b / "card.md").unlink(), "'card.md' in .* missing"),
    "no list of hashes": (lambda b: (b / "SHA256SUMS").unlink(), "'SHA256SUMS' in"),
    "a link": (lambda b: (b / "link").symlink_to("card.md"), "'link' is a link"),
    "a hard link": (lambda b: os.link(b / "card.md", b.parent / "elsewhere"), "'card.md' is a link"),
    "a name that leads out": (
        lambda b: (b / "SHA256SUMS").write_text(f"{'0' * 64}  ../x\n" + (b / "SHA256SUMS").read_text()),
        "plain file name",
    ),
    "no JSON": (lambda b: ((b / "manifest.json").write_text("{"), _sums_only(b)), "manifest.json at byte 1"),
    "deep JSON": (lambda b: ((b / "manifest.json").write_text("[" * 10**5), _sums_only(b)), "at most 64 levels"),
    "a key twice": (lambda b: ((b / "manifest.json").write_text('{"a":1,"a":2}'), _sums_only(b)), "each key once"),
    "another schema": (lambda b: change_manifest(b, schema_version=99), "schema 4, found 99"),
    "a field of another schema": (lambda b: change_manifest(b, flavour="new"), "found 'flavour'"),
    "a field of the wrong kind": (lambda b: change_manifest(b, modalities="T1"), "a list in manifest.json, modalities"),
    "a model of another hash": (
        lambda b: change_manifest(b, models=[{"file": "model.onnx", "precision": "fp32", "sha256": "0" * 64}]),
        "'model.onnx' with SHA-256",
    ),
    "untrained weights": (lambda b: change_manifest(b, weights={"trained": False}), "expected trained weights"),
    "registration": (lambda b: change_manifest(b, **preprocessing(registration="rigid")), "without registration"),
    "bias correction": (lambda b: change_manifest(b, **preprocessing(bias_correction="n4")), "without bias correction"),
    "no proof": (lambda b: change_manifest(b, proofs=[]), "proven for openvino"),
    "a path that is no bundle": (lambda b: shutil.rmtree(b), "a bundle, a folder"),
}


def _sums_only(bundle: Path) -> None:
    lines = (bundle / "SHA256SUMS").read_text().splitlines()
    digest = hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest()
    lines = [f"{digest}  manifest.json" if line.endswith(" manifest.json") else line for line in lines]
    (bundle / "SHA256SUMS").write_text("\n".join(lines) + "\n")


def edit(file: Path, place: int, value: bytes) -> None:
    """Write bytes into a .nii.gz at a place of its content."""
    content = bytearray(gzip.decompress(file.read_bytes()))
    content[place : place + len(value)] = value
    file.write_bytes(gzip.compress(content, 1))


def resize(file: Path, change: int) -> None:
    content = gzip.decompress(file.read_bytes())
    file.write_bytes(gzip.compress(content[:change] if change < 0 else content + bytes(change), 1))


def cut(file: Path, bytes_less: int) -> None:
    file.write_bytes(file.read_bytes()[:-bytes_less])


def f4(*values: float) -> bytes:
    return np.array(values, "<f4").tobytes()


def i2(*values: int) -> bytes:
    return np.array(values, "<i2").tobytes()


BAD_IMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no file": (lambda f: f.unlink(), "no regular file"),
    "an empty file": (lambda f: f.write_bytes(b""), "an empty file"),
    "a file without gzip": (
        lambda f: f.write_bytes(gzip.decompress(f.read_bytes())),
        "no gzip data in a file named .gz",
    ),
    "gzip cut in half": (lambda f: cut(f, f.stat().st_size // 2), "ends early"),
    "gzip without its last byte": (lambda f: cut(f, 1), "ends early"),
    "gzip without its checksum": (lambda f: cut(f, 8), "ends early"),
    "a wrong checksum": (lambda f: flip_byte(f, -6), "incorrect data check"),
    "voxels missing": (lambda f: resize(f, -10), "truncated"),
    "a header cut short": (lambda f: f.write_bytes(gzip.compress(bytes(100))), "truncated"),
    "more than voxels": (lambda f: resize(f, 3), "found more"),
    "something else": (lambda f: edit(f, 344, b"png\0"), "a little-endian NIfTI-1 file"),
    "four dimensions": (lambda f: edit(f, 40, i2(4, *SHAPE, 2)), "a 3D image"),
    "a negative dimension": (lambda f: edit(f, 42, i2(-8)), "at least 2 voxels"),
    "a size of terabytes": (lambda f: edit(f, 42, i2(32767, 32767, 32767)), "at most 4 GiB"),
    "complex numbers": (lambda f: edit(f, 70, i2(32)), "found the datatype 32"),
    "a lie about bits": (lambda f: edit(f, 72, i2(8)), "16 bits per voxel"),
    "no spacing": (lambda f: edit(f, 80, f4(0)), "voxel sizes above 0"),
    "an endless offset": (lambda f: edit(f, 108, f4(np.inf)), "soon after its header"),
    "an endless scaling": (lambda f: edit(f, 112, f4(1, np.nan)), "a finite scaling"),
    "metres": (lambda f: edit(f, 123, b"\1"), "millimetres"),
    "no orientation": (lambda f: edit(f, 252, i2(0, 0)), "neither sform nor qform"),
    "forms that disagree": (lambda f: edit(f, 252, i2(2, 2)) or edit(f, 292, f4(99)), "to agree, found corners"),
    "an affine that is no number": (lambda f: edit(f, 280, f4(np.nan)), "a finite, invertible affine"),
    "a singular affine": (lambda f: edit(f, 280, bytes(48)), "a finite, invertible affine"),
    "a sheared affine": (lambda f: edit(f, 280, f4(1, 0.5, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0)), "a shear of"),
    "an extension that is too long": (lambda f: edit(f, 348, b"\1") or edit(f, 108, f4(368)), "found one of|truncated"),
    "one value only": (lambda f: edit(f, 352, bytes(2 * int(np.prod(SHAPE)))), "one value only: 0"),
    "another grid": (lambda f: edit(f, 292, f4(7)), "corners .* mm apart"),
}
