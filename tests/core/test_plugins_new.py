"""`segkit plugins new`: which names it takes, where it writes, and that nothing is half-written."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from segkit.cli import cli
from segkit.cli.plugins_new import HEAVY_MODULES, LICENCES, TEMPLATE
from segkit.errors import MissingExtra, OutputExists, UsageError
from segkit.installed import KINDS


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, and a git that knows who is writing."""
    (tmp_path / "gitconfig").write_text("[user]\nname = Ada Lovelace\nemail = ada@example.org\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def segkit(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["--no-plugins", "plugins", *arguments])


def refusal(*arguments: str) -> BaseException | None:
    result = segkit(*arguments)
    assert result.exit_code != 0
    return result.exception


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("my net", "model", r"expected letters, digits and hyphens in the name of a package, got 'my net'"),
        ("../net", "model", r"expected letters, digits and hyphens"),
        ("net-", "model", r"expected letters, digits and hyphens"),
        ("3d-net", "model", r"expected a name that Python can import, got '3d-net', which becomes '3d_net'"),
        ("class", "model", r"expected a name that Python can import, got 'class'"),
        ("segkit-vnet", "model", r"expected a new model, 'vnet' is in segkit3d .* already; choose another name"),
        ("Segkit_VNet", "model", r"expected a new model, 'vnet' is in segkit3d"),
        ("phantom", "dataset", r"expected a new dataset, 'phantom' is in segkit3d"),
        ("segkit-train", "command", r"expected a new command, 'train' is one of segkit's own"),
        ("segkit-export", "command", r"expected a new command, 'export' is in segkit3d"),
        ("segkit-export", "model", r"expected a new package, 'segkit_export' can be imported here already"),
        ("segkit3d", "model", r"expected a new package, 'segkit3d' can be imported here already"),
        ("json", "loss", r"expected a new package, 'json' can be imported here already"),
        ("torch", "loss", r"expected a new package, 'torch' can be imported here already"),
    ],
)
def test_name_that_cannot_be_used_or_is_taken_is_refused(name: str, kind: str, message: str, here: Path) -> None:
    error = refusal("new", name, "--kind", kind)
    assert isinstance(error, UsageError)
    with pytest.raises(UsageError, match=message):
        raise error
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("kind", KINDS)
def test_entry_point_module_and_class_follow_from_the_name(kind: str, here: Path) -> None:
    result = segkit("new", "Segkit_My.Net", "--kind", kind)
    assert result.exit_code == 0, result.output
    project = tomllib.loads((here / "segkit-my-net" / "pyproject.toml").read_text())["project"]
    assert project["name"] == "segkit-my-net"
    assert project["entry-points"] == {f"segkit.{KINDS[kind]}": {"my-net": "segkit_my_net"}}
    source = here / "segkit-my-net" / "src" / "segkit_my_net"
    assert {path.name for path in source.iterdir()} == {"__init__.py", "py.typed", f"{HEAVY_MODULES[kind]}.py"}
    assert 'name="my-net"' in (source / "__init__.py").read_text()
    assert (here / "segkit-my-net" / "tests" / "test_segkit_my_net.py").is_file()


def test_author_comes_from_git_and_the_year_from_the_calendar(here: Path) -> None:
    assert segkit("new", "segkit-mynet", "--license", "MIT").exit_code == 0
    project = tomllib.loads((here / "segkit-mynet" / "pyproject.toml").read_text())["project"]
    assert project["authors"] == [{"name": "Ada Lovelace", "email": "ada@example.org"}]
    assert "Copyright (c) 20" in (here / "segkit-mynet" / "LICENSE").read_text()


def test_author_can_be_given_and_an_address_left_out(here: Path) -> None:
    assert segkit("new", "segkit-mynet", "--author", 'Grace "G" Höpper', "--email", "").exit_code == 0
    project = tomllib.loads((here / "segkit-mynet" / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["authors"] == [{"name": 'Grace "G" Höpper'}]


@pytest.mark.parametrize("licence", LICENCES)
def test_licence_is_in_the_project_the_card_and_a_file(licence: str, here: Path) -> None:
    assert segkit("new", "segkit-mynet", "--license", licence).exit_code == 0
    folder = here / "segkit-mynet"
    assert tomllib.loads((folder / "pyproject.toml").read_text())["project"]["license"] == licence
    assert f'licence="{licence}"' in (folder / "src" / "segkit_mynet" / "__init__.py").read_text()
    first = {"Apache-2.0": "Apache License", "BSD-3-Clause": "BSD 3-Clause License", "MIT": "MIT License"}[licence]
    assert (folder / "LICENSE").read_text().lstrip().startswith(first)


def test_folder_that_holds_something_is_left_as_it_is(here: Path) -> None:
    (here / "mine").mkdir()
    (here / "mine" / "notes.txt").write_text("keep")
    error = refusal("new", "segkit-mynet", "--out", "mine")
    assert isinstance(error, OutputExists)
    assert str(error) == "expected a new or empty folder, mine is there; choose another with --out"
    assert [path.name for path in here.rglob("*")] == ["mine", "notes.txt"]


def test_empty_folder_and_one_whose_parents_are_missing_are_written(here: Path) -> None:
    (here / "empty").mkdir()
    for out in ("empty", "not/there/yet"):
        assert segkit("new", "segkit-mynet", "--out", out).exit_code == 0
        assert (here / out / "pyproject.toml").is_file()


def test_interrupted_writing_leaves_nothing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(folder: Path, answers: object) -> None:
        folder.mkdir()
        (folder / "half").write_text("")
        raise KeyboardInterrupt

    monkeypatch.setattr("segkit.cli.plugins_new._render", stop)
    assert segkit("new", "segkit-mynet").exit_code != 0
    assert list(here.iterdir()) == []


def test_without_copier_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segkit.extras.is_installed", lambda module: module != "copier")
    error = refusal("new", "segkit-mynet")
    assert isinstance(error, MissingExtra)
    assert str(error).endswith('run: pip install "segkit3d[plugins]"')


def test_questions_of_the_template_are_the_answers_of_a_package(here: Path) -> None:
    assert segkit("new", "segkit-mynet").exit_code == 0
    answers = yaml.safe_load((here / "segkit-mynet" / ".copier-answers.yml").read_text())
    questions = {key for key in yaml.safe_load((TEMPLATE / "copier.yml").read_text()) if not key.startswith("_")}
    assert set(answers) == questions
    assert str(TEMPLATE) not in (here / "segkit-mynet" / ".copier-answers.yml").read_text()


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", "-C", folder, *arguments], check=True, capture_output=True)


@pytest.fixture
def package(here: Path) -> Path:
    """A package in git, as an older template wrote it."""
    assert segkit("new", "segkit-mynet").exit_code == 0
    folder = here / "segkit-mynet"
    (folder / ".gitignore").write_text("of an older template\n")
    (folder / "src" / "segkit_mynet" / "network.py").write_text("# the author's own\n")
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "first")
    return folder


def test_update_writes_the_template_again_and_keeps_what_the_author_wrote(package: Path) -> None:
    result = segkit("update", str(package))
    assert result.exit_code == 0, result.output
    assert result.output == "see what changed with: git diff\nM .gitignore\n"
    assert (package / ".gitignore").read_text() == (TEMPLATE / "project" / ".gitignore").read_text()
    assert (package / "src" / "segkit_mynet" / "network.py").read_text() == "# the author's own\n"
    git(package, "commit", "--quiet", "--all", "--message", "second")
    assert segkit("update", str(package)).output == "the package is up to date\n"


def test_update_refuses_a_package_with_changes(package: Path) -> None:
    (package / "README.md").write_text("half a sentence")
    error = refusal("update", str(package))
    assert isinstance(error, UsageError)
    assert "to be committed to git, it is not or has changes; commit first" in str(error)
    assert (package / ".gitignore").read_text() == "of an older template\n"


def test_update_refuses_a_folder_that_it_did_not_write(here: Path) -> None:
    error = refusal("update", str(here))
    assert isinstance(error, UsageError)
    assert f"found no .copier-answers.yml in {here}; name its folder" in str(error)
