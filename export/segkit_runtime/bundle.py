"""Bundles: read only if every byte is what the bundle says it is, and written as a whole or not at all."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import os
import secrets
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from segkit.errors import BundleError, OutputExists, UsageError
from segkit.files import cannot_write
from segkit_runtime.archive import SUFFIX, extract
from segkit_runtime.card import render_card
from segkit_runtime.checks import (
    parse_checksums,
    parse_manifest,
    read_text,
    require_consistent,
    require_hash,
    require_same_files,
)
from segkit_runtime.layout import CARD, MANIFEST, MODEL, SIGNATURE, SUMS, UNLISTED, reading, require_plain_names
from segkit_runtime.manifest import Manifest
from segkit_runtime.signature import Signature, require_signed

__all__ = ["CARD", "MANIFEST", "MODEL", "SIGNATURE", "SUMS", "Bundle", "drafted", "require_free_bundle", "write_bundle"]


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files were all checked.

    Attributes:
        folder: where it lies; for a zip file, a folder of its own that goes when the last user of this object does.
        manifest: what it says of itself.
        id: SHA-256 of manifest.json, which names the hashes of the models in turn.
        checksums: SHA-256 of every file but SHA256SUMS and its signature, by its name in the bundle.
        sums: the exact content of SHA256SUMS, which is what is signed.
        signed_by: id of the key that it claims to be signed with, or None where it is not signed.
        trusted: whether that signature was checked against a key that the caller trusts.
        archive: the zip file that it was read from, if it was one.
    """

    folder: Path
    manifest: Manifest
    id: str
    checksums: Mapping[str, str]
    sums: bytes = field(repr=False)
    signed_by: str | None = None
    trusted: bool = False
    archive: Path | None = None

    @classmethod
    def open(cls, path: str | os.PathLike[str], trusted_keys: Sequence[str | os.PathLike[str]] = ()) -> Bundle:
        """Read a bundle, a folder or a zip file, and check it.

        What is checked, in this order: the signature, the list of checksums, each file against it, the manifest.

        Args:
            path: the folder, or a zip file made by `segkit bundle pack`.
            trusted_keys: PEM files of ed25519 public keys. If any are given, a bundle that none of them has signed is
                refused; if none are, a signature is only reported.

        Raises:
            BundleError: there is no bundle, or it is altered, incomplete, of another version, or not signed as asked.
            UsageError: a key cannot be used, or there is no space to unpack a zip file.
            MissingExtra: keys are given and the package cryptography is not installed.
        """
        path, keys = Path(path), [Path(key) for key in trusted_keys]
        if path.suffix == SUFFIX and path.is_file():
            return _open_archive(path, keys)
        return _open_folder(path, keys)

    @property
    def path(self) -> Path:
        """What was opened: the zip file or the folder."""
        return self.archive or self.folder

    def read(self, file: str) -> bytes:
        """The content of a file; the bytes that were hashed are the bytes that are returned.

        Raises:
            BundleError: the bundle has no such file, or it was altered after the bundle was opened.
        """
        if file not in self.checksums:
            raise BundleError(f"expected {file!r} in the bundle {self.path}, it has {', '.join(self.checksums)}")
        with reading(self.folder / file):
            content = (self.folder / file).read_bytes()
        require_hash(file, hashlib.sha256(content).hexdigest(), self.checksums[file])
        return content


def _open_folder(folder: Path, trusted_keys: Sequence[Path]) -> Bundle:
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise BundleError(
            f"expected a bundle, a folder with a {MANIFEST} or a {SUFFIX} file, at {folder}, found {found}"
        )
    if (folder / "config.json").is_file() and not (folder / MANIFEST).exists():
        raise BundleError(
            f"expected a bundle at {folder}, found a run", hint=f"make a bundle of it: segkit export {folder}"
        )
    sums = read_text(folder, SUMS)
    signature = read_text(folder, SIGNATURE) if os.path.lexists(folder / SIGNATURE) else None
    if trusted_keys:
        require_signed(sums, signature, trusted_keys)
    checksums = parse_checksums(sums)
    require_same_files(folder, checksums)
    for name, found in _hash_files(folder, checksums):
        require_hash(name, found, checksums[name])
    raw = read_text(folder, MANIFEST)
    require_hash(MANIFEST, hashlib.sha256(raw).hexdigest(), checksums[MANIFEST])
    manifest = parse_manifest(raw)
    require_consistent(manifest, checksums)
    return Bundle(
        folder,
        manifest,
        checksums[MANIFEST],
        checksums,
        sums,
        signed_by=None if signature is None else Signature.parse(signature).key_id,
        trusted=bool(trusted_keys),
    )


def _open_archive(path: Path, trusted_keys: Sequence[Path]) -> Bundle:
    """Unpack a zip file into a folder that lives as long as the bundle, and check that."""
    try:
        folder = Path(tempfile.mkdtemp(prefix="segkit-"))
    except OSError as error:
        raise cannot_write(Path(tempfile.gettempdir()), error) from error
    try:
        extract(path, folder)
        bundle = dataclasses.replace(_open_folder(folder, trusted_keys), archive=path)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, BundleError):
            # Nobody knows the folder's name, and it is gone.
            raise BundleError(error.message.replace(str(folder), str(path)), hint=error.hint) from None
        raise
    weakref.finalize(bundle, shutil.rmtree, folder, ignore_errors=True)
    return bundle


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
    require_plain_names(files, UsageError)
    taken = next((name for name in (MANIFEST, CARD, *UNLISTED) if name in files), None)
    if taken is not None:
        raise UsageError(f"expected files for a bundle, got {taken}", hint="leave it out: it is made from the manifest")
    with drafted(folder, overwrite) as draft:
        contents = {**files, MANIFEST: manifest.to_json(), CARD: render_card(manifest).encode()}
        for name, content in contents.items():
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Path):
                shutil.copyfile(content, draft / name)
            else:
                (draft / name).write_bytes(content)
        _write_checksums(draft, contents)
        bundle = Bundle.open(draft)
    return dataclasses.replace(bundle, folder=folder)


@contextmanager
def drafted(folder: Path, overwrite: bool, require_free: Callable[[Path, bool], None] | None = None) -> Iterator[Path]:
    """A new folder to write a bundle into; it takes the place of `folder` at the end of the block, if that ends well.

    Args:
        folder: where it shall lie.
        overwrite: replace what is there.
        require_free: refuses a place; None stands for `require_free_bundle`.

    Raises:
        OutputExists: something is there, or came there meanwhile, and `overwrite` is not set.
        UsageError: what is there is not a bundle, or the system refuses.
    """
    (require_free or require_free_bundle)(folder, overwrite)
    whole = folder.absolute()
    draft = whole.with_name(f".{whole.name}.{secrets.token_hex(4)}")
    try:
        draft.mkdir(parents=True)
        yield draft
        _swap(draft, folder, overwrite)
    except OSError as error:
        raise cannot_write(folder, error) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


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


def _swap(draft: Path, folder: Path, overwrite: bool) -> None:
    """Put the new folder in the old one's place; whatever stops it, one of the two is there afterwards."""
    old = draft.with_name(draft.name + ".old")
    try:
        if overwrite and folder.exists():
            folder.rename(old)
        draft.rename(folder)
    except BaseException as error:
        if old.exists():
            with suppress(OSError):  # another writer's bundle is there by now: it replaces the old one as ours would
                old.rename(folder)
        if isinstance(error, OSError) and error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
            raise OutputExists(
                f"expected no other bundle to be written to {folder} at the same time",
                hint="run it again, or choose another --out",
            ) from None
        raise
    finally:
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)


def _write_checksums(folder: Path, names: Iterable[str]) -> None:
    lines = [f"{sha256}  {name}\n" for name, sha256 in _hash_files(folder, sorted(names))]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def _hash_files(folder: Path, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Each name and the SHA-256 of its file; side by side, since hashing keeps no lock."""

    def sha256(name: str) -> str:
        with reading(folder / name), (folder / name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    names = list(names)
    with ThreadPoolExecutor() as pool:
        yield from zip(names, pool.map(sha256, names), strict=True)
