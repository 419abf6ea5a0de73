"""`segkit bundle`: sign, verify, pack and unpack bundles."""

from __future__ import annotations

from pathlib import Path

import click

from segkit.cli.options import json_option
from segkit.cli.output import print_json
from segkit.errors import UsageError
from segkit_runtime.bundle import Bundle
from segkit_runtime.packing import pack_bundle, sign_bundle, unpack_bundle

_PATH = click.Path(path_type=Path)
_EPILOG = """\b
Example: segkit bundle sign unet3d.segkit --key private.pem

\b
Make keys with OpenSSL:
  openssl genpkey -algorithm ed25519 -out private.pem       add -aes-256-cbc for a passphrase
  openssl pkey -in private.pem -pubout -out public.pem
"""
_bundle = click.argument("bundle", type=_PATH)
_keys = click.option(
    "--key",
    "keys",
    multiple=True,
    type=_PATH,
    metavar="PUBLIC.PEM",
    help="Refuse what this key, or one of them, has not signed.",
)
_overwrite = click.option("--overwrite", is_flag=True, help="Replace what is there.")


@click.group(epilog="Example: segkit bundle sign unet3d.segkit --key private.pem")
def bundle() -> None:
    """Sign, verify, pack and unpack bundles."""


@bundle.command(epilog=_EPILOG)
@_bundle
@click.option("--key", required=True, type=_PATH, metavar="PRIVATE.PEM", help="Private ed25519 key.")
@click.option("--passphrase-file", type=_PATH, help="File whose first line is the passphrase of the key.")
@json_option
def sign(bundle: Path, key: Path, passphrase_file: Path | None, as_json: bool) -> None:
    """Sign BUNDLE, a folder or a zip file; a signature that it has is replaced."""
    signed = sign_bundle(bundle, key, _read_passphrase(passphrase_file))
    if as_json:
        print_json({"bundle": str(bundle), "id": signed.id, "signed_by": signed.signed_by})
        return
    click.echo(f"{bundle} is signed by {signed.signed_by}")


@bundle.command(epilog="Example: segkit bundle verify unet3d.segkit --key public.pem")
@_bundle
@click.option(
    "--key",
    "keys",
    multiple=True,
    required=True,
    type=_PATH,
    metavar="PUBLIC.PEM",
    help="Key that is trusted; repeat it.",
)
@json_option
def verify(bundle: Path, keys: tuple[Path, ...], as_json: bool) -> None:
    """Check that one of the keys has signed BUNDLE and that every file is as it was then."""
    opened = Bundle.open(bundle, keys)
    if as_json:
        print_json({"bundle": str(bundle), "id": opened.id, "signed_by": opened.signed_by})
        return
    click.echo(f"{bundle} is signed by {opened.signed_by}, and all {len(opened.checksums)} files are as they were then")


@bundle.command(epilog="Example: segkit bundle pack unet3d.segkit")
@_bundle
@click.option("--out", type=_PATH, help="The zip file.  [default: BUNDLE.zip]")
@_keys
@_overwrite
def pack(bundle: Path, out: Path | None, keys: tuple[Path, ...], overwrite: bool) -> None:
    """Write BUNDLE, a folder, as one zip file, which every command takes as well."""
    packed = pack_bundle(bundle, out, overwrite, keys)
    click.echo(f"packed as {packed}, {packed.stat().st_size / 2**20:.1f} MiB")


@bundle.command(epilog="Example: segkit bundle unpack unet3d.segkit.zip")
@_bundle
@click.option("--out", type=_PATH, help="The folder.  [default: BUNDLE without .zip]")
@_keys
@_overwrite
def unpack(bundle: Path, out: Path | None, keys: tuple[Path, ...], overwrite: bool) -> None:
    """Write BUNDLE, a zip file, as a folder: the whole of it, checked, or nothing."""
    click.echo(f"unpacked as {unpack_bundle(bundle, out, overwrite, keys).folder}")


def _read_passphrase(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            passphrase = file.readline(4096).rstrip(b"\r\n")
    except OSError as error:
        raise UsageError(f"expected to read the passphrase from {path}, the system says: {error.strerror}") from None
    if not passphrase:
        raise UsageError(f"expected a passphrase in the first line of {path}, found none")
    return passphrase
