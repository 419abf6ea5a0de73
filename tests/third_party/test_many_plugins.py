"""Fifty installed plugins, one of which imports torch and one of which sleeps, cost a listing next to nothing."""

from __future__ import annotations

import importlib.util
import os
import re
import resource
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import CANARY, hook_that_returns, model, write_wheel
from .workshop import make_environment

BAR_SECONDS = 0.3
"""What `segkit plugins list` may take on a machine that does nothing else."""
SLACK = 3
"""Tests run beside other work."""


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with fifty plugins, installed by pip from wheels of their own; its `segkit` script."""
    home = tmp_path_factory.mktemp("crowded")
    first_lines = {7: "import torch\n", 23: "import time\ntime.sleep(3)\n"}
    plugins = [
        model(
            f"many-{number}",
            f"net-{number}",
            first_lines.get(number, "") + hook_that_returns(f'[card("net-{number}")]'),
        )
        for number in range(50)
    ]
    specs = map(importlib.util.find_spec, ("segkit", "segkit_vnet", "segkit_export", "segkit_benchmarks"))
    rooms = [str(Path(spec.origin).parents[1]) for spec in specs if spec is not None and spec.origin is not None]
    script = make_environment(home / "env", rooms) / "segkit"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        script.with_name("python"),
        "--disable-pip-version-check",
        "--quiet",
    ]
    wheels = [write_wheel(home, plugin) for plugin in plugins]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--no-compile", *wheels], check=True, timeout=120)
    return script


def test_fifty_plugins_are_listed_in_a_third_of_a_second_and_none_is_imported(crowded: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SEGKIT_", "PYTHON"))}
    cpu_seconds = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [crowded.with_name("python"), crowded, "plugins", "list"],
            capture_output=True,
            text=True,
            check=True,
            env={**kept, CANARY: str(canary)},
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu_seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert len(re.findall(r"^model +net-\d+ ", done.stdout, re.MULTILINE)) == 50
    assert not canary.exists()
    # The processor's time: another test may have the processor meanwhile. No plugin slept, since none was imported.
    assert statistics.median(cpu_seconds) < SLACK * BAR_SECONDS
