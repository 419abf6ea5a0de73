"""What makes a folder a bundle: nothing in it but the files it lists, each as listed, and a manifest that fits them."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import ValidationError

from segkit.errors import BundleError
from segkit_runtime.layout import (
    AGAIN,
    MANIFEST,
    MAX_BUNDLE_BYTES,
    MAX_FILES,
    MAX_TEXT_BYTES,
    MODEL,
    SUMS,
    UNLISTED,
    reading,
    require_plain_names,
)
from segkit_runtime.manifest import SCHEMA, Manifest

_SUM_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


def parse_checksums(sums: bytes) -> dict[str, str]:
    """Read the content of SHA256SUMS: file name -> hash."""
    checksums: dict[str, str] = {}
    # Not splitlines(): it takes other characters than a newline for the end of a line.
    for line in sums.decode("utf-8", "replace").removesuffix("\n").split("\n"):
        match = _SUM_LINE.fullmatch(line)
        if match is None or match[2] in checksums:
            raise BundleError(
                f"expected a hash and a new file name on each line of {SUMS}, found {line[:120]!r}", hint=AGAIN
            )
        checksums[match[2]] = match[1]
    require_plain_names([*checksums, *UNLISTED], BundleError)
    return checksums


def require_same_files(folder: Path, checksums: Mapping[str, str]) -> None:
    """Refuse links, other special files, files that are not listed and listed files that are not there."""
    found: dict[str, int] = {}
    with reading(folder):
        for path in _walk(folder):
            name, state = path.relative_to(folder).as_posix(), path.lstat()
            if not stat.S_ISREG(state.st_mode):
                raise BundleError(f"expected files in {folder}, found that {name!r} is a link or no file", hint=AGAIN)
            if state.st_nlink > 1:
                raise BundleError(
                    f"expected files of its own in {folder}, found that {name!r} has another name elsewhere, through "
                    "which it can change (a hard link)",
                    hint="copy the bundle: cp -r OLD NEW",
                )
            found[name] = state.st_size
            if len(found) > MAX_FILES + len(UNLISTED):
                raise BundleError(f"expected at most {MAX_FILES} files in {folder}, found more", hint=AGAIN)
    extra = sorted(found.keys() - checksums.keys() - set(UNLISTED))
    missing = sorted(checksums.keys() - found.keys())
    if missing or MANIFEST not in checksums:
        raise BundleError(f"expected {(missing or [MANIFEST])[0]!r} in {folder}, it is missing", hint=AGAIN)
    if extra:
        raise BundleError(f"expected only the files that {SUMS} lists in {folder}, found {extra[0]!r}", hint=AGAIN)
    size = sum(found.values())
    if size > MAX_BUNDLE_BYTES:
        raise BundleError(
            f"expected at most {MAX_BUNDLE_BYTES / 2**30:.0f} GiB in {folder}, found {size / 2**30:.1f} GiB"
        )


def _walk(folder: Path) -> Iterator[Path]:
    """Everything below a folder but folders; a link to a folder counts as a link and is not entered."""

    def fail(error: OSError) -> None:
        raise error

    for root, folders, names in os.walk(folder, onerror=fail):
        yield from (Path(root, name) for name in names)
        yield from (Path(root, name) for name in folders if Path(root, name).is_symlink())


def read_text(folder: Path, name: str) -> bytes:
    """Content of one of the small files that are read before anything vouches for them."""
    path = folder / name
    if path.is_symlink() or not path.is_file():
        raise BundleError(f"expected {name!r} in {folder}, it is missing or a link", hint=AGAIN)
    with reading(path), path.open("rb") as file:
        content = file.read(MAX_TEXT_BYTES + 1)
    if len(content) > MAX_TEXT_BYTES:
        raise BundleError(f"expected at most {MAX_TEXT_BYTES / 2**20:.0f} MiB in {path}, found more", hint=AGAIN)
    return content


def require_hash(name: str, found: str, expected: str) -> None:
    """Refuse a file whose SHA-256 is another than the expected one."""
    if found != expected:
        raise BundleError(
            f"expected {name!r} with SHA-256 {expected[:12]}..., found {found[:12]}...",
            hint="the bundle was altered or damaged: " + AGAIN,
        )


def parse_manifest(raw: bytes) -> Manifest:
    """Read a manifest, naming the version first: another version explains every other difference."""
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"expected JSON in {MANIFEST}, found: {error}", hint=AGAIN) from None
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA:
        raise BundleError(
            f"expected a manifest of schema {SCHEMA}, found {str(version)[:40]!r}",
            hint="upgrade segkit3d, or export the bundle again with this version",
        )
    try:
        return Manifest.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the manifest"
        raise BundleError(f"expected the schema of {MANIFEST}, found {where}: {first['msg']}", hint=AGAIN) from None


def require_consistent(manifest: Manifest, checksums: Mapping[str, str]) -> None:
    """Refuse a manifest that speaks of another model, or of engines that are not there."""
    if MODEL not in checksums:
        raise BundleError(f"expected {MODEL!r} in the bundle, it is missing", hint=AGAIN)
    for model in manifest.models:
        if model.file not in checksums:
            raise BundleError(f"expected the model {model.file!r} in the bundle, it is missing", hint=AGAIN)
        require_hash(model.file, checksums[model.file], model.sha256)
    for engine in manifest.engines:
        if engine.file not in checksums:
            raise BundleError(f"expected the engine {engine.file!r} in the bundle, it is missing", hint=AGAIN)
    check = manifest.selfcheck
    for file in (check.image, check.labels) if check else ():
        if file not in checksums:
            raise BundleError(f"expected {file!r} of the self-check in the bundle, it is missing", hint=AGAIN)
