"""`segkit bundle`, as it is typed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat, PublicFormat

from segkit.errors import BundleError, OutputExists, UsageError
from segkit_runtime.bundle import Bundle
from segkit_runtime.bundle_cli import bundle as command


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with public.pem, and private.pem encrypted with the first line of the file `passphrase`."""
    folder = tmp_path_factory.mktemp("keys")
    key = Ed25519PrivateKey.generate()
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"open sesame"))
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (folder / "private.pem").write_bytes(locked)
    (folder / "public.pem").write_bytes(public)
    (folder / "passphrase").write_bytes(b"open sesame\r\nnot this\n")
    (folder / "empty").write_bytes(b"\n")
    return folder


@pytest.fixture
def call() -> Callable[..., str]:
    """Runs a command; an error of segkit is raised."""

    def run(*arguments: object) -> str:
        result = CliRunner().invoke(command, [str(part) for part in arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    return run


def test_sign_then_verify(call: Callable, bundle: Path, keys: Path) -> None:
    said = call("sign", bundle, "--key", keys / "private.pem", "--passphrase-file", keys / "passphrase")
    key_id = Bundle.open(bundle).signed_by
    assert said == f"{bundle} is signed by {key_id}\n"
    said = call("verify", bundle, "--key", keys / "public.pem")
    assert said == f"{bundle} is signed by {key_id}, and all 4 files are as they were then\n"


def test_json_of_sign_and_verify(call: Callable, bundle: Path, keys: Path) -> None:
    signed = call("sign", bundle, "--key", keys / "private.pem", "--passphrase-file", keys / "passphrase", "--json")
    verified = call("verify", bundle, "--key", keys / "public.pem", "--json")
    opened = Bundle.open(bundle)
    assert json.loads(signed) == json.loads(verified)
    assert json.loads(signed) == {"bundle": str(bundle), "id": opened.id, "signed_by": opened.signed_by}


def test_verify_refuses_an_unsigned_bundle(call: Callable, bundle: Path, keys: Path) -> None:
    with pytest.raises(BundleError, match=r"found no SHA256SUMS\.sig"):
        call("verify", bundle, "--key", keys / "public.pem")


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ([], "is encrypted.*add --passphrase-file FILE"),
        (["--passphrase-file", "empty"], "expected a passphrase in the first line"),
        (["--passphrase-file", "nowhere"], "expected to read the passphrase .* No such file"),
        (["--passphrase-file", "public.pem"], "found a wrong passphrase"),
    ],
)
def test_a_locked_key_needs_its_passphrase(call: Callable, bundle: Path, keys: Path, more: list[str], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        call("sign", bundle, "--key", keys / "private.pem", *(keys / x if "-" not in x else x for x in more))
    assert Bundle.open(bundle).signed_by is None


@pytest.mark.parametrize("name", ["sign", "verify"])
def test_a_key_must_be_given(bundle: Path, name: str) -> None:
    result = CliRunner().invoke(command, [name, str(bundle)])
    assert result.exit_code == 2
    assert "Missing option '--key'" in result.output


def test_pack_then_unpack(call: Callable, bundle: Path, tmp_path: Path) -> None:
    assert call("pack", bundle).startswith(f"packed as {bundle}.zip, 0.0 MiB")
    assert (
        call("unpack", f"{bundle}.zip", "--out", tmp_path / "new.segkit") == f"unpacked as {tmp_path / 'new.segkit'}\n"
    )
    assert Bundle.open(tmp_path / "new.segkit").id == Bundle.open(bundle).id


@pytest.mark.parametrize("name", ["pack", "unpack"])
def test_what_is_there_is_replaced_only_if_told(call: Callable, bundle: Path, name: str) -> None:
    call("pack", bundle)
    source = bundle if name == "pack" else f"{bundle}.zip"
    with pytest.raises(OutputExists, match="add --overwrite"):
        call(name, source)
    call(name, source, "--overwrite")


@pytest.mark.parametrize("name", ["pack", "unpack"])
def test_with_a_key_an_unsigned_bundle_goes_nowhere(
    call: Callable, bundle: Path, keys: Path, tmp_path: Path, name: str
) -> None:
    call("pack", bundle)
    source, out = (bundle, tmp_path / "new.zip") if name == "pack" else (f"{bundle}.zip", tmp_path / "new.segkit")
    with pytest.raises(BundleError, match=r"found no SHA256SUMS\.sig"):
        call(name, source, "--out", out, "--key", keys / "public.pem")
    assert not out.exists()
