"""`segkit plugins check`, and segkit's pytest plugin as the tests of an author use it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from segkit.cli import cli
from segkit.errors import UnknownName, UsageError
from segkit.fakes import fake_registry, make_subjects
from segkit.installed import Entry
from segkit.registry import Registry, Switches


def check(*arguments: str, registry: Registry | None = None) -> Result:
    return CliRunner().invoke(cli, ["plugins", "check", *arguments], obj=registry or fake_registry())


def entry(kind: Any, module: str) -> Entry:
    return Entry(kind, "mine", module, "acme", "1.0")


def test_the_table_has_a_row_for_each_check_and_the_sum():
    done = check("fake", "--kind", "sampler")
    assert done.exit_code == 0, done.output
    assert [line.split()[0] for line in done.stdout.splitlines()[1:-2]] == [
        "loads",
        "card",
        "light",
        "factory",
        "inside",
        "plain-ints",
        "replay",
        "global-state",
    ]
    assert done.stdout.endswith("8 passed, 0 failed, 0 not applicable\n")


def test_json_has_what_was_promised_found_and_spent():
    done = check("fake", "--kind", "sampler", "--json", "--only", "inside")
    answer = json.loads(done.stdout)
    (row,) = answer["checks"]
    assert (answer["schema"], answer["conforms"]) == (1, True)
    assert row["seconds"] > 0
    assert {key: row[key] for key in ("kind", "name", "check", "promise", "status", "fix")} == {
        "kind": "sampler",
        "name": "segkit-fakes:fake",
        "check": "inside",
        "promise": "corners of patches that lie in the volume",
        "status": "passed",
        "fix": "",
    }


def test_a_failure_is_told_with_what_to_do_and_ends_with_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "heavy_sampler.py").write_text(
        "import scipy.ndimage\nfrom segkit import SamplerCard, hookimpl\n\n@hookimpl\ndef segkit_samplers():\n"
        '    return [SamplerCard(name="mine", factory="segkit.fakes:build_sampler", summary="any corner")]\n'
    )
    done = check("mine", registry=Registry([entry("sampler", "heavy_sampler")], Switches()))
    assert done.exit_code == 1
    assert "expects a plugin module that imports nothing heavy" in done.stdout
    assert (
        "\nsampler acme:mine, light:\n  expected the module heavy_sampler to import nothing heavy, got scipy\n"
        "  to do: name what is built as a string on the card" in done.stdout
    )
    assert done.stdout.endswith("7 passed, 1 failed, 0 not applicable\n")


def test_a_check_that_cannot_be_run_for_a_failure_tells_that_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "lost_sampler.py").write_text(
        "from segkit import SamplerCard, hookimpl\n\n@hookimpl\ndef segkit_samplers():\n"
        '    return [SamplerCard(name="mine", factory="lost_sampler:Gone", summary="no corner")]\n'
    )
    registry = Registry([entry("sampler", "lost_sampler")], Switches())
    done = check("mine", "--only", "replay", "--only", "inside", "--json", registry=registry)
    assert done.exit_code == 1
    assert [(row["check"], row["status"]) for row in json.loads(done.stdout)["checks"]] == [
        ("factory", "failed"),
        ("inside", "not applicable"),
        ("replay", "not applicable"),
    ]


def test_a_plugin_that_does_not_load_fails_and_the_others_of_its_distribution_are_checked():
    entries = [entry("sampler", "no_such_module"), Entry("loss", "fake", "segkit.fakes", "acme", "1.0")]
    done = check("acme", "--json", registry=Registry(entries, Switches()))
    assert done.exit_code == 1
    rows = {(row["kind"], row["check"]): row for row in json.loads(done.stdout)["checks"]}
    assert "it is broken at stage 'import': ModuleNotFoundError" in rows["sampler", "loads"]["found"]
    assert rows["sampler", "loads"]["fix"] == "run: segkit plugins doctor acme"
    assert rows["loss", "ignored"]["status"] == "passed"


def test_data_is_read_from_the_folder_that_is_given(tmp_path: Path):
    make_subjects(tmp_path, "ball", 3, 7, lambda _: None)
    done = check("fake", "--kind", "dataset", "--data", str(tmp_path), "--only", "subjects")
    assert "3 subjects, 3 with labels, T1" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("fakr",), UnknownName, "no plugin 'fakr'; did you mean 'fake'"),
        (("fake", "--only", "inzide"), UnknownName, "no check 'inzide'; did you mean 'inside'"),
        (("vnet", "--kind", "loss"), UsageError, "expected a loss of the name 'vnet', there is none; leave --kind out"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused(arguments: Any, error: Any, message: str, registry: Registry):
    done = check(*arguments, registry=registry if "vnet" in arguments else None)
    assert isinstance(done.exception, error)
    assert message in str(done.exception)


def test_what_is_known_is_told_when_the_user_stops_it(monkeypatch: pytest.MonkeyPatch):
    def stop(*given: object, **named: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("segkit.conformance.samplers._draw", stop)
    done = check("fake", "--kind", "sampler")
    assert "factory" in done.stdout
    assert "inside" not in done.stdout
    assert done.exit_code == 1  # click's own: `segkit` makes it 130


AUTHORS_TESTS = """
import pytest

from segkit.conformance import checks_for
from segkit.fakes import segkit_samplers

def test_registered(segkit_registry):
    assert segkit_registry.card("model", "vnet").multiple == 16
    assert {entry.distribution for entry in segkit_registry.entries} == {"segkit3d"}

@pytest.mark.parametrize("check", checks_for(segkit_samplers()[0], plugin="segkit.fakes"), ids=str)
def test_conforms(check):
    check()
"""


def author(folder: Path, name: str, *arguments: str) -> str:
    """Run the tests of an author of the distribution `name` and return what pytest printed."""
    (folder / "pyproject.toml").write_text(f'[project]\nname = "{name}"\n' if name else "")
    (folder / "test_plugin.py").write_text(AUTHORS_TESTS)
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", "--rootdir", folder, *arguments]
    return subprocess.run([*command, folder], capture_output=True, text=True, check=False, cwd=folder).stdout


def test_the_tests_of_an_author_find_the_fixture_and_have_one_id_for_each_check(tmp_path: Path):
    said = author(tmp_path, "SegKit3D")
    assert "PASSED test_plugin.py::test_registered" in said, said
    assert "PASSED test_plugin.py::test_conforms[fake-inside]" in said
    assert "PASSED test_plugin.py::test_conforms[fake-global-state]" in said
    assert "8 passed" in said


def test_pytest_starts_with_the_plugin_and_nothing_heavy(tmp_path: Path):
    code = (
        "import pytest, sys\n"
        "class Look:\n"
        "    def pytest_configure(self, config):\n"
        "        print(config.pluginmanager.has_plugin('segkit.pytest_plugin'))\n"
        "        print({'torch', 'numpy', 'scipy', 'nibabel', 'onnx'} & sys.modules.keys())\n"
        "pytest.main(['--collect-only', '-p', 'segkit.pytest_plugin', sys.argv[1]], plugins=[Look()])"
    )
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # what others bring is no fault of segkit
    command = [sys.executable, "-c", code, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=tmp_path)
    assert done.stdout.splitlines()[:2] == ["True", "set()"], done.stdout


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("acme-nothing", (), "expected segkit plugins of the distribution 'acme-nothing', none is installed; run: pip"),
        ("", (), "has no pyproject.toml with one; set segkit_distribution = NAME"),
        ("", ("-o", "segkit_distribution=acme-other"), "of the distribution 'acme-other', none is installed"),
    ],
)
def test_the_fixture_says_what_is_missing(name: str, arguments: Any, message: str, tmp_path: Path):
    assert message in author(tmp_path, name, "-k", "registered", *arguments)
