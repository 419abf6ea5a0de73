"""A second environment with real third-party wheels, most of them bad neighbours, and a way to run `segkit` in it."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from .workshop import Workshop, make_environment, make_workshop, write_heads

CANARY = "SEGKIT_TEST_CANARY"
"""Names the file in which every third-party module writes its name when it is imported."""

SING = f"""
import os
if {CANARY!r} in os.environ:
    with open(os.environ[{CANARY!r}], "a") as canary:
        canary.write(__name__ + "\\n")
"""

CARD = """
from segkit import ModelCard, hookimpl

def card(name, **more):
    return ModelCard(name=name, factory="acme_healthy.network:Tiny", summary="for tests", patch=(8, 8, 8), **more)
"""

NETWORK = """
from torch import nn

class Tiny(nn.Module):
    def __init__(self, in_channels, classes, width=2):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv3d(in_channels, width, 3, padding=1), nn.Conv3d(width, classes, 1))

    def forward(self, images):
        return self.layers(images)
"""


def hook_that_returns(cards: str) -> str:
    return CARD + f"\n@hookimpl\ndef segkit_models():\n    return {cards}\n"


@dataclass(frozen=True)
class Plugin:
    """A distribution to build: its modules and its entry points as {group: {name: value}}."""

    name: str
    version: str
    modules: Mapping[str, str]
    entry_points: Mapping[str, Mapping[str, str]]


def model(distribution: str, name: str, source: str, version: str = "0.1", **modules: str) -> Plugin:
    """A distribution of one module, named like the distribution, that brings one model."""
    module = distribution.replace("-", "_")
    return Plugin(distribution, version, {module: source, **modules}, {"segkit.models": {name: module}})


PLUGINS = [
    Plugin(
        "acme-healthy",
        "1.2.0",
        {
            "acme_healthy/__init__": hook_that_returns('[card("acme-tiny", options={"width": 2})]'),
            "acme_healthy/network": NETWORK,
        },
        {"segkit.models": {"acme-tiny": "acme_healthy"}},
    ),
    model("acme-needs", "needs-more", "import package_that_acme_forgot"),
    model("acme-import", "import-fails", 'raise RuntimeError("operator torchvision::nms does not exist")'),
    model("acme-exit", "import-exits", 'raise SystemExit("no licence found")'),
    model(
        "acme-argument",
        "hook-argument",
        CARD + '\n@hookimpl\ndef segkit_models(width):\n    return [card("hook-argument", licence=str(width))]\n',
    ),
    model("acme-typo", "hook-typo", CARD + '\n@hookimpl\ndef segkit_model():\n    return [card("hook-typo")]\n'),
    model("acme-unmarked", "hook-unmarked", CARD + '\ndef segkit_models():\n    return [card("hook-unmarked")]\n'),
    model(
        "acme-raises", "hook-raises", CARD + '\n@hookimpl\ndef segkit_models():\n    raise ValueError("two\\nlines")\n'
    ),
    model("acme-strange", "hook-strange", hook_that_returns('["a network"]')),
    model("acme-single", "hook-single", hook_that_returns('card("hook-single")')),
    model("acme-renamed", "old-name", hook_that_returns('[card("new-name")]')),
    model("acme-future", "from-the-future", hook_that_returns('[card("from-the-future", api=99)]')),
    model("acme-removed", "removed", hook_that_returns('[card("removed")]')),
    model("acme-gone", "factory-gone", hook_that_returns('[card("factory-gone")]').replace(":Tiny", ":Huge")),
    model(
        "acme-slow",
        "slow",
        'import time\nprint("loading, please wait")\ntime.sleep(3)\n' + hook_that_returns('[card("slow")]'),
    ),
    model("acme-loud", "loud", 'print("hello from a plugin")\n' + hook_that_returns('[card("loud")]')),
    model(
        "acme-abort",
        "aborts",
        "import os, resource\nresource.setrlimit(resource.RLIMIT_CORE, (0, 0))\nos.abort()\n",
    ),
    model("twin-one", "twin", hook_that_returns('[card("twin", licence="one")]')),
    model("twin-two", "twin", hook_that_returns('[card("twin", licence="two")]')),
    model("acme-vnet", "vnet", hook_that_returns('[card("vnet", licence="stolen")]')),
    Plugin(
        "acme-commands",
        "3.1",
        {
            "acme_commands": """
from segkit import CommandCard, hookimpl

def card(name, factory):
    return CommandCard(name=name, factory=factory, summary="for tests")

@hookimpl
def segkit_commands():
    replace = "acme_commands_cli:replace"
    return [
        card("hello", "acme_commands_cli:hello"),
        card("models", replace),
        card("export", replace),
        card("no-command", "acme_commands_cli:number"),
    ]
""",
            "acme_commands_cli": """
import click

number = 1

@click.command()
def hello():
    "Greet."
    click.echo("hello from acme")

@click.command()
def replace():
    "Steal."
    click.echo("stolen")
""",
        },
        {"segkit.commands": dict.fromkeys(("hello", "models", "export", "no-command"), "acme_commands")},
    ),
]


def write_wheel(folder: Path, plugin: Plugin) -> Path:
    """Write a wheel by hand, as a build back end would."""
    stem = f"{plugin.name.replace('-', '_')}-{plugin.version}"
    info = f"{stem}.dist-info"
    points = "\n".join(
        f"[{group}]\n" + "\n".join(f"{name} = {value}" for name, value in names.items())
        for group, names in plugin.entry_points.items()
    )
    files = {f"{path}.py": SING + source for path, source in plugin.modules.items()}
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {plugin.name}\nVersion: {plugin.version}\n"
    files[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{info}/entry_points.txt"] = points + "\n"
    record = f"{info}/RECORD"
    lines = [f"{path},sha256={_digest(text)},{len(text.encode())}" for path, text in files.items()]
    files[record] = "\n".join([*lines, f"{record},,"]) + "\n"
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
    return path


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


@dataclass(frozen=True)
class Answer:
    """What a call of `segkit` did: its exit code, its output, and the third-party modules it imported."""

    code: int
    out: str
    err: str
    imported: tuple[str, ...]

    def json(self) -> Any:
        return json.loads(self.out)


Segkit = Callable[..., Answer]


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that sees this one's packages and has all of PLUGINS installed by pip; its `segkit` script."""
    home = tmp_path_factory.mktemp("zoo")
    rooms = []
    for package in ("segkit", "segkit_vnet", "segkit_export", "segkit_benchmarks"):
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        rooms.append(str(Path(spec.origin).parents[1]))
    script = make_environment(home / "env", rooms) / "segkit"
    wheels = [write_wheel(home, plugin) for plugin in PLUGINS]
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        script.with_name("python"),
        "--disable-pip-version-check",
        "--quiet",
    ]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--no-compile", *wheels], check=True, timeout=120)
    (removed,) = home.glob("env/lib/python*/site-packages/acme_removed.py")
    removed.unlink()  # by hand: its metadata stays
    return script


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """An environment to write plugins in; a test that installs something there removes it."""
    return make_workshop(tmp_path_factory.mktemp("workshop"))


@pytest.fixture(scope="session")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two little heads, T1, T2 and a truth."""
    folder = tmp_path_factory.mktemp("heads")
    write_heads(folder)
    return folder


@pytest.fixture
def segkit(zoo: Path, tmp_path: Path) -> Segkit:
    """Run `segkit ARGUMENTS` in the zoo; keywords are environment variables. `script` runs another file instead."""

    def run(*arguments: str, script: Path = zoo, **variables: str) -> Answer:
        canary = tmp_path / "canary"
        canary.unlink(missing_ok=True)
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("SEGKIT_", "PYTHON"))}
        done = subprocess.run(
            [zoo.with_name("python"), script, *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            cwd=tmp_path,
            env={**inherited, CANARY: str(canary), **variables},
        )
        imported = tuple(canary.read_text().split()) if canary.exists() else ()
        return Answer(done.returncode, done.stdout, done.stderr, imported)

    return run
