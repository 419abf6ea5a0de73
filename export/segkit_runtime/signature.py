"""Signatures of bundles: ed25519 over the exact bytes of SHA256SUMS, which names the hash of every other file.

The file is one line, `ed25519 KEY SIGNATURE`: the key's id (the first 16 hex digits of the SHA-256 of its 32 bytes) and
the 64 bytes in base64. Keys are PEM files, as `openssl genpkey -algorithm ed25519` makes them; they never travel with a
bundle, and which of them are trusted is for the reader to say.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from segkit.errors import BundleError, UsageError
from segkit.extras import require
from segkit_runtime.layout import SIGNATURE

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_LINE = re.compile(rb"ed25519 ([0-9a-f]{16}) ([A-Za-z0-9+/]{86}==)\n")
_MAX_KEY_BYTES = 64 * 2**10
_RESIGN = "copy the bundle again from its source, or sign it again: segkit bundle sign"


@dataclass(frozen=True)
class Signature:
    """What a signature file says.

    Attributes:
        key_id: the key that it claims to be made with.
        raw: the signature, 64 bytes.
    """

    key_id: str
    raw: bytes

    @classmethod
    def parse(cls, content: bytes) -> Signature:
        """Read a signature file.

        Raises:
            BundleError: it is not exactly what `to_bytes` writes.
        """
        match = _LINE.fullmatch(content)
        signature = match and cls(match[1].decode(), base64.b64decode(match[2]))
        # The last letter of base64 has bits that mean nothing: only one way to write them is taken.
        if not signature or signature.to_bytes() != content:
            raise BundleError(
                f"expected the line 'ed25519 KEY SIGNATURE' in {SIGNATURE}, found {content[:120]!r}", hint=_RESIGN
            )
        return signature

    def to_bytes(self) -> bytes:
        """Content of a signature file."""
        return f"ed25519 {self.key_id} {base64.b64encode(self.raw).decode()}\n".encode()


def sign(content: bytes, key: Path, passphrase: bytes | None = None) -> Signature:
    """Sign bytes with a private key.

    Args:
        content: what is signed.
        key: PEM file of an ed25519 private key.
        passphrase: what the key is encrypted with, if it is.

    Raises:
        UsageError: the key cannot be used.
        MissingExtra: the package cryptography is not installed.
    """
    private = _load_private(key, passphrase)
    return Signature(key_id_of(private.public_key()), private.sign(content))


def require_signed(content: bytes, signature: bytes | None, trusted_keys: Sequence[Path]) -> None:
    """Refuse bytes that no trusted key has signed.

    Args:
        content: what must be signed.
        signature: content of the signature file, or None where there is none.
        trusted_keys: PEM files of ed25519 public keys; the signature of one of them is enough.

    Raises:
        BundleError: there is no signature, it is of another key, or it is wrong.
        UsageError: a key cannot be used.
        MissingExtra: the package cryptography is not installed.
    """
    keys = {key_id_of(key): key for key in map(_load_public, trusted_keys)}
    if signature is None:
        raise BundleError(f"expected a bundle signed by {_any_of(keys)}, found no {SIGNATURE}", hint=_RESIGN)
    found = Signature.parse(signature)
    if found.key_id not in keys:
        raise BundleError(
            f"expected a bundle signed by {_any_of(keys)}, found one signed by {found.key_id}",
            hint="give the key of who signed it, if you trust them",
        )
    from cryptography.exceptions import InvalidSignature

    try:
        keys[found.key_id].verify(found.raw, content)
    except InvalidSignature:
        raise BundleError(
            f"expected the signature of {found.key_id} to fit the bundle, it does not: one of them was altered",
            hint=_RESIGN,
        ) from None


def key_id_of(key: Ed25519PublicKey) -> str:
    """The first 16 hex digits of the SHA-256 of a public key's 32 bytes."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


def _load_private(path: Path, passphrase: bytes | None) -> Ed25519PrivateKey:
    content = _read_key(path)
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(content, passphrase)
    except TypeError:
        raise UsageError(
            f"expected a passphrase for the key {path}, which is encrypted, and for no other",
            hint="add --passphrase-file FILE" if passphrase is None else "drop --passphrase-file: it is not encrypted",
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        wrong = b"ENCRYPTED" in content and passphrase is not None
        raise _bad_key(path, "private", "a wrong passphrase or a damaged key" if wrong else "something else") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise _bad_key(path, "private", "a key of another algorithm")
    return key


def _load_public(path: Path) -> Ed25519PublicKey:
    content = _read_key(path)
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm):
        private = b"PRIVATE KEY" in content
        raise _bad_key(path, "public", "a private key" if private else "something else") from None
    if not isinstance(key, Ed25519PublicKey):
        raise _bad_key(path, "public", "a key of another algorithm")
    return key


def _read_key(path: Path) -> bytes:
    require("cryptography", "sign", "a signature")
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_KEY_BYTES + 1)
    except OSError as error:
        raise UsageError(f"expected to read the key {path}, the system says: {error.strerror}") from None
    if len(content) > _MAX_KEY_BYTES:
        raise _bad_key(path, "PEM", "a far larger file")
    return content


def _bad_key(path: Path, kind: str, found: str) -> UsageError:
    make = "openssl genpkey -algorithm ed25519 -out private.pem"
    if kind == "public":
        make = "openssl pkey -in private.pem -pubout -out public.pem"
    return UsageError(f"expected an ed25519 {kind} key, as PEM, in {path}, found {found}", hint=f"make one: {make}")


def _any_of(keys: Sequence[str] | dict[str, Ed25519PublicKey]) -> str:
    return " or ".join(keys)
