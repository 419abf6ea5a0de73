"""docs/bundle.md says what the schema says: every field, its type, and whether it must be there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from segkit_runtime import layout
from segkit_runtime.archive import MAX_DIRECTORY_BYTES, MAX_RATIO, SMALL_BYTES
from segkit_runtime.manifest import SCHEMA, Manifest
from segkit_runtime.packing import sign_bundle

DOC = Path(__file__).parents[2] / "docs" / "bundle.md"


def type_text(schema: dict[str, Any]) -> str:
    """A JSON schema in a few words."""
    if "$ref" in schema:
        return schema["$ref"].rpartition("/")[2]
    if "anyOf" in schema:
        return " or ".join(type_text(choice) for choice in schema["anyOf"])
    if "const" in schema:
        return repr(schema["const"]).replace("'", "`")
    if "enum" in schema:
        return ", ".join(f"`{choice}`" for choice in schema["enum"])
    kind = schema["type"]
    if kind == "array":
        return list_text(schema)
    if kind == "object":
        return f"object of {type_text(schema['additionalProperties'])}"
    if kind == "string":
        hexadecimal = "64 hex digits" if "0-9a-f" in schema.get("pattern", "") else ""
        return hexadecimal or ("name" if "pattern" in schema else "string")
    return kind + bounds_text(schema)


def list_text(schema: dict[str, Any]) -> str:
    items = schema.get("items") or schema["prefixItems"][0]
    least, most = schema.get("minItems"), schema.get("maxItems")
    count = (
        f"{least} "
        if least == most and least
        else f"{least} to {most} "
        if most
        else f"{least} or more "
        if least
        else ""
    )
    return f"list of {count}{type_text(items)}"


def bounds_text(schema: dict[str, Any]) -> str:
    if "exclusiveMinimum" in schema:
        return f" above {schema['exclusiveMinimum']}"
    if "maximum" in schema:
        return f" {schema['minimum']} to {schema['maximum']}"
    return f", at least {schema['minimum']}" if "minimum" in schema else ""


def schema_rows() -> dict[str, dict[str, tuple[str, str]]]:
    """Part -> field -> (type, default)."""
    schema = Manifest.model_json_schema()
    parts = {"Manifest": schema, **schema["$defs"]}
    return {
        part: {
            name: (
                type_text(field),
                "required" if name in content.get("required", ()) else f"`{json.dumps(field['default'])}`",
            )
            for name, field in content["properties"].items()
        }
        for part, content in parts.items()
    }


def document_rows() -> dict[str, dict[str, tuple[str, str]]]:
    """The same, as the tables of the document say it."""
    found: dict[str, dict[str, tuple[str, str]]] = {}
    for part, field, kind, default, meaning in read_tables():
        assert meaning.strip(), f"{part}.{field} has no meaning"
        found.setdefault(part, {})[field] = (kind, default)
    return found


def read_tables() -> Iterator[tuple[str, ...]]:
    part = ""
    for line in DOC.read_text(encoding="utf-8").splitlines():
        if line.startswith("### "):
            part = line.removeprefix("### ")
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `") and len(cells) == 4:
            yield part, cells[0].strip("`"), *cells[1:]


def test_every_field_of_the_schema_is_in_the_document_as_it_is() -> None:
    expected, found = schema_rows(), document_rows()
    assert list(found) == list(expected), "expected a table for each part of the schema"
    for part, fields in expected.items():
        assert found[part] == fields, f"expected the fields of {part} as the schema has them"


def test_the_versions_and_the_limits_are_those_of_the_code() -> None:
    text = DOC.read_text(encoding="utf-8")
    for said in (
        f"schema {SCHEMA}",
        f"at most {layout.MAX_FILES} files",
        f"at most {layout.MAX_BUNDLE_BYTES // 2**30} GiB",
        f"at most {layout.MAX_TEXT_BYTES // 2**20} MiB",
        f"at most {MAX_DIRECTORY_BYTES // 2**10} KiB",
        f"{SMALL_BYTES // 2**20} MiB and {MAX_RATIO} times",
    ):
        assert said in text


@pytest.mark.skipif(
    not all(map(shutil.which, ("openssl", "sha256sum", "base64"))), reason="needs openssl and coreutils"
)
def test_a_bundle_is_checked_with_the_commands_of_the_document(bundle: Path, tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "private.pem").write_bytes(private)
    (bundle.parent / "public.pem").write_bytes(public)
    sign_bundle(bundle, tmp_path / "private.pem")
    block = re.search(r"```sh check\n(.*?)```", DOC.read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    script = "set -e\n" + block[1].replace("vnet.segkit", bundle.name)

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(["sh", "-c", script], cwd=bundle.parent, capture_output=True, text=True, check=False)

    assert run().returncode == 0, run().stderr
    (bundle / "card.md").write_text("altered")
    assert run().returncode != 0


def test_the_check_of_the_tables_can_fail(make_manifest: Callable) -> None:
    rows = schema_rows()
    assert rows["Label"] == {"code": ("integer 0 to 65535", "required"), "name": ("name", "required")}
    assert rows["Spacing"]["least_mm"] == ("list of 3 number above 0", "required")
    assert rows["Manifest"]["schema_version"] == ("4", "`4`")
