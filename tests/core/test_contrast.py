"""What `segkit data contrast` promises, with a data set of a handful of numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from segkit.cli import cli
from segkit.errors import PluginError, UsageError
from segkit.fakes import fake_registry
from segkit.installed import Entry
from segkit.registry import Registry

PLUGIN = """
from segkit import DatasetCard, Label, hookimpl

@hookimpl
def segkit_datasets():
    common = {"factory": "spins:find", "summary": "", "labels": (Label(code=0, name="air"),)}
    return [
        DatasetCard(name="spins", contrast="spins_physics:contrast", **common),
        DatasetCard(name="broken", contrast="spins_physics:nothing", **common),
    ]
"""

PHYSICS = """
from dataclasses import replace
import numpy as np
from segkit.contrast import ContrastCurve, ContrastSeries, ContrastSlice

def contrast(seed):
    image = np.full((8, 6), seed, np.float32)
    rows = [[ContrastSlice(title=f"TR {tr} ms", image=image * tr, signals={"water": 0.1 * tr}) for tr in (1, 2)]]
    values = np.linspace(0, 3, 7)
    curve = ContrastCurve(
        parameter="TR, ms", values=values, signals={"water": values - 1}, pictured=(1, 2), marks={"water null": 1.0}
    )
    grid = ContrastSeries(name="grid", title="Grid", rows=rows, spacing_mm=(1.0, 2.0))
    return [replace(grid, name="tr", curve=curve), grid]
"""


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules/spins.py").write_text(PLUGIN)
    (tmp_path / "modules/spins_physics.py").write_text(PHYSICS)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    spins = [Entry("dataset", name, "spins", "spins", "1.0") for name in ("spins", "broken")]
    return Registry([*spins, *fake_registry().entries])


def run(registry: Registry, *arguments: str | Path) -> str:
    words = ["data", "contrast", *(str(argument) for argument in arguments)]
    return CliRunner().invoke(cli, words, obj=registry, catch_exceptions=False, standalone_mode=False).stdout


def test_slices_and_curves_are_drawn_and_listed(registry: Registry, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = json.loads(run(registry, out, "--dataset", "spins", "--seed", "3", "--json"))
    assert [one["files"] for one in report["pictures"]] == [["tr.png", "tr-curves.png"], ["grid.png"]]
    assert {path.name for path in out.iterdir()} == {"tr.png", "tr-curves.png", "grid.png", "contrast.json"}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in out.glob("*.png"))
    assert json.loads((out / "contrast.json").read_text()) == report
    assert report["seed"] == 3
    assert report["pictures"][0]["slices"][1] == {"title": "TR 2 ms", "signals": {"water": 0.2}}
    assert report["pictures"][0]["marks"] == {"water null": 1.0}
    assert report["pictures"][1]["marks"] == {}


def test_a_data_set_of_recorded_images_is_refused(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"expected a data set that computes its images, 'fake' holds recorded ones"):
        run(registry, tmp_path / "out", "--dataset", "fake")
    assert not (tmp_path / "out").exists()


def test_a_function_that_does_not_import_is_the_plugins_fault(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=r"expected spins_physics:nothing of the data set 'broken' to import"):
        run(registry, tmp_path / "out", "--dataset", "broken")
