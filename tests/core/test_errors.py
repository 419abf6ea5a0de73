"""One tree of errors, drawn where they are defined; the command line maps each to an exit code and one line."""

from __future__ import annotations

import inspect
import re

import pytest

from segkit import cli, errors
from segkit.errors import MissingExtra, SegkitError, UnknownName

TREE = {name: value for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, Exception)}
EXIT_CODES = {
    "SegkitError": 1,
    "UsageError": 2,
    "UnknownName": 2,
    "AmbiguousName": 2,
    "OutputExists": 2,
    "MissingExtra": 2,
    "DataError": 2,
    "VolumeError": 2,
    "BundleError": 2,
    "PluginError": 1,
    "VerificationFailed": 3,
}


def example_of(error: type[SegkitError]) -> SegkitError:
    if error is UnknownName:
        return UnknownName("model", "unett", ["unet", "vnet"])
    if error is MissingExtra:
        return MissingExtra("torch", "train", "training")
    return error("expected one thing,\nfound another", hint="do this")


def test_exit_codes_are_these():
    assert {name: error.exit_code for name, error in TREE.items()} == EXIT_CODES


@pytest.mark.parametrize("name", EXIT_CODES)
def test_error_is_drawn_in_the_tree_at_its_place_and_has_a_docstring(name):
    drawn = re.findall(r"^ {4}([│├└─ ]*)(\w+)", errors.__doc__, re.MULTILINE)
    path: list[str] = []
    places = {}
    for indent, drawn_name in drawn:
        depth = (len(indent.rstrip()) + 1) // 4 if "─" in indent else 0
        path[depth:] = [drawn_name]
        places[drawn_name] = path[-2] if len(path) > 1 else None
    parent = TREE[name].__mro__[1].__name__
    assert name in places
    assert places[name] == (None if name == "SegkitError" else parent)
    assert TREE[name].__doc__.strip()


@pytest.mark.parametrize("name", EXIT_CODES)
def test_command_line_ends_with_the_code_of_the_error_and_one_line(name, monkeypatch, capsys):
    error = example_of(TREE[name])

    def fail(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(cli.cli, "main", fail)
    with pytest.raises(SystemExit, match=rf"^{EXIT_CODES[name]}$"):
        cli.main(["models"])
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"error: {' '.join(str(error).split())}\n"


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
        (ZeroDivisionError("a\nb"), 1, "error: ZeroDivisionError: a b; a defect of segkit or of a plugin, see it with"),
    ],
    ids=["Ctrl-C", "a defect"],
)
def test_other_ends_are_one_line_too(error, code, line, monkeypatch, capsys):
    def fail(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(cli.cli, "main", fail)
    with pytest.raises(SystemExit, match=rf"^{code}$"):
        cli.main(["models"])
    assert capsys.readouterr().err.startswith(line)


def test_debug_lets_the_traceback_through(monkeypatch):
    def fail(*arguments: object, **options: object) -> None:
        raise errors.VolumeError("expected x, found y")

    monkeypatch.setattr(cli.cli, "main", fail)
    with pytest.raises(errors.VolumeError, match="expected x, found y"):
        cli.main(["--debug", "models"])


def test_hint_follows_the_message():
    assert str(SegkitError("expected x, found y", hint="do z")) == "expected x, found y; do z"
    assert str(SegkitError("expected x, found y")) == "expected x, found y"


@pytest.mark.parametrize(
    ("name", "known", "text"),
    [
        ("unett", ["vnet", "unet"], "no model 'unett'; did you mean 'unet'?"),
        ("zzz", ["vnet", "unet"], "no model 'zzz'; known: unet, vnet"),
        ("zzz", [], "no model 'zzz'; known: none"),
    ],
    ids=["near", "far", "nothing there"],
)
def test_unknown_name_is_told_what_there_is(name, known, text):
    assert str(UnknownName("model", name, known)) == text


def test_missing_extra_says_what_to_install():
    text = str(MissingExtra("openvino", "openvino", "the OpenVINO engine"))
    assert text == (
        "the OpenVINO engine needs the module 'openvino', which is not installed; "
        'run: pip install "segkit3d[openvino]"'
    )
