"""An environment in which plugins are written, installed, used and removed: everything of segkit there is a wheel."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segkit import Volume, write_volume

ROOT = Path(__file__).parents[2]
ROOMS = ("core", "plugins", "export", "benchmarks")
TURNED_OUT = ("segkit_vnet", "segkit_samplers")
"""First-party plugins that are wheels of their own here: segkit3d is built without them."""


@dataclass(frozen=True)
class Done:
    """What a command ended with."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class Workshop:
    """The environment.

    Attributes:
        environment: its folder.
        home: where commands run.
    """

    environment: Path
    home: Path

    @property
    def variables(self) -> dict[str, str]:
        """A shell in which the environment is active; pip asks no index and builds with what is installed."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("SEGKIT_", "PYTHON", "GIT_"))}
        person = {f"GIT_{role}_{what}": "Ada" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        return (
            kept
            | person
            | {
                "PATH": f"{self.environment / 'bin'}{os.pathsep}{os.environ['PATH']}",
                "OMP_NUM_THREADS": "1",
                "PIP_DISABLE_PIP_VERSION_CHECK": "1",
                "PIP_NO_BUILD_ISOLATION": "0",  # pip reads this as: no isolation
                "PIP_NO_INDEX": "1",
                "PIP_QUIET": "1",
            }
        )

    def run(self, *command: str | Path, cwd: Path | None = None, **variables: str) -> Done:
        """Run a command as if the environment were active."""
        done = subprocess.run(
            ["/usr/bin/env", *command],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            cwd=cwd or self.home,
            env={**self.variables, **variables},
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def must(self, *command: str | Path, cwd: Path | None = None, **variables: str) -> Done:
        """Run a command that has to succeed."""
        done = self.run(*command, cwd=cwd, **variables)
        assert done.code == 0, f"{' '.join(map(str, command))}\n{done.out}\n{done.err}"
        return done

    def install(self, *what: str | Path) -> None:
        """Install with pip what needs nothing that is not there."""
        self.must("pip", "install", "--no-deps", "--no-compile", *what)

    def installed(self) -> dict[tuple[str, str, str], str]:
        """Status by (kind, distribution, name)."""
        rows = self.must("segkit", "plugins", "list", "--json").json()["plugins"]
        return {(row["kind"], row["from"], row["name"]): row["status"] for row in rows}


def make_environment(folder: Path, places: Iterable[str] = ()) -> Path:
    """Make an environment that sees this one's packages, and `places` before nothing else; return its `bin`."""
    venv.create(folder, with_pip=False)
    site = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    lines = dict.fromkeys([sysconfig.get_path("purelib"), *places])
    (site / "segkit_under_test.pth").write_text("\n".join(lines) + "\n")
    write_script(folder / "bin" / "segkit", "from segkit.cli import main\n\nmain()\n")
    return folder / "bin"


def write_script(path: Path, source: str) -> None:
    """Write a script that the interpreter beside it runs."""
    path.write_text(f"#!{path.with_name('python')}\n{source}")
    path.chmod(0o755)


def make_workshop(folder: Path) -> Workshop:
    """Make the environment and install segkit3d, without some of its plugins, and these as wheels of their own."""
    programs = make_environment(folder / "environment")
    write_script(programs / "pip", "import sys\nfrom pip._internal.cli.main import main\n\nsys.exit(main())\n")
    write_script(programs / "pytest", "import sys\n\nimport pytest\n\nsys.exit(pytest.main())\n")
    home = folder / "home"
    home.mkdir()
    workshop = Workshop(folder / "environment", home)
    sources = [copy_segkit(folder / "segkit3d"), *(copy_plugin(folder, module) for module in TURNED_OUT)]
    workshop.must("pip", "wheel", "--no-deps", "--wheel-dir", folder / "dist", *sources, cwd=folder)
    # Else pip sees the segkit3d of this environment, and leaves it at that.
    workshop.must("pip", "install", "--no-deps", "--no-compile", "--ignore-installed", *(folder / "dist").glob("*.whl"))
    return workshop


def copy_segkit(folder: Path) -> Path:
    """Copy the repository without the plugins that are turned out, and without their entry points."""
    folder.mkdir()
    drop = shutil.ignore_patterns("__pycache__", "*.egg-info", *TURNED_OUT)
    for room in ROOMS:
        shutil.copytree(ROOT / room, folder / room, ignore=drop)
    for file in ("LICENSE", "README.md"):
        shutil.copy(ROOT / file, folder)
    text = (ROOT / "pyproject.toml").read_text()
    lines = [line for line in text.splitlines() if not re.search(rf'= "({"|".join(TURNED_OUT)})"$', line)]
    (folder / "pyproject.toml").write_text("\n".join(lines) + "\n")
    return folder


def copy_plugin(folder: Path, module: str) -> Path:
    """Make a project of its own of one of segkit's plugins: its folder as it is, and its entry points."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    points = "\n".join(
        f'[project.entry-points."{group}"]\n' + "".join(f'{n} = "{v}"\n' for n, v in names.items() if v == module)
        for group, names in groups.items()
        if module in names.values()
    )
    project = folder / module.replace("_", "-")
    shutil.copytree(ROOT / "plugins" / module, project / module, ignore=shutil.ignore_patterns("__pycache__"))
    (project / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools>=77"]\nbuild-backend = "setuptools.build_meta"\n\n'
        f'[project]\nname = "{project.name}"\nversion = "7.0"\ndependencies = ["segkit3d"]\n\n{points}\n'
        f'[tool.setuptools]\npackages = ["{module}"]\n'
    )
    return project


def write_heads(folder: Path) -> None:
    """Write two little heads of three shells, in the layout of the phantom, which is also that of a new data set."""
    grid = np.stack(np.meshgrid(*[np.arange(24)] * 3, indexing="ij"))
    label = (((grid - 12) ** 2).sum(0) // 40).clip(max=3).astype(np.uint8)
    for number in (1, 2):
        rng = np.random.default_rng(number)
        for modality in ("T1", "T2"):
            image = (100 + 100 * label + rng.integers(0, 20, label.shape)).astype(np.int16)
            write_volume(folder / f"sub-0{number}" / f"{modality}.nii.gz", Volume(image, np.eye(4)))
        write_volume(folder / f"sub-0{number}" / "label.nii.gz", Volume(label, np.eye(4)))
    (folder / "dataset.json").write_text('{"channels": {"T1": {}, "T2": {}}}')
