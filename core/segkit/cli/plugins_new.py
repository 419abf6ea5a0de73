"""`segkit plugins new` and `update`: the package of a plugin, written from a copier template, `templates/plugin`."""

from __future__ import annotations

import datetime
import importlib.util
import keyword
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import click

from segkit import __version__
from segkit.errors import OutputExists, UsageError
from segkit.extras import require
from segkit.files import cannot_write
from segkit.installed import KINDS, OWN_DISTRIBUTION, Kind, normalise
from segkit.registry import CORE_COMMANDS, Registry

TEMPLATE = Path(__file__).parents[1] / "templates" / "plugin"

LICENCES = ("Apache-2.0", "BSD-3-Clause", "MIT")

HEAVY_MODULES = {
    "model": "network",
    "dataset": "layout",
    "loss": "loss",
    "sampler": "sampler",
    "runtime": "engine",
    "command": "command",
}
"""Of each kind, the module that does the work."""

_ANSWERS = ".copier-answers.yml"


@click.command(epilog="Example: segkit plugins new segkit-mynet --kind model && pip install -e segkit-mynet")
@click.argument("name")
@click.option("--kind", type=click.Choice(get_args(Kind)), default="model", show_default=True, help="What it brings.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder to write.  [default: NAME]")
@click.option("--author", help="Name of the author.  [default: git's user.name]")
@click.option("--email", help="Address of the author.  [default: git's user.email]")
@click.option(
    "--license", "licence", type=click.Choice(LICENCES), default="Apache-2.0", show_default=True, help="Of it."
)
@click.pass_obj
def new(
    registry: Registry, name: str, kind: Kind, out: Path | None, author: str | None, email: str | None, licence: str
) -> None:
    """Write a complete small plugin package that people install as NAME. Runs no plugin code.

    What it brings is NAME without `segkit-`. Its tests pass as they are: change the network, and they say what breaks.
    """
    require("copier", "plugins", "writing a plugin package")
    answers = _answers(registry, name, kind)
    answers |= {
        "author": author or _git_config("user.name") or f"the authors of {answers['distribution']}",
        "email": _git_config("user.email") if email is None else email,
        "licence": licence,
        "year": datetime.datetime.now(tz=datetime.UTC).year,
    }
    target = out or Path(answers["distribution"])
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise OutputExists(f"expected a new or empty folder, {target} is there", hint="choose another with --out")
    # Beside its place first: whoever interrupts finds nothing half-written.
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _render(draft, answers)
        draft.replace(target)
    except OSError as error:
        raise cannot_write(target, error) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    click.echo(f"wrote the {kind} {answers['name']!r} as {answers['distribution']} in {target}")
    click.echo(f"next: cd {shlex.quote(str(target))} && pip install -e '.[test]' && pytest")
    click.echo(f"yours to change: src/{answers['module']}/{answers['heavy']}.py, and its card in __init__.py beside it")


@click.command(epilog="Example: segkit plugins update segkit-mynet && git -C segkit-mynet diff")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path), default=Path())
def update(folder: Path) -> None:
    """Write the template of this segkit over the plugin package in FOLDER, here by default. Runs no plugin code.

    Source, tests, README and licence stay as they are; the rest is written again, for `git diff` to compare.
    """
    require("copier", "plugins", "updating a plugin package")
    import yaml

    if not (folder / _ANSWERS).is_file():
        raise UsageError(
            f"expected a package that `segkit plugins new` wrote, found no {_ANSWERS} in {folder.resolve()}",
            hint="name its folder",
        )
    answers = yaml.safe_load((folder / _ANSWERS).read_text(encoding="utf-8"))
    if _git(folder, "status", "--porcelain", "--", ".") != "":
        raise UsageError(
            f"expected {folder.resolve()} to be committed to git, it is not or has changes",
            hint="commit first, so that nothing of yours is lost",
        )
    _render(folder, {**answers, "segkit": __version__})
    changed = _git(folder, "status", "--short", "--", ".")
    click.echo(f"see what changed with: git diff\n{changed}" if changed else "the package is up to date")


def _answers(registry: Registry, typed: str, kind: Kind) -> dict[str, Any]:
    """What follows from the name and the kind.

    Raises:
        UsageError: the name is none, or is taken.
    """
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", typed):
        raise UsageError(
            f"expected letters, digits and hyphens in the name of a package, got {typed!r}", hint="try segkit-mynet"
        )
    distribution = normalise(typed)
    name = distribution.removeprefix("segkit-")
    module = distribution.replace("-", "_")
    if not module.isidentifier() or keyword.iskeyword(module):
        raise UsageError(
            f"expected a name that Python can import, got {typed!r}, which becomes {module!r}",
            hint="let it begin with a letter: segkit-mynet",
        )
    taken = [entry for entry in registry.entries if (entry.kind, entry.name) == (kind, name)]
    if kind == "command" and name in CORE_COMMANDS:
        raise UsageError(f"expected a new {kind}, {name!r} is one of segkit's own", hint="choose another name")
    if taken:
        holder = next((entry for entry in taken if entry.builtin), taken[0])
        raise UsageError(
            f"expected a new {kind}, {name!r} is in {holder.distribution} {holder.version} already",
            hint="choose another name"
            if holder.builtin
            else f"choose another, or: pip uninstall {holder.distribution}",
        )
    if distribution == OWN_DISTRIBUTION or _is_importable(module):
        raise UsageError(f"expected a new package, {module!r} can be imported here already", hint="choose another name")
    return {
        "distribution": distribution,
        "kind": kind,
        "plural": KINDS[kind],
        "module": module,
        "name": name,
        "heavy": HEAVY_MODULES[kind],
        "class_name": "".join(word.capitalize() for word in name.split("-")),
        "segkit": __version__,
    }


def _is_importable(module: str) -> bool:
    return module in sys.stdlib_module_names or importlib.util.find_spec(module) is not None


def _render(folder: Path, answers: dict[str, Any]) -> None:
    """Write the template, or write it again where it is already."""
    import copier

    copier.run_copy(str(TEMPLATE), folder, data=answers, defaults=True, overwrite=True, quiet=True)


def _git_config(key: str) -> str:
    return _git(Path(), "config", key) or ""


def _git(folder: Path, *arguments: str) -> str | None:
    """What git answers, or None where it is missing or refuses."""
    git = shutil.which("git")
    if git is None:
        return None
    done = subprocess.run([git, "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None
