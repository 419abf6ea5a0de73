"""Zip files from anywhere: what comes out is what a bundle may hold, inside the target, and no more than is allowed."""

from __future__ import annotations

import contextlib
import io
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import segkit_runtime.archive
from segkit.errors import BundleError, SegkitError, UsageError
from segkit_runtime.archive import extract, write_archive

STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED
Entry = tuple[str, bytes]


def zip_of(*entries: Entry, method: int = STORED, mode: int = stat.S_IFREG | 0o644) -> bytes:
    """A zip file whose entries have any name and any kind."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in entries:
            info = zipfile.ZipInfo("x")
            info.filename, info.external_attr, info.compress_type = name, mode << 16, method
            archive.writestr(info, content)
    return out.getvalue()


def patched(content: bytes, old: bytes, new: bytes) -> bytes:
    assert old in content
    return content.replace(old, new)


def with_flag(bit: int) -> bytes:
    """One entry with a bit of its flags set, in both of its headers."""
    content = bytearray(zip_of(("a", b"content")))
    content[6] |= bit
    content[content.index(b"PK\1\2") + 8] |= bit
    return bytes(content)


def with_sizes(content: bytes, size: int) -> bytes:
    """One entry that says it is of another size when unpacked, in both of its headers."""
    changed = bytearray(content)
    struct.pack_into("<L", changed, 22, size)
    struct.pack_into("<L", changed, content.index(b"PK\1\2") + 24, size)
    return bytes(changed)


def with_two_readings() -> bytes:
    """Two entries of which one lies inside the other."""
    inner = zip_of(("b", b"x" * 50))
    inner_local = inner[: inner.index(b"PK\1\2")]
    outer = zip_of(("a", inner_local))
    start, first = outer.index(b"PK\1\2"), outer.index(inner_local)
    entry = bytearray(inner[inner.index(b"PK\1\2") : -22])
    struct.pack_into("<L", entry, 42, first)
    end = bytearray(outer[-22:])
    struct.pack_into("<2HL", end, 8, 2, 2, len(outer) - 22 - start + len(entry))
    return outer[:-22] + bytes(entry) + bytes(end)


def with_second_directory() -> bytes:
    content = zip_of(("a", b"content"))
    locator = b"PK\6\7" + bytes(16)
    end = bytearray(content[-22:])
    struct.pack_into("<L", end, 12, struct.unpack_from("<L", end, 12)[0] + len(locator))
    return content[:-22] + locator + bytes(end)


def with_long_directory() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in "abc":
            info = zipfile.ZipInfo(name)
            info.comment = bytes(60_000)
            archive.writestr(info, b"")
    return out.getvalue()


ZEROS = bytes(18 * 2**20)
PLAIN = "expected plain, different file names"
CRAFTED: dict[str, tuple[Callable[[], bytes], str]] = {
    "up": (lambda: zip_of(("../outside", b"x")), PLAIN),
    "up from a folder": (lambda: zip_of(("a/../../outside", b"x")), PLAIN),
    "absolute": (lambda: zip_of(("/outside", b"x")), PLAIN),
    "drive": (lambda: zip_of(("c:outside", b"x")), PLAIN),
    "backslash": (lambda: zip_of(("a\\..\\outside", b"x")), PLAIN),
    "NUL": (lambda: patched(zip_of(("model.onnx#.txt", b"x")), b"onnx#", b"onnx\0"), PLAIN),
    "hidden": (lambda: zip_of((".profile", b"x")), PLAIN),
    "device of Windows": (lambda: zip_of(("aux.onnx", b"x")), PLAIN),
    "dot at the end": (lambda: zip_of(("a", b"x"), ("a.", b"y")), PLAIN),
    "very long": (lambda: zip_of(("a" * 300, b"x")), PLAIN),
    "case twins": (lambda: zip_of(("model.onnx", b"x"), ("Model.onnx", b"y")), PLAIN),
    "folders that are case twins": (lambda: zip_of(("e/a", b"x"), ("E/b", b"y")), PLAIN),
    "Unicode twins": (lambda: zip_of(("\u00e9", b"x"), ("e\u0301", b"y")), PLAIN),
    "duplicates": (lambda: patched(zip_of(("aa", b"x"), ("ab", b"y")), b"ab", b"aa"), PLAIN),
    "a file that is a folder, too": (lambda: zip_of(("a", b"x"), ("a/b", b"y")), PLAIN),
    "link": (lambda: zip_of(("a", b"/etc/passwd"), mode=stat.S_IFLNK | 0o777), "'a' is a link"),
    "pipe": (lambda: zip_of(("a", b""), mode=stat.S_IFIFO | 0o644), "'a' is a link, a folder or a device"),
    "device": (lambda: zip_of(("a", b""), mode=stat.S_IFCHR | 0o644), "'a' is a link, a folder or a device"),
    "folder": (lambda: zip_of(("a", b""), mode=stat.S_IFDIR | 0o755), "'a' is a link, a folder"),
    "folder by its name": (lambda: zip_of(("a/", b"")), PLAIN),
    "encrypted": (lambda: with_flag(0x01), "'a' is encrypted"),
    "strongly encrypted": (lambda: with_flag(0x40), "'a' is encrypted"),
    "patch data": (lambda: with_flag(0x20), "'a' is encrypted"),
    "bzip2": (lambda: zip_of(("a", b"x"), method=zipfile.ZIP_BZIP2), "'a' with method 12"),
    "lzma": (lambda: zip_of(("a", b"x"), method=zipfile.ZIP_LZMA), "'a' with method 14"),
    "bomb": (lambda: zip_of(("a", ZEROS), method=DEFLATED), "swell at most 100 times"),
    "bomb that says it is small": (lambda: with_sizes(zip_of(("a", ZEROS), method=DEFLATED), 99), "whole zip file"),
    "says more than it holds": (lambda: with_sizes(zip_of(("a", b"x")), 1000), "'a' has 1 bytes and not 1000"),
    "many entries": (lambda: zip_of(*((f"a{i}", b"") for i in range(100))), "at most 64 files .* found 100"),
    "long directory": (with_long_directory, "expected at most 64 files"),
    "shared bytes": (with_two_readings, "'a' overlaps what follows it"),
    "two directories": (with_second_directory, "split, commented or has a second directory"),
    "something before": (lambda: b"#!/bin/sh\n" + zip_of(("a", b"x")), "something stands before"),
    "something after": (lambda: zip_of(("a", b"x")) + b"more", "ends with its directory"),
    "cut off": (lambda: zip_of(("a", b"x" * 100))[:-30], "ends with its directory"),
    "wrong CRC": (lambda: patched(zip_of(("a", b"content")), b"content", b"contend"), "Bad CRC-32"),
    "another name in the local header": (lambda: b"PK\3\4".join(other_local_name()), "File name in directory"),
    "empty": (lambda: b"", "ends with its directory"),
    "text": (lambda: b"no zip file at all, but long enough to be one", "ends with its directory"),
}


def other_local_name() -> list[bytes]:
    parts = zip_of(("model", b"x")).split(b"PK\3\4")
    return [parts[0], parts[1].replace(b"model", b"other", 1)]


def list_all(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


class TestExtract:
    @pytest.mark.parametrize("case", CRAFTED)
    def test_a_crafted_archive_is_refused_and_leaves_the_target_at_most(self, tmp_path: Path, case: str) -> None:
        make, why = CRAFTED[case]
        (tmp_path / "x.zip").write_bytes(make())
        (tmp_path / "target").mkdir()
        with pytest.raises(BundleError, match=why):
            extract(tmp_path / "x.zip", tmp_path / "target")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["target", "x.zip"]
        assert all(path.is_file() and not path.is_symlink() for path in (tmp_path / "target").iterdir())
        assert sum(path.stat().st_size for path in (tmp_path / "target").iterdir()) < 2**20

    @pytest.mark.parametrize("method", [STORED, DEFLATED])
    def test_files_come_out_as_they_went_in(self, tmp_path: Path, method: int) -> None:
        (tmp_path / "x.zip").write_bytes(zip_of(("a", b"1"), ("f/b", b"22" * 10_000), ("f/g/c", b""), method=method))
        extract(tmp_path / "x.zip", tmp_path / "target")
        assert list_all(tmp_path / "target") == ["a", "f/b", "f/g/c"]
        assert (tmp_path / "target/f/b").read_bytes() == b"22" * 10_000

    def test_labels_that_are_all_zero_may_swell(self, tmp_path: Path) -> None:
        (tmp_path / "x.zip").write_bytes(zip_of(("labels", bytes(128**3)), method=DEFLATED))
        assert (tmp_path / "x.zip").stat().st_size < 10_000
        extract(tmp_path / "x.zip", tmp_path / "target")
        assert (tmp_path / "target/labels").stat().st_size == 128**3

    def test_more_bytes_than_a_bundle_has_are_refused_before_any_is_written(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(segkit_runtime.archive, "MAX_BUNDLE_BYTES", 150)
        (tmp_path / "x.zip").write_bytes(zip_of(("a", bytes(100)), ("b", bytes(100))))
        with pytest.raises(BundleError, match="its directory says more"):
            extract(tmp_path / "x.zip", tmp_path / "target")
        assert not (tmp_path / "target").exists()

    def test_bytes_are_counted_as_they_come_whatever_the_directory_says(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(segkit_runtime.archive, "_chunks", lambda *_: iter([bytes(2**20)] * 1000))
        (tmp_path / "x.zip").write_bytes(zip_of(("a", b"x")))
        with pytest.raises(BundleError, match="swell at most 100 times"):
            extract(tmp_path / "x.zip", tmp_path / "target")
        assert (tmp_path / "target/a").stat().st_size <= 16 * 2**20

    def test_a_file_that_is_not_there_is_one_line(self, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match=r"expected to read .*x\.zip, the system says: No such file"):
            extract(tmp_path / "x.zip", tmp_path / "target")

    @settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data(), method=st.sampled_from([STORED, DEFLATED]))
    def test_an_archive_altered_anywhere_gives_its_files_or_an_error_of_ours(
        self, tmp_path: Path, data: st.DataObject, method: int
    ) -> None:
        content = bytearray(zip_of(("model.onnx", b"abc" * 50), ("engines/x", b""), ("card.md", b"c"), method=method))
        for _ in range(data.draw(st.integers(1, 4))):
            place = data.draw(st.integers(0, len(content) - 1))
            content[place : place + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
        path, target = tmp_path / "fuzzed.zip", tmp_path / "fuzzed" / "target"
        path.write_bytes(content)
        with contextlib.suppress(SegkitError):
            extract(path, target)
        assert {file.name for file in tmp_path.iterdir()} <= {"fuzzed.zip", "fuzzed"}
        assert {file.name for file in (tmp_path / "fuzzed").glob("*")} <= {"target"}
        for file in sorted(target.rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()


class TestWrite:
    @pytest.fixture
    def files(self, tmp_path: Path) -> dict[str, Path]:
        for name in ("one", "two"):
            (tmp_path / name).write_bytes(name.encode() * 1000)
        return {"f/two": tmp_path / "two", "a": tmp_path / "one"}

    def test_the_same_files_give_the_same_bytes_whenever_and_in_whatever_order(
        self, tmp_path: Path, files: dict[str, Path]
    ) -> None:
        write_archive(files, tmp_path / "x.zip")
        (tmp_path / "one").chmod(0o600)
        (tmp_path / "two").touch()
        write_archive(dict(reversed(files.items())), tmp_path / "y.zip")
        assert (tmp_path / "x.zip").read_bytes() == (tmp_path / "y.zip").read_bytes()
        with zipfile.ZipFile(tmp_path / "x.zip") as archive:
            assert archive.namelist() == ["a", "f/two"]
            assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}

    def test_what_is_written_can_be_extracted(self, tmp_path: Path, files: dict[str, Path]) -> None:
        write_archive(files, tmp_path / "x.zip")
        extract(tmp_path / "x.zip", tmp_path / "target")
        assert (tmp_path / "target/f/two").read_bytes() == b"two" * 1000

    def test_more_than_4_gib_are_refused_before_any_is_written(self, tmp_path: Path) -> None:
        with (tmp_path / "huge").open("wb") as file:
            file.truncate(2**32)
        with pytest.raises(UsageError, match=r"expected less than 4 GiB for a zip file, got 4\.0 GiB"):
            write_archive({"a": tmp_path / "huge"}, tmp_path / "x.zip")
        assert not (tmp_path / "x.zip").exists()

    def test_a_place_that_cannot_be_written_is_one_line(self, tmp_path: Path, files: dict[str, Path]) -> None:
        with pytest.raises(UsageError, match=r"expected to write .* the system says: No such file"):
            write_archive(files, tmp_path / "nowhere" / "x.zip")
