"""The checks of cards and of light plugin modules, on cards of networks: each is wrong in one way."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.small_network import GOOD, failures

from segkit import Reference
from segkit.conformance import assert_model_conforms, checks_for
from segkit.errors import PluginError


@pytest.mark.parametrize(
    ("top", "message"),
    [
        (
            "import torch.nn",
            "expected the module TOP to import nothing heavy, got torch; name what is built as a string",
        ),
        ("import scipy.ndimage", "got scipy"),
        ("import time; time.sleep(1)", r"to import in 500 ms, it took \d+ ms; .*-X importtime"),
        ("import no_such_module", r"got ModuleNotFoundError: No module named 'no_such_module'; run: python -c"),
        ("raise SystemExit(3)", "expected the module TOP to import, got exit code 3"),
    ],
)
def test_a_plugin_module_that_is_not_light_is_named(top: str, message: str, write: Any) -> None:
    name = f"eager_{abs(hash(top))}"
    with pytest.raises(PluginError, match=message.replace("TOP", name)):
        assert_model_conforms(write(name, top=top), channels=[2], export=False)


def test_what_this_process_has_imported_hides_nothing(write: Any) -> None:
    importlib.import_module("torch")
    assert "light" in failures(write("hidden", top="import torch"), channels=[2], export=False)


def test_a_hook_that_imports_torch_is_not_light(write: Any) -> None:
    hook = "from segkit import hookimpl\n\n@hookimpl\ndef segkit_models():\n    import torch\n    return []\n"
    card = write("late", top=hook)
    assert failures(card, channels=[2], export=False) == {}
    assert "got torch" in failures(card, plugin="late", channels=[2], export=False)["light"]


def test_light_does_not_apply_where_python_itself_starts_with_torch(
    write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "sitecustomize.py").write_text("import sys\nsys.modules['torch'] = sys\n")
    monkeypatch.syspath_prepend(str(tmp_path / "start"))
    light = next(check for check in checks_for(write("plain")) if check.id == "light")
    assert light.run().status == "not applicable"
    assert light.run().found.startswith("this Python imports torch as it starts")


@pytest.mark.parametrize(
    ("changes", "check", "message"),
    [
        (
            {"patch": (8, 8, 9), "multiple": 2},
            "card",
            r"expected a patch of three multiples of 2 voxels, got \(8, 8, 9\)",
        ),
        ({"multiple": 0}, "card", "expected a multiple of 1 voxel or more, got 0"),
        ({"in_channels": 0}, "card", "expected in_channels to be None, or 1 or more, got 0; leave it out"),
        ({"name": "my net"}, "card", "expected a name of letters, digits, dots and dashes, got 'my net'"),
        ({"summary": "two\nlines"}, "card", "expected a summary of one line"),
        ({"api": 99}, "card", "expected the card contract api from 1 to 1, got 99"),
        ({"options": {"width": [1]}}, "card", r"as the default of option 'width', got \[1\]"),
        ({"factory": "no-such"}, "card", "expected factory to be 'package.module:attribute', got 'no-such'"),
        ({"factory": "no-such"}, "factory", "got 'no-such'; write the module, a colon, and the name in it"),
        (
            {"factory": "nowhere.net:Net"},
            "factory",
            "expected nowhere.net:Net to import, .*python -c 'import nowhere.net'; mend that, or the string",
        ),
        ({"factory": "conforming.network:Gone"}, "factory", "expected conforming.network:Gone to be there"),
        ({"factory": "conforming.network:torch"}, "factory", "to be callable, got module"),
        (
            {"options": {"width": 8}},
            "options",
            "expected .*:Net to take the option 'width', it takes in_channels, classes",
        ),
        ({"licence": "not stated"}, "licence", "the card states none; write its SPDX name"),
        ({"licence": "MIT License"}, "licence", "expected the SPDX name of a licence, got 'MIT License'"),
        ({"reference": None}, "reference", r"the card has no reference; write reference=Reference\("),
        (
            {"reference": Reference(title="On", year=2020, doi="https://doi.org/10.1/1")},
            "reference",
            "write the DOI without https",
        ),
    ],
)
def test_a_card_that_is_wrong_is_told_what_to_write(changes: Any, check: str, message: str, write: Any) -> None:
    card = replace(write("conforming"), **changes)
    one = next(c for c in checks_for(card, plugin="conforming") if c.id == check)
    with pytest.raises(PluginError, match=message):
        one()


def test_one_default_of_an_option_is_enough(write: Any) -> None:
    source = GOOD.replace("classes):", "classes, width=4):")
    card = replace(write("wide", source), options={"width": 8})
    assert "the card says 8 and the factory 4" in failures(card, channels=[2], export=False)["options"]
    assert failures(replace(card, options={"width": 4}), channels=[2], export=False) == {}


def test_a_patch_that_no_gpu_can_train_on_fails(write: Any) -> None:
    card = replace(write("huge"), patch=(2048, 2048, 2048))
    memory = next(check for check in checks_for(card) if check.id == "memory")
    with pytest.raises(PluginError, match=r"on one patch of 2048x2048x2048 to fit into 80 GiB, predicted are \d+"):
        memory()
