"""Signatures: of one key over one content, written in one way, and worth nothing without a key that is trusted."""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed448, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from segkit.errors import BundleError, MissingExtra, UsageError
from segkit_runtime.signature import Signature, require_signed, sign

CONTENT = b"0123  model.onnx\n"
ONE, OTHER = bytes(range(32)), bytes(range(1, 33))


def write_private(path: Path, key: object, how: KeySerializationEncryption | None = None) -> Path:
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how or NoEncryption()))
    return path


def write_public(path: Path, key: object) -> Path:
    path.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return path


def ed(seed: bytes) -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.from_private_bytes(seed)


@pytest.fixture
def private(tmp_path: Path) -> Path:
    return write_private(tmp_path / "private.pem", ed(ONE))


@pytest.fixture
def public(tmp_path: Path) -> Path:
    return write_public(tmp_path / "public.pem", ed(ONE))


@pytest.fixture
def other(tmp_path: Path) -> Path:
    return write_public(tmp_path / "other.pem", ed(OTHER))


class TestSign:
    def test_it_is_one_line_that_names_the_key(self, private: Path) -> None:
        content = sign(CONTENT, private).to_bytes()
        algorithm, key_id, signature = content.decode().split()
        assert algorithm == "ed25519"
        assert key_id == hashlib.sha256(ed(ONE).public_key().public_bytes_raw()).hexdigest()[:16]
        ed(ONE).public_key().verify(base64.b64decode(signature), CONTENT)
        assert content.endswith(b"\n")

    def test_the_same_content_gives_the_same_bytes(self, private: Path) -> None:
        assert sign(CONTENT, private) == sign(CONTENT, private)

    def test_an_encrypted_key_takes_its_passphrase(self, tmp_path: Path, private: Path) -> None:
        locked = write_private(tmp_path / "locked.pem", ed(ONE), BestAvailableEncryption(b"open"))
        assert sign(CONTENT, locked, b"open") == sign(CONTENT, private)

    @pytest.mark.parametrize(
        ("passphrase", "why"),
        [(None, "is encrypted.*add --passphrase-file"), (b"shut", "a wrong passphrase or a damaged key")],
    )
    def test_an_encrypted_key_without_its_passphrase_is_refused(
        self, tmp_path: Path, passphrase: bytes | None, why: str
    ) -> None:
        locked = write_private(tmp_path / "locked.pem", ed(ONE), BestAvailableEncryption(b"open"))
        with pytest.raises(UsageError, match=why):
            sign(CONTENT, locked, passphrase)

    def test_a_passphrase_for_an_open_key_is_refused(self, private: Path) -> None:
        with pytest.raises(UsageError, match="drop --passphrase-file: it is not encrypted"):
            sign(CONTENT, private, b"open")

    @pytest.mark.parametrize(
        ("make", "why"),
        [
            (lambda path: write_public(path, ed(ONE)), "an ed25519 private key, as PEM, .* found something else"),
            (lambda path: write_private(path, ed448.Ed448PrivateKey.generate()), "found a key of another algorithm"),
            (lambda path: path.write_text("no key"), "found something else"),
            (lambda path: path.write_bytes(b""), "found something else"),
            (lambda path: path.write_bytes(bytes(2**17)), "found a far larger file"),
            (lambda path: path.mkdir(), "the system says: Is a directory"),
            (lambda path: None, "the system says: No such file"),
        ],
    )
    def test_what_is_no_private_key_is_refused(self, tmp_path: Path, make: Callable, why: str) -> None:
        make(tmp_path / "key.pem")
        with pytest.raises(UsageError, match=why):
            sign(CONTENT, tmp_path / "key.pem")


class TestRequireSigned:
    @pytest.fixture
    def signature(self, private: Path) -> bytes:
        return sign(CONTENT, private).to_bytes()

    def test_one_of_the_trusted_keys_is_enough(self, signature: bytes, public: Path, other: Path) -> None:
        require_signed(CONTENT, signature, [public])
        require_signed(CONTENT, signature, [other, public])

    def test_another_key_is_refused(self, signature: bytes, other: Path) -> None:
        with pytest.raises(
            BundleError, match=r"expected a bundle signed by [0-9a-f]{16}, found one signed by [0-9a-f]{16}"
        ):
            require_signed(CONTENT, signature, [other])

    def test_no_signature_is_refused(self, public: Path) -> None:
        with pytest.raises(BundleError, match=r"found no SHA256SUMS\.sig"):
            require_signed(CONTENT, None, [public])

    def test_a_signature_of_another_content_is_refused(self, signature: bytes, public: Path) -> None:
        with pytest.raises(BundleError, match="to fit the bundle, it does not"):
            require_signed(CONTENT + b" ", signature, [public])

    def test_a_key_that_only_calls_itself_the_trusted_one_is_refused(self, private: Path, public: Path) -> None:
        forged = Signature(sign(CONTENT, private).key_id, ed(OTHER).sign(CONTENT)).to_bytes()
        with pytest.raises(BundleError, match="to fit the bundle, it does not"):
            require_signed(CONTENT, forged, [public])

    def test_every_flipped_bit_of_the_signature_is_refused(self, signature: bytes, public: Path) -> None:
        for position in range(8 * len(signature)):
            flipped = bytearray(signature)
            flipped[position // 8] ^= 1 << position % 8
            with pytest.raises(BundleError, match=r"^expected "):
                require_signed(CONTENT, bytes(flipped), [public])

    @pytest.mark.parametrize(
        "change",
        [
            lambda line: line + b"\n",
            lambda line: line[:-1],
            lambda line: line[:-1] + b"\r\n",
            lambda line: line.replace(b" ", b"  "),
            lambda line: line.upper(),
            lambda line: line.replace(b"==", b""),
            lambda line: b"",
            lambda line: b"\xff" * 100,
            # The last letter before == carries four bits that decode to nothing.
            lambda line: line[:-4] + bytes([line[-4] + 1]) + line[-3:],
        ],
    )
    def test_a_signature_that_is_written_in_another_way_is_refused(
        self, signature: bytes, public: Path, change: Callable
    ) -> None:
        assert change(signature) != signature
        with pytest.raises(BundleError, match="expected the line 'ed25519 KEY SIGNATURE'"):
            require_signed(CONTENT, change(signature), [public])

    @pytest.mark.parametrize(
        ("make", "why"),
        [
            (
                lambda path: write_private(path, ed(ONE)),
                "public key, as PEM, .* found a private key; make one: openssl pkey",
            ),
            (lambda path: write_public(path, ed448.Ed448PrivateKey.generate()), "a key of another algorithm"),
            (lambda path: path.write_text("no key"), "found something else"),
        ],
    )
    def test_what_is_no_public_key_is_refused(self, tmp_path: Path, signature: bytes, make: Callable, why: str) -> None:
        make(tmp_path / "key.pem")
        with pytest.raises(UsageError, match=why):
            require_signed(CONTENT, signature, [tmp_path / "key.pem"])

    def test_the_package_that_is_missing_is_named(self, public: Path, without_module: Callable) -> None:
        without_module("cryptography")
        with pytest.raises(MissingExtra, match=r"segkit3d\[sign\]"):
            require_signed(CONTENT, b"", [public])


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_makes_the_keys_and_checks_the_signature(tmp_path: Path) -> None:
    def openssl(*arguments: str) -> str:
        return subprocess.run(["openssl", *arguments], cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    openssl("genpkey", "-algorithm", "ed25519", "-out", "private.pem")
    openssl("pkey", "-in", "private.pem", "-pubout", "-out", "public.pem")
    signature = sign(CONTENT, tmp_path / "private.pem")
    require_signed(CONTENT, signature.to_bytes(), [tmp_path / "public.pem"])
    (tmp_path / "raw").write_bytes(signature.raw)
    (tmp_path / "content").write_bytes(CONTENT)
    check = "pkeyutl -verify -pubin -inkey public.pem -rawin -in content -sigfile raw"
    assert "Verified Successfully" in openssl(*check.split())


def test_cryptography_is_imported_only_to_sign_or_check() -> None:
    code = "import sys, segkit_runtime.bundle_cli; sys.exit('cryptography' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
