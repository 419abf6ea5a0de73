"""What is installed: the entry points of segkit's groups, told from metadata alone. Nothing is imported."""

from __future__ import annotations

import contextlib
import importlib.metadata
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["model", "dataset", "loss", "sampler", "runtime", "command"]

KINDS: Mapping[Kind, str] = {
    "model": "models",
    "dataset": "datasets",
    "loss": "losses",
    "sampler": "samplers",
    "runtime": "runtimes",
    "command": "commands",
}
"""The kinds and their plurals: `segkit.<plural>` is the entry-point group, `segkit_<plural>` the hook."""

OWN_DISTRIBUTION = "segkit3d"
"""The distribution whose entry points are the built-ins."""


@dataclass(frozen=True)
class Entry:
    """One entry point, known from metadata alone.

    Attributes:
        kind: what it gives.
        name: its public name.
        value: the plugin module.
        distribution: normalised name of the distribution that brings it.
        version: version of that distribution.
    """

    kind: Kind
    name: str
    value: str
    distribution: str
    version: str

    @property
    def qualified(self) -> str:
        """The name that always works: `distribution:name`."""
        return f"{self.distribution}:{self.name}"

    @property
    def builtin(self) -> bool:
        """Whether segkit itself brings it."""
        return self.distribution == OWN_DISTRIBUTION

    def is_called(self, name: str) -> bool:
        """Whether a bare or a qualified name means this entry."""
        distribution, colon, bare = name.rpartition(":")
        return bare == self.name and (not colon or normalise(distribution) == self.distribution)


def installed_entries() -> Iterable[Entry]:
    """The entry points of segkit's groups, each distribution once: the first on the path is the one imported."""
    groups = {f"segkit.{plural}": kind for kind, plural in KINDS.items()}
    seen = set()
    for distribution in importlib.metadata.distributions():
        try:
            points = [point for point in distribution.entry_points if point.group in groups]
            if not points:
                continue
            name, version = _name_and_version(distribution)
        except Exception:  # noqa: S112 -- what an interrupted uninstall leaves; `unreadable_distributions` tells
            continue
        if name in seen:
            continue
        seen.add(name)
        for point in points:
            yield Entry(groups[point.group], point.name, point.value, name, version)


def shadowed_distributions() -> dict[str, list[str]]:
    """Distributions with segkit plugins that are on the path more than once, and where; the first is the one in use."""
    places: dict[str, list[str]] = {}
    for distribution in importlib.metadata.distributions():
        with contextlib.suppress(Exception):  # see `unreadable_distributions`
            if any(point.group.startswith("segkit.") for point in distribution.entry_points):
                name, number = _name_and_version(distribution)
                version = f"({number})"
                place = f"{distribution.locate_file('')} {version}"
                found = places.setdefault(name, [])
                # A build leaves an .egg-info beside the source, which an editable install puts on the path.
                left_by_a_build = str(getattr(distribution, "_path", "")).endswith(".egg-info") and any(
                    other.endswith(version) for other in found
                )
                if place not in found and not left_by_a_build:
                    found.append(place)
    return {name: found for name, found in places.items() if len(found) > 1}


def unreadable_distributions() -> dict[str, str]:
    """Folders of metadata that cannot be read, and why; their plugins, if any, are left out."""
    unreadable = {}
    for distribution in importlib.metadata.distributions():
        try:
            if distribution.entry_points:
                _name_and_version(distribution)
        except Exception as error:
            unreadable[str(getattr(distribution, "_path", distribution))] = describe(error)
    return unreadable


def _name_and_version(distribution: importlib.metadata.Distribution) -> tuple[str, str]:
    """Normalised name and version from the head of the metadata: `distribution.metadata` would parse the README too.

    Raises:
        ValueError: the metadata does not tell them.
    """
    files = ("METADATA", "PKG-INFO", "")  # of a wheel, of an .egg-info folder, an .egg-info file itself
    head = next(filter(None, map(distribution.read_text, files)), "").partition("\n\n")[0]
    found = dict(re.findall(r"^(Name|Version):[ \t]*(\S+)", head, re.MULTILINE))
    if len(found) < 2:
        raise ValueError("expected Name and Version in its metadata")
    return normalise(found["Name"]), found["Version"]


def normalise(name: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def describe(error: BaseException) -> str:
    """An error in one line, with its class."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
