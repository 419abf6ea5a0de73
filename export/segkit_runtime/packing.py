"""Bundles on their way: packed into a zip file, unpacked again, and signed."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from segkit.errors import OutputExists, UsageError
from segkit.files import cannot_write
from segkit_runtime.archive import SUFFIX, extract, write_archive
from segkit_runtime.bundle import SIGNATURE, SUMS, Bundle, drafted
from segkit_runtime.signature import sign


def pack_bundle(
    path: Path, out: Path | None = None, overwrite: bool = False, trusted_keys: Sequence[Path] = ()
) -> Path:
    """Write a bundle as a zip file; the same bundle gives the same bytes.

    Args:
        path: the bundle's folder.
        out: the zip file.  By default NAME.segkit.zip beside NAME.segkit.
        overwrite: replace a zip file that is there.
        trusted_keys: see `Bundle.open`.

    Returns:
        The zip file, which was opened and checked before it took its name.

    Raises:
        BundleError: the bundle is refused.
        OutputExists: something is there and `overwrite` is not set.
        UsageError: the bundle is a zip file already, the name does not suit, or it cannot be written there.
    """
    bundle = Bundle.open(path, trusted_keys)
    if bundle.archive is not None:
        raise UsageError(f"expected a bundle that is a folder, {path} is packed already", hint="copy it as it is")
    folder = bundle.folder.absolute()
    out = out or folder.with_name(folder.name + SUFFIX)
    if out.suffix != SUFFIX:
        raise UsageError(
            f"expected a name that ends in {SUFFIX}, got {out.name!r}", hint=f"by custom NAME.segkit{SUFFIX}"
        )
    if out.absolute().parent.resolve().is_relative_to(folder.resolve()):
        raise UsageError(f"expected a place outside the bundle, got {out}", hint="choose another --out")
    if os.path.lexists(out) and not overwrite:
        raise OutputExists(
            f"expected nothing at {out}, found something", hint="add --overwrite, or choose another --out"
        )
    if os.path.lexists(out) and (out.is_symlink() or not out.is_file()):
        raise UsageError(f"expected a zip file to overwrite at {out}, found something else", hint="choose another name")
    _write_packed(bundle, out)
    return out


def unpack_bundle(
    path: Path, folder: Path | None = None, overwrite: bool = False, trusted_keys: Sequence[Path] = ()
) -> Bundle:
    """Write a zipped bundle as a folder: the whole of it, checked, or nothing.

    Args:
        path: the zip file.
        folder: where it shall lie.  By default NAME.segkit beside NAME.segkit.zip.
        overwrite: replace a bundle that is there.
        trusted_keys: see `Bundle.open`.

    Raises:
        BundleError: the zip file or the bundle in it is refused.
        OutputExists: something is there and `overwrite` is not set.
        UsageError: it is no zip file, or the folder cannot be written.
    """
    if path.suffix != SUFFIX or path.is_dir():
        raise UsageError(f"expected a file whose name ends in {SUFFIX}, got {path}", hint="give the packed bundle")
    folder = folder or path.with_suffix("")
    with drafted(folder, overwrite) as draft:
        extract(path, draft)
        Bundle.open(draft, trusted_keys)
    return Bundle.open(folder, trusted_keys)


def sign_bundle(path: Path, key: Path, passphrase: bytes | None = None) -> Bundle:
    """Sign a bundle that is intact; a signature that it has is replaced.

    Args:
        path: the bundle, a folder or a zip file.
        key: PEM file of an ed25519 private key.
        passphrase: what the key is encrypted with, if it is.

    Returns:
        The bundle as it is now.

    Raises:
        BundleError: the bundle is refused.
        UsageError: the key cannot be used, or the signature cannot be written.
        MissingExtra: the package cryptography is not installed.
    """
    bundle = Bundle.open(path)
    signature = sign(bundle.sums, key, passphrase).to_bytes()
    # Drafted beside the bundle: a file left in it by a kill would make it one with a file too many.
    folder = bundle.folder.resolve()
    with _drafted_file(folder / SIGNATURE, folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.sig")) as draft:
        draft.write_bytes(signature)
    if bundle.archive is not None:
        _write_packed(Bundle.open(folder), bundle.archive.resolve())
    return Bundle.open(path)


def _write_packed(bundle: Bundle, out: Path) -> None:
    names = [*bundle.checksums, SUMS, *([SIGNATURE] if bundle.signed_by else [])]
    with _drafted_file(out, out.with_name(f".{out.stem}.{secrets.token_hex(4)}{SUFFIX}")) as draft:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_archive({name: bundle.folder / name for name in names}, draft)
        written = Bundle.open(draft)
        if (written.sums, written.signed_by) != (bundle.sums, bundle.signed_by):
            raise UsageError(
                f"expected {bundle.folder} to stay as it is, it changed while it was packed", hint="try again"
            )


@contextmanager
def _drafted_file(path: Path, draft: Path) -> Iterator[Path]:
    """A draft that takes the place of a file at the end of the block, if the block ends well."""
    try:
        yield draft
        draft.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        draft.unlink(missing_ok=True)
