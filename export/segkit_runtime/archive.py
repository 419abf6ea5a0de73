"""The zip form of a bundle: written the same way every time, and read with nothing in it believed.

Files are stored, not deflated: weights do not shrink by more than a few per cent, and the bytes do not depend on the
version of a compression library. Deflated files are read too, as other tools write them.
"""

from __future__ import annotations

import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from segkit.errors import BundleError, UsageError
from segkit.files import cannot_write
from segkit_runtime.layout import MAX_BUNDLE_BYTES, MAX_FILES, UNLISTED, reading, require_plain_names

SUFFIX = ".zip"
MAX_ARCHIVE_BYTES = 2**32 - 2
"""Past 4 GiB a zip file has a second set of headers, which are not read here."""
MAX_DIRECTORY_BYTES = 64 * 2**10
MAX_RATIO, SMALL_BYTES = 100, 16 * 2**20
"""How far a file may swell: 100 times, and what is below 16 MiB freely (the labels of a patch may be all zero)."""

_END = struct.Struct("<4s4H2LH")
_LOCAL_HEADER_BYTES = 30
_HARMLESS_FLAGS = 0x0002 | 0x0004 | 0x0008 | 0x0800
"""How hard it was packed, where its sizes stand, and that its name is UTF-8. All others mean encryption or patches."""
_CHUNK = 2**20
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError, struct.error, RuntimeError)


def write_archive(files: Mapping[str, Path], path: Path) -> None:
    """Write files into a zip file; the same files give the same bytes.

    Args:
        files: name in the archive -> file.
        path: what to write; it must not be there.

    Raises:
        UsageError: they are more than a zip file holds, or it cannot be written there.
    """
    size = sum(file.stat().st_size for file in files.values())
    if size + MAX_DIRECTORY_BYTES * 2 > MAX_ARCHIVE_BYTES:
        raise UsageError(
            f"expected less than 4 GiB for a zip file, got {size / 2**30:.1f} GiB", hint="keep the bundle as a folder"
        )
    try:
        with path.open("xb") as target, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED, allowZip64=False) as archive:
            for name in sorted(files):
                info = zipfile.ZipInfo(name)
                info.create_system, info.external_attr = 3, (stat.S_IFREG | 0o644) << 16
                info.file_size = files[name].stat().st_size
                with files[name].open("rb") as source, archive.open(info, "w") as entry:
                    shutil.copyfileobj(source, entry, _CHUNK)
    except OSError as error:
        raise cannot_write(path, error) from error


def extract(path: Path, folder: Path) -> None:
    """Write the files of a zip file into a folder.

    Every name, kind, method and size is looked at before a byte is written; what comes out is counted as it comes.

    Args:
        path: the zip file.
        folder: an empty folder that nobody else writes to. After an error it holds a part, and is the caller's to drop.

    Raises:
        BundleError: it is no zip file, or not one that a bundle may be.
        UsageError: the folder cannot be written to.
    """
    with reading(path), path.open("rb") as file:
        _require_small_directory(path, file)
        try:
            archive = zipfile.ZipFile(file)
            entries = archive.infolist()
        except _BROKEN as error:
            raise _broken(path, error) from None
        _require_acceptable(path, entries, archive.start_dir)
        written = 0
        for entry in entries:
            room = min(MAX_BUNDLE_BYTES - written, SMALL_BYTES + MAX_RATIO * entry.compress_size)
            written += _extract_one(path, archive, entry, folder / entry.orig_filename, room)


def _extract_one(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path, room: int) -> int:
    size = 0
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as out:
            for chunk in _chunks(path, archive, entry):
                size += len(chunk)
                if size > room:
                    raise _too_much(path, entry)
                out.write(chunk)
    except OSError as error:
        raise cannot_write(target, error) from error
    if size != entry.file_size:
        raise _broken(path, f"{entry.orig_filename!r} has {size} bytes and not {entry.file_size}")
    return size


def _chunks(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Iterator[bytes]:
    try:
        with archive.open(entry) as source:
            while chunk := source.read(_CHUNK):
                yield chunk
    except (*_BROKEN, OSError) as error:
        raise _broken(path, error) from None


def _require_small_directory(path: Path, file: BinaryIO) -> None:
    """Refuse an archive whose directory would be long to read, or that has more than one reading."""
    size = file.seek(0, 2)
    file.seek(max(0, size - 42))
    tail = file.read(42)
    file.seek(0)
    if size > MAX_ARCHIVE_BYTES:
        raise BundleError(f"expected less than 4 GiB in {path}, found {size / 2**30:.1f} GiB")
    if len(tail) < _END.size or tail[-22:-18] != b"PK\5\6":
        raise BundleError(
            f"expected a zip file that ends with its directory, {path} does not",
            hint="copy it again, or make it with segkit bundle pack",
        )
    _, disk, start_disk, on_disk, entries, directory_bytes, start, comment = _END.unpack(tail[-22:])
    if tail[:4] == b"PK\6\7" or disk or start_disk or comment or on_disk != entries:
        raise _broken(path, "it is split, commented or has a second directory")
    if entries > MAX_FILES + len(UNLISTED) or directory_bytes > MAX_DIRECTORY_BYTES:
        raise BundleError(f"expected at most {MAX_FILES} files in {path}, found {entries}")
    if start + directory_bytes + _END.size != size:
        raise _broken(path, "something stands before or between its parts")


def _require_acceptable(path: Path, entries: Sequence[zipfile.ZipInfo], directory: int) -> None:
    # `filename` ends at a NUL and has its backslashes turned; `orig_filename` is what the archive says.
    require_plain_names([entry.orig_filename for entry in entries], BundleError)
    for entry in entries:
        name, kind = entry.orig_filename, stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG) or entry.external_attr & 0x10:
            raise BundleError(f"expected files in {path}, found that {name!r} is a link, a folder or a device")
        if entry.flag_bits & ~_HARMLESS_FLAGS:
            raise BundleError(f"expected files that anyone can read in {path}, found that {name!r} is encrypted")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise BundleError(
                f"expected stored or deflated files in {path}, found {name!r} with method {entry.compress_type}"
            )
        if entry.file_size > SMALL_BYTES + MAX_RATIO * entry.compress_size:
            raise _too_much(path, entry)
    if sum(entry.file_size for entry in entries) > MAX_BUNDLE_BYTES:
        raise BundleError(f"expected at most {MAX_BUNDLE_BYTES / 2**30:.0f} GiB in {path}, its directory says more")
    _require_apart(path, entries, directory)


def _require_apart(path: Path, entries: Sequence[zipfile.ZipInfo], directory: int) -> None:
    """Refuse entries that share bytes: a few kilobytes of them can swell into terabytes."""
    placed = sorted(entries, key=lambda entry: entry.header_offset)
    ends = [*(entry.header_offset for entry in placed[1:]), directory]
    for entry, end in zip(placed, ends, strict=True):
        if entry.header_offset + _LOCAL_HEADER_BYTES + len(entry.orig_filename) + entry.compress_size > end:
            raise _broken(path, f"{entry.orig_filename!r} overlaps what follows it")


def _too_much(path: Path, entry: zipfile.ZipInfo) -> BundleError:
    return BundleError(
        f"expected files that swell at most {MAX_RATIO} times in {path}, found {entry.orig_filename!r} of "
        f"{entry.compress_size} bytes that says it is or becomes {entry.file_size} or more"
    )


def _broken(path: Path, why: object) -> BundleError:
    said = " ".join(str(why).split())[:200] or type(why).__name__
    return BundleError(
        f"expected a whole zip file at {path}, found: {said}", hint="copy it again, or make it with segkit bundle pack"
    )
