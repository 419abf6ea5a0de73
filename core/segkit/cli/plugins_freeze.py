"""`segkit plugins freeze`: the pip requirements that bring back the plugins of this environment."""

from __future__ import annotations

import importlib.metadata
import json
from dataclasses import asdict, dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

import click

from segkit.cli.options import json_option
from segkit.cli.output import print_json
from segkit.registry import Registry

Source = Literal["index", "vcs", "url", "file", "folder", "editable"]


@dataclass(frozen=True)
class Requirement:
    """One distribution with plugins, as pip would install it again.

    Attributes:
        distribution: its normalised name.
        version: its version.
        source: where it was installed from; `index` where it does not say.
        requirement: a line of a requirements file.
        portable: whether that line works on another machine: no file or folder of this one is named.
    """

    distribution: str
    version: str
    source: Source
    requirement: str
    portable: bool


@click.command(epilog="Example: segkit plugins freeze > plugins.txt && pip install -r plugins.txt")
@json_option
@click.pass_obj
def freeze(registry: Registry, as_json: bool) -> None:
    """Print the exact pip requirements of all distributions with plugins, segkit3d first. Runs no plugin code.

    What pip installed from a file or a folder of this machine is named so, with a comment: it must be there again.
    """
    own = {entry.distribution: not entry.builtin for entry in registry.entries}
    requirements = [requirement_of(name) for name in sorted(own, key=lambda name: (own[name], name))]
    if as_json:
        print_json({"schema": 1, "requirements": [asdict(requirement) for requirement in requirements]})
        return
    for requirement in requirements:
        if not requirement.portable:
            click.echo(
                f"# {requirement.distribution} {requirement.version} came from a {_PLACES[requirement.source]} of this "
                "machine"
            )
        click.echo(requirement.requirement)


_PLACES = {"file": "file", "folder": "folder", "editable": "folder", "vcs": "repository"}
"""What a source is called that lies on this machine."""


def requirement_of(name: str) -> Requirement:
    """Return the requirement of an installed distribution, from its metadata and what pip wrote of its origin.

    The file `direct_url.json` is that of PEP 610.
    """
    distribution = importlib.metadata.distribution(name)
    version = distribution.version
    origin: dict[str, Any] = json.loads(distribution.read_text("direct_url.json") or "{}")
    url = origin.get("url", "")
    if not url:
        return Requirement(name, version, "index", f"{name}=={version}", portable=True)
    inside = f"subdirectory={origin['subdirectory']}" if "subdirectory" in origin else ""
    local = urlsplit(url).scheme == "file"
    if "vcs_info" in origin:
        link = f"{origin['vcs_info']['vcs']}+{url}@{origin['vcs_info']['commit_id']}"
        # pip takes `name @ URL` only where the URL has a host.
        line = _with_fragment(link, f"egg={name}", inside) if local else _with_fragment(f"{name} @ {link}", inside)
        return Requirement(name, version, "vcs", line, portable=not local)
    if "dir_info" in origin:
        if origin["dir_info"].get("editable"):
            return Requirement(name, version, "editable", f"-e {url}", portable=False)
        return Requirement(name, version, "folder", f"{name} @ {url}", portable=False)
    hashes = origin.get("archive_info", {}).get("hashes", {})
    digest = f"sha256={hashes['sha256']}" if "sha256" in hashes else ""
    line = _with_fragment(f"{name} @ {url}", digest, inside)
    return Requirement(name, version, "file" if local else "url", line, portable=not local)


def _with_fragment(line: str, *parts: str) -> str:
    fragment = "&".join(filter(None, parts))
    return f"{line}#{fragment}" if fragment else line
