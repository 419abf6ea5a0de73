"""A hook that gains an argument breaks no plugin that was built before: the wheels of today on such a core."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from .conftest import Segkit
from .workshop import ROOT


@pytest.fixture
def grown(tmp_path: Path) -> dict[str, str]:
    """A copy of segkit whose hook of models has one argument more; the variables that put it in front."""
    core = tmp_path / "core"
    shutil.copytree(ROOT / "core" / "segkit", core / "segkit", ignore=shutil.ignore_patterns("__pycache__"))
    for file, old, new in (
        ("hookspecs.py", "def segkit_models() ->", "def segkit_models(width: int) ->"),
        ("loader.py", "getattr(manager.hook, hook)()", "getattr(manager.hook, hook)(width=7)"),
    ):
        source = (core / "segkit" / file).read_text()
        assert source.count(old) == 1
        (core / "segkit" / file).write_text(source.replace(old, new))
    return {"PYTHONPATH": str(core)}


def test_plugin_of_the_first_signature_works_on_a_hook_with_one_argument_more(
    segkit: Segkit, grown: dict[str, str]
) -> None:
    answer = segkit("models", "show", "acme-tiny", "--json", **grown)
    assert answer.code == 0, answer.err
    assert answer.json()["from"] == "acme-healthy 1.2.0"
    assert answer.err == ""


def test_plugin_that_asks_for_the_new_argument_gets_it_there_and_is_told_why_not_here(
    segkit: Segkit, grown: dict[str, str]
) -> None:
    (card,) = segkit("plugins", "show", "hook-argument", "--json", **grown).json()["plugins"]
    assert (card["status"], card["licence"]) == ("ok", "7")
    (card,) = segkit("plugins", "show", "hook-argument", "--json").json()["plugins"]
    assert (card["status"], card["stage"]) == ("broken", "register")


@pytest.mark.usefixtures("zoo")
def test_first_party_plugins_work_there_too(segkit: Segkit, grown: dict[str, str]) -> None:
    assert segkit("models", "show", "unet3d", "--json", **grown).json()["from"].startswith("segkit3d")
