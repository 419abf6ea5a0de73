"""Bundles: read only if every byte is what the bundle says it is, and written as a whole or not at all."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from segkit.errors import BundleError, OutputExists, UsageError
from segkit.files import cannot_write
from segkit_runtime.card import render_card
from segkit_runtime.manifest import SCHEMA, Manifest

MANIFEST, SUMS, CARD, MODEL = "manifest.json", "SHA256SUMS", "card.md", "model.onnx"
MAX_FILES = 64
MAX_TEXT_BYTES = 4 * 2**20
"""The largest manifest and the largest list of checksums that are read."""
MAX_BUNDLE_BYTES = 8 * 2**30

_AGAIN = "copy the bundle again from its source, or export it again"
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*(/[A-Za-z0-9_][A-Za-z0-9._+-]*){0,2}")
"""Letters, digits and `. _ + -` in at most two folders: no absolute name, no `..`, nothing hidden."""
_SUM_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files were all checked.

    Attributes:
        folder: where it lies.
        manifest: what it says of itself.
        id: SHA-256 of manifest.json, which names the hash of the model in turn.
        checksums: SHA-256 of every file but SHA256SUMS, by its name in the bundle.
    """

    folder: Path
    manifest: Manifest
    id: str
    checksums: Mapping[str, str]

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Bundle:
        """Read a bundle and check it: its list of checksums, each file against it, and the manifest's schema.

        Raises:
            BundleError: there is no bundle, or it is altered, incomplete or of another version.
        """
        folder = Path(path)
        if not folder.is_dir():
            found = "a file" if folder.exists() else "nothing"
            raise BundleError(f"expected a bundle, a folder with a {MANIFEST}, at {folder}, found {found}")
        if (folder / "config.json").is_file() and not (folder / MANIFEST).exists():
            raise BundleError(
                f"expected a bundle at {folder}, found a run", hint=f"make a bundle of it: segkit export {folder}"
            )
        checksums = _read_checksums(folder)
        _require_same_files(folder, checksums)
        for name in checksums:
            with _reading(folder / name), (folder / name).open("rb") as file:
                _require_hash(name, hashlib.file_digest(file, "sha256").hexdigest(), checksums[name])
        raw = _read_text(folder, MANIFEST)
        _require_hash(MANIFEST, hashlib.sha256(raw).hexdigest(), checksums[MANIFEST])
        manifest = _parse(raw)
        _require_consistent(manifest, checksums)
        return cls(folder, manifest, checksums[MANIFEST], checksums)

    def read(self, file: str) -> bytes:
        """The content of a file; the bytes that were hashed are the bytes that are returned.

        Raises:
            BundleError: the bundle has no such file, or it was altered after the bundle was opened.
        """
        if file not in self.checksums:
            raise BundleError(f"expected {file!r} in the bundle {self.folder}, it has {', '.join(self.checksums)}")
        with _reading(self.folder / file):
            content = (self.folder / file).read_bytes()
        _require_hash(file, hashlib.sha256(content).hexdigest(), self.checksums[file])
        return content


def write_bundle(
    folder: str | os.PathLike[str],
    manifest: Manifest,
    files: Mapping[str, bytes | Path],
    overwrite: bool = False,
) -> Bundle:
    """Write a bundle: the whole of it, or nothing.

    All is written to a folder beside it, checked as `Bundle.open` checks it, and renamed. A bundle that is replaced is
    first renamed aside and comes back if that fails, so `folder` is the old bundle or the new one and never a mix.

    Args:
        folder: where it shall lie, by custom NAME.segkit.
        manifest: what it says of itself; the card is made from it.
        files: name in the bundle -> content or file to copy; `model.onnx` must be one of them.
        overwrite: replace a bundle that is there.

    Returns:
        The bundle that was written.

    Raises:
        OutputExists: something is there and `overwrite` is not set.
        UsageError: what is there is not a bundle, or a file's name does not suit.
        BundleError: files and manifest do not fit each other.
    """
    folder = Path(folder)
    require_free_bundle(folder, overwrite)
    _require_plain_names(files, UsageError)
    taken = next((name for name in (MANIFEST, SUMS, CARD) if name in files), None)
    if taken is not None:
        raise UsageError(f"expected files for a bundle, got {taken}", hint="leave it out: it is made from the manifest")
    draft = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    try:
        draft.mkdir(parents=True)
        contents = {**files, MANIFEST: manifest.to_json(), CARD: render_card(manifest).encode()}
        for name, content in contents.items():
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Path):
                shutil.copyfile(content, draft / name)
            else:
                (draft / name).write_bytes(content)
        _write_checksums(draft, contents)
        bundle = Bundle.open(draft)
        _swap(draft, folder)
    except OSError as error:
        raise cannot_write(folder, error) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return dataclasses.replace(bundle, folder=folder)


def require_free_bundle(folder: Path, overwrite: bool) -> None:
    """Refuse a place where a bundle cannot be written.

    Raises:
        OutputExists: something is there and `overwrite` is not set.
        UsageError: what is there is not a bundle.
    """
    if not os.path.lexists(folder):
        return
    if not overwrite:
        raise OutputExists(
            f"expected nothing at {folder}, found {'a folder' if folder.is_dir() else 'a file'}",
            hint="add --overwrite, or choose another --out",
        )
    if folder.is_symlink() or not ((folder / MANIFEST).is_file() and (folder / SUMS).is_file()):
        raise UsageError(
            f"expected a bundle to overwrite at {folder}, found something else", hint="choose another name"
        )


def _swap(draft: Path, folder: Path) -> None:
    """Put the new folder in the old one's place; whatever stops it, one of the two is there afterwards."""
    old = draft.with_name(draft.name + ".old")
    try:
        if folder.exists():
            folder.rename(old)
        draft.rename(folder)
    except BaseException:
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise
    finally:
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)


def _write_checksums(folder: Path, names: Iterable[str]) -> None:
    lines = []
    for name in sorted(names):
        with (folder / name).open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {name}\n")
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def _read_checksums(folder: Path) -> dict[str, str]:
    checksums: dict[str, str] = {}
    # Not splitlines(): it takes other characters than a newline for the end of a line.
    for line in _read_text(folder, SUMS).decode("utf-8", "replace").removesuffix("\n").split("\n"):
        match = _SUM_LINE.fullmatch(line)
        if match is None or match[2] in checksums:
            raise BundleError(
                f"expected a hash and a new file name on each line of {SUMS}, found {line[:120]!r}", hint=_AGAIN
            )
        checksums[match[2]] = match[1]
    _require_plain_names(checksums, BundleError)
    return checksums


def _require_plain_names(names: Iterable[str], error: type[UsageError | BundleError]) -> None:
    """Refuse names that could mean another place, or the same place twice, on some file system."""
    seen: set[str] = set()
    for name in names:
        if not _PLAIN_NAME.fullmatch(name) or name.casefold() in seen:
            raise error(
                f"expected plain, different file names inside the bundle, got {name[:120]!r}",
                hint="use letters, digits and . _ + -",
            )
        seen.add(name.casefold())
    if len(seen) > MAX_FILES:
        raise error(f"expected at most {MAX_FILES} files in a bundle, got {len(seen)}")


def _require_same_files(folder: Path, checksums: Mapping[str, str]) -> None:
    """Refuse links, other special files, files that are not listed and listed files that are not there."""
    found: dict[str, int] = {}
    with _reading(folder):
        for path in _walk(folder):
            name = path.relative_to(folder).as_posix()
            if path.is_symlink() or not path.is_file():
                raise BundleError(f"expected files in {folder}, found that {name!r} is a link or no file", hint=_AGAIN)
            found[name] = path.stat().st_size
            if len(found) > MAX_FILES + 1:
                raise BundleError(f"expected at most {MAX_FILES} files in {folder}, found more", hint=_AGAIN)
    extra = sorted(found.keys() - checksums.keys() - {SUMS})
    missing = sorted(checksums.keys() - found.keys())
    if missing or MANIFEST not in checksums:
        raise BundleError(f"expected {(missing or [MANIFEST])[0]!r} in {folder}, it is missing", hint=_AGAIN)
    if extra:
        raise BundleError(f"expected only the files that {SUMS} lists in {folder}, found {extra[0]!r}", hint=_AGAIN)
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


def _read_text(folder: Path, name: str) -> bytes:
    path = folder / name
    if path.is_symlink() or not path.is_file():
        raise BundleError(f"expected {name!r} in {folder}, it is missing or a link", hint=_AGAIN)
    with _reading(path), path.open("rb") as file:
        content = file.read(MAX_TEXT_BYTES + 1)
    if len(content) > MAX_TEXT_BYTES:
        raise BundleError(f"expected at most {MAX_TEXT_BYTES / 2**20:.0f} MiB in {path}, found more", hint=_AGAIN)
    return content


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """What the system says about a file, as an error of a bundle."""
    try:
        yield
    except OSError as error:
        raise BundleError(f"expected to read {path}, the system says: {error.strerror}") from None


def _require_hash(name: str, found: str, expected: str) -> None:
    if found != expected:
        raise BundleError(
            f"expected {name!r} with SHA-256 {expected[:12]}..., found {found[:12]}...",
            hint="the bundle was altered or damaged: " + _AGAIN,
        )


def _parse(raw: bytes) -> Manifest:
    """Read a manifest, naming the version first: another version explains every other difference."""
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"expected JSON in {MANIFEST}, found: {error}", hint=_AGAIN) from None
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA:
        raise BundleError(
            f"expected a manifest of schema {SCHEMA}, found {version!r}",
            hint="upgrade segkit3d, or export the bundle again with this version",
        )
    try:
        return Manifest.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the manifest"
        raise BundleError(f"expected the schema of {MANIFEST}, found {where}: {first['msg']}", hint=_AGAIN) from None


def _require_consistent(manifest: Manifest, checksums: Mapping[str, str]) -> None:
    """Refuse a manifest that speaks of another model, or of engines that are not there."""
    if MODEL not in checksums:
        raise BundleError(f"expected {MODEL!r} in the bundle, it is missing", hint=_AGAIN)
    _require_hash(MODEL, checksums[MODEL], manifest.onnx_sha256)
    for engine in manifest.engines:
        if engine.file not in checksums:
            raise BundleError(f"expected the engine {engine.file!r} in the bundle, it is missing", hint=_AGAIN)
