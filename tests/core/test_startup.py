"""Start-up imports nothing heavy: nobody waits for torch to read a help page."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

HEAVY = {
    "torch",
    "onnx",
    "onnxruntime",
    "openvino",
    "tensorrt",
    "tensorrt_rtx",
    "SimpleITK",
    "monai",
    "matplotlib",
}

RUN = """
import contextlib, io, json, sys
from segkit.cli import main
out = io.StringIO()
with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
    main(sys.argv[1:])
print(json.dumps({"out": out.getvalue(), "modules": sorted({name.partition(".")[0] for name in sys.modules})}))
"""

WALK = """
import io, contextlib, json, sys
import click
from segkit.cli import cli

def pages(command, names):
    page = io.StringIO()
    with contextlib.redirect_stdout(page):
        cli.main([*names, "--help"], prog_name="segkit", standalone_mode=False)
    yield " ".join(names), page.getvalue(), sorted({name.partition(".")[0] for name in sys.modules})
    if isinstance(command, click.Group):
        context = click.Context(command, obj=registry)
        for name in command.list_commands(context):
            yield from pages(command.get_command(context, name), [*names, name])

from segkit.registry import Registry
registry = Registry.from_environment()
print(json.dumps(list(pages(cli, []))))
"""


def python(source: str, *arguments: str) -> object:
    done = subprocess.run(
        [sys.executable, "-P", "-c", source, *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (("--help",), "Commands:"),
        (("--version",), "segkit 0."),
        (("models",), "unet3d"),
        (("models", "--json"), '"schema": 1'),
        (("plugins", "list"), "phantom"),
        (("plugins", "list", "--json"), '"schema": 1'),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_command_that_only_lists_imports_nothing_heavy(arguments, shown):
    answer = python(RUN, *arguments)
    assert shown in answer["out"]
    assert (HEAVY | {"numpy", "scipy", "nibabel", "pydantic"}) & set(answer["modules"]) == set()


def test_help_of_every_command_says_what_it_does_and_imports_nothing_heavy():
    pages = python(WALK)
    assert {"", "models show", "plugins doctor", "data make", "train", "evaluate", "export", "segment"} <= {
        names for names, _, _ in pages
    }
    for names, page, modules in pages:
        assert page.startswith(f"Usage: segkit {names}".rstrip()), names
        assert re.search(r"Examples?:\s+segkit", page) or names in ("plugins", "data"), (
            f"segkit {names} --help has no example"
        )
        assert HEAVY & set(modules) == set(), f"segkit {names} --help"


def test_import_of_segkit_imports_no_numpy_and_no_pluggy():
    modules = python("import segkit, json, sys; print(json.dumps(sorted(sys.modules)))")
    assert {name.partition(".")[0] for name in modules} & (HEAVY | {"numpy", "nibabel", "pluggy", "click"}) == set()


def test_reading_a_volume_imports_no_pluggy_and_nothing_heavy():
    modules = python("from segkit import read_volume; import json, sys; print(json.dumps(sorted(sys.modules)))")
    assert {name.partition(".")[0] for name in modules} & (HEAVY | {"pluggy", "click"}) == set()
