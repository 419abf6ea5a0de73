"""Bundles packed, unpacked and signed: what comes out is the same bundle, whole, or nothing."""

from __future__ import annotations

import gc
import os
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from segkit.errors import BundleError, MissingExtra, OutputExists, UsageError
from segkit_runtime import load
from segkit_runtime.bundle import Bundle
from segkit_runtime.packing import pack_bundle, sign_bundle, unpack_bundle

FILES = ["SHA256SUMS", "SHA256SUMS.sig", "card.md", "engines/toy.engine", "manifest.json", "model.onnx"]


def read_all(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(autouse=True)
def temporary(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where zip files are unpacked in these tests."""
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with private.pem, public.pem and the public key of somebody else, other.pem."""
    folder = tmp_path_factory.mktemp("keys")
    key, other = (Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32) for seed in (1, 2))
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "private.pem").write_bytes(private)
    for name, public in (("public.pem", key.public_key()), ("other.pem", other.public_key())):
        (folder / name).write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return folder


@pytest.fixture
def packed(bundle: Path) -> Path:
    return pack_bundle(bundle)


class TestPack:
    def test_the_same_bundle_gives_the_same_bytes(self, bundle: Path, tmp_path: Path) -> None:
        first = pack_bundle(bundle)
        os.utime(bundle / "model.onnx", (1, 1))
        second = pack_bundle(bundle, tmp_path / "deep" / "second.zip")
        assert first == tmp_path / "threshold.segkit.zip"
        assert first.read_bytes() == second.read_bytes()
        assert list((tmp_path / "deep").iterdir()) == [second]

    def test_a_bundle_is_named_after_its_folder_whatever_it_was_called(
        self, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(bundle)
        with pytest.raises(UsageError, match="expected a place outside the bundle"):
            pack_bundle(Path(), Path("inside.zip"))
        assert pack_bundle(Path()).resolve() == tmp_path / "threshold.segkit.zip"

    def test_an_altered_bundle_is_not_packed(self, bundle: Path, tmp_path: Path) -> None:
        (bundle / "model.onnx").write_bytes(b"")
        with pytest.raises(BundleError, match=r"'model\.onnx' with SHA-256"):
            pack_bundle(bundle)
        assert list(tmp_path.iterdir()) == [bundle]

    def test_what_is_there_is_kept_unless_told_otherwise(self, bundle: Path, packed: Path) -> None:
        packed.write_bytes(b"old")
        with pytest.raises(OutputExists, match=r"add --overwrite"):
            pack_bundle(bundle)
        assert packed.read_bytes() == b"old"
        assert Bundle.open(pack_bundle(bundle, overwrite=True)).checksums == Bundle.open(bundle).checksums

    @pytest.mark.parametrize(
        ("make", "name", "why"),
        [
            (Path.mkdir, "x.zip", "expected a zip file to overwrite"),
            (lambda path: path.symlink_to("/nowhere"), "x.zip", "expected a zip file to overwrite"),
            (lambda path: None, "x.tar", r"a name that ends in \.zip"),
        ],
    )
    def test_a_place_that_does_not_suit_is_refused(
        self, bundle: Path, tmp_path: Path, make: Callable, name: str, why: str
    ) -> None:
        make(tmp_path / name)
        with pytest.raises(UsageError, match=why):
            pack_bundle(bundle, tmp_path / name, overwrite=True)

    def test_a_zip_file_is_not_packed_again(self, packed: Path, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="is packed already"):
            pack_bundle(packed, tmp_path / "again.zip")

    def test_a_bundle_that_changes_meanwhile_is_not_packed(
        self, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = zipfile.ZipFile.open

        def alter(self: zipfile.ZipFile, *arguments: object, **named: object) -> object:
            (bundle / "model.onnx").write_bytes(b"altered")
            return real(self, *arguments, **named)

        monkeypatch.setattr(zipfile.ZipFile, "open", alter)
        with pytest.raises((BundleError, UsageError), match=r"^expected "):
            pack_bundle(bundle)
        assert list(tmp_path.iterdir()) == [bundle]


class TestOpen:
    def test_a_zip_file_is_a_bundle(self, bundle: Path, packed: Path) -> None:
        opened, folder = Bundle.open(packed), Bundle.open(bundle)
        assert (opened.id, opened.manifest, opened.checksums) == (folder.id, folder.manifest, folder.checksums)
        assert (opened.path, folder.path) == (packed, bundle)
        assert opened.read("model.onnx") == folder.read("model.onnx")

    def test_what_it_is_unpacked_to_lives_as_long_as_it_is_used(self, packed: Path, temporary: Path) -> None:
        opened = Bundle.open(packed)
        (folder,) = temporary.iterdir()
        assert folder == opened.folder
        assert folder.stat().st_mode & 0o077 == 0
        del opened
        gc.collect()
        assert list(temporary.iterdir()) == []

    def test_a_zip_file_segments_like_its_folder(self, make_bundle: Callable, head: dict[str, Path]) -> None:
        bundle = make_bundle("two.segkit", preprocessing={"normalisation": "none", "background": "zero"})
        results = []
        for path in (bundle, pack_bundle(bundle)):
            with load(path) as segmenter:
                results.append(segmenter.segment(head).labels.data)
        assert np.array_equal(*results)

    @pytest.mark.parametrize("name", [name for name in FILES if name != "SHA256SUMS.sig"])
    def test_an_altered_file_in_it_is_refused_by_the_name_of_the_zip_file(
        self, bundle: Path, tmp_path: Path, temporary: Path, name: str
    ) -> None:
        content = read_all(bundle)
        content[name] = bytes([content[name][0] ^ 1]) + content[name][1:]
        with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
            for file, data in content.items():
                archive.writestr(file, data)
        with pytest.raises(BundleError, match=r"^expected ") as raised:
            Bundle.open(tmp_path / "x.zip")
        assert str(temporary) not in str(raised.value)
        assert list(temporary.iterdir()) == []

    def test_a_zip_file_that_holds_the_folder_and_not_its_files_is_refused(self, bundle: Path, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
            for file, data in read_all(bundle).items():
                archive.writestr(f"threshold.segkit/{file}", data)
        with pytest.raises(BundleError, match=r"expected 'SHA256SUMS' in .*x\.zip, it is missing"):
            Bundle.open(tmp_path / "x.zip")

    def test_no_place_to_unpack_is_one_line(self, packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
        with pytest.raises(UsageError, match="expected to write /nowhere, the system says: No such file"):
            Bundle.open(packed)


class TestUnpack:
    def test_what_was_packed_comes_back(self, bundle: Path, packed: Path, tmp_path: Path) -> None:
        before = read_all(bundle)
        for path in sorted(bundle.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        bundle.rmdir()
        unpacked = unpack_bundle(packed)
        assert unpacked.folder == bundle
        assert read_all(bundle) == before
        assert sorted(path.name for path in tmp_path.iterdir()) == ["threshold.segkit", "threshold.segkit.zip"]

    def test_what_is_there_is_kept_unless_told_otherwise(self, bundle: Path, packed: Path) -> None:
        with pytest.raises(OutputExists, match="add --overwrite"):
            unpack_bundle(packed)
        (bundle / "card.md").write_text("another")
        unpack_bundle(packed, overwrite=True)
        assert Bundle.open(bundle).manifest.name == "threshold"

    @pytest.mark.parametrize("there", [False, True])
    def test_a_bad_zip_file_leaves_nothing_or_the_old_bundle(self, bundle: Path, tmp_path: Path, there: bool) -> None:
        with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
            archive.writestr("model.onnx", b"x")
        target = bundle if there else tmp_path / "new.segkit"
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(BundleError, match="expected 'SHA256SUMS'"):
            unpack_bundle(tmp_path / "x.zip", target, overwrite=True)
        assert sorted(tmp_path.rglob("*")) == before

    @pytest.mark.parametrize("name", ["threshold.segkit", "nothing.txt"])
    def test_what_is_no_zip_file_is_refused(self, bundle: Path, name: str) -> None:
        with pytest.raises(UsageError, match=r"expected a file whose name ends in \.zip"):
            unpack_bundle(bundle.with_name(name), bundle.with_name("new.segkit"))


class TestSign:
    @pytest.fixture(params=["folder", "zip file"])
    def signed(self, request: pytest.FixtureRequest, bundle: Path, packed: Path, keys: Path) -> Path:
        path = bundle if request.param == "folder" else packed
        sign_bundle(path, keys / "private.pem")
        return path

    def test_a_signed_bundle_opens_with_the_key_and_without(self, signed: Path, keys: Path) -> None:
        trusted, plain = Bundle.open(signed, [keys / "other.pem", keys / "public.pem"]), Bundle.open(signed)
        assert trusted.signed_by == plain.signed_by
        assert (trusted.trusted, plain.trusted) == (True, False)

    def test_another_key_is_refused(self, signed: Path, keys: Path) -> None:
        with pytest.raises(BundleError, match="found one signed by"):
            Bundle.open(signed, [keys / "other.pem"])

    def test_an_unsigned_bundle_is_refused_where_keys_are_given(self, bundle: Path, packed: Path, keys: Path) -> None:
        for path in (bundle, packed):
            assert Bundle.open(path).signed_by is None
            with pytest.raises(BundleError, match=r"found no SHA256SUMS\.sig"):
                Bundle.open(path, [keys / "public.pem"])

    @pytest.mark.parametrize("name", FILES)
    def test_one_flipped_byte_in_any_file_is_refused(self, bundle: Path, keys: Path, name: str) -> None:
        sign_bundle(bundle, keys / "private.pem")
        content = (bundle / name).read_bytes()
        for place in (0, len(content) // 2, len(content) - 1):
            (bundle / name).write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
            with pytest.raises(BundleError, match=r"^expected "):
                Bundle.open(bundle, [keys / "public.pem"])
        (bundle / name).write_bytes(content)
        assert Bundle.open(bundle, [keys / "public.pem"]).trusted

    def test_a_bundle_that_was_altered_and_listed_anew_is_refused(
        self, bundle: Path, make_bundle: Callable, keys: Path
    ) -> None:
        sign_bundle(bundle, keys / "private.pem")
        forged = make_bundle("forged.segkit", intended_use="anything")
        (forged / "SHA256SUMS.sig").write_bytes((bundle / "SHA256SUMS.sig").read_bytes())
        assert Bundle.open(forged).signed_by == Bundle.open(bundle).signed_by
        with pytest.raises(BundleError, match=r"the signature of .* to fit the bundle, it does not"):
            Bundle.open(forged, [keys / "public.pem"])

    def test_a_broken_signature_is_refused_without_a_key_too(self, bundle: Path) -> None:
        (bundle / "SHA256SUMS.sig").write_text("signed by me\n")
        with pytest.raises(BundleError, match="expected the line 'ed25519 KEY SIGNATURE'"):
            Bundle.open(bundle)

    def test_signing_again_replaces(self, signed: Path, keys: Path, tmp_path: Path) -> None:
        other = Ed25519PrivateKey.from_private_bytes(bytes([2]) * 32)
        pem = other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (tmp_path / "second.pem").write_bytes(pem)
        before = Bundle.open(signed)
        after = sign_bundle(signed, tmp_path / "second.pem")
        assert after.signed_by != before.signed_by
        assert after.sums == before.sums
        assert Bundle.open(signed, [keys / "other.pem"]).trusted

    def test_only_the_signature_is_written(self, bundle: Path, keys: Path) -> None:
        before = read_all(bundle)
        sign_bundle(bundle, keys / "private.pem")
        after = read_all(bundle)
        del after["SHA256SUMS.sig"]
        assert after == before
        assert [path.name for path in bundle.parent.iterdir()] == [bundle.name]

    def test_an_altered_bundle_is_not_signed(self, bundle: Path, keys: Path) -> None:
        (bundle / "card.md").write_text("trust me")
        with pytest.raises(BundleError, match=r"'card\.md' with SHA-256"):
            sign_bundle(bundle, keys / "private.pem")
        assert not (bundle / "SHA256SUMS.sig").exists()

    def test_a_key_that_does_not_suit_changes_nothing(self, signed: Path, keys: Path) -> None:
        before = Bundle.open(signed).signed_by
        with pytest.raises(UsageError, match="expected an ed25519 private key"):
            sign_bundle(signed, keys / "public.pem")
        assert Bundle.open(signed).signed_by == before

    def test_a_signature_survives_packing_and_unpacking(self, bundle: Path, keys: Path, tmp_path: Path) -> None:
        sign_bundle(bundle, keys / "private.pem")
        packed = pack_bundle(bundle, tmp_path / "x.zip", trusted_keys=[keys / "public.pem"])
        assert unpack_bundle(packed, tmp_path / "y.segkit", trusted_keys=[keys / "public.pem"]).trusted

    def test_unpacking_refuses_another_key_and_writes_nothing(self, bundle: Path, keys: Path, tmp_path: Path) -> None:
        sign_bundle(bundle, keys / "private.pem")
        packed = pack_bundle(bundle, tmp_path / "x.zip")
        with pytest.raises(BundleError, match="found one signed by"):
            unpack_bundle(packed, tmp_path / "y.segkit", trusted_keys=[keys / "other.pem"])
        assert not (tmp_path / "y.segkit").exists()

    def test_the_package_that_is_missing_is_named(self, bundle: Path, keys: Path, without_module: Callable) -> None:
        without_module("cryptography")
        assert Bundle.open(bundle).signed_by is None
        for refused in (lambda: sign_bundle(bundle, keys / "private.pem"), lambda: Bundle.open(bundle, [keys / "x"])):
            with pytest.raises(MissingExtra, match=r"segkit3d\[sign\]"):
                refused()
