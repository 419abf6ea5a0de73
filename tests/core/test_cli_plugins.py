"""`segkit models` and `segkit plugins` on what segkit itself brings."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner, Result

from segkit.cli import cli
from segkit.errors import UnknownName, UsageError
from segkit.installed import KINDS, Entry
from segkit.registry import Registry, Switches


def segkit(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["--no-plugins", *arguments], catch_exceptions=True)


def answer(*arguments: str) -> dict:
    result = segkit(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_models_are_listed_for_people_and_for_scripts():
    names = [model["name"] for model in answer("models")["models"]]
    assert names == sorted(names)
    assert {"vnet", "vnet-light", "unet3d"} <= set(names)
    table = segkit("models").stdout
    assert all(name in table for name in names)
    assert "more on one: segkit models show NAME" in table


@pytest.mark.parametrize("kind", KINDS)
def test_every_built_in_card_of_a_kind_is_healthy_and_its_heavy_part_is_there(kind, registry: Registry):
    built_in = [entry for entry, _ in registry.list(kind) if entry.builtin]
    assert built_in
    for entry in built_in:
        card = registry.card_of(entry)
        assert card.name == entry.name
        assert card.summary
        assert registry.build(kind, entry.qualified) is not None


def test_show_prints_the_cards_of_a_distribution_with_name_and_status():
    shown = answer("plugins", "show", "segkit3d")
    assert shown["schema"] == 1
    assert {(card["kind"], card["name"]) for card in shown["plugins"]} >= {("model", "vnet"), ("dataset", "phantom")}
    assert {card["status"] for card in shown["plugins"]} == {"ok"}
    text = segkit("plugins", "show", "vnet").stdout
    assert "segkit_vnet" in text
    assert "10.1109/3DV.2016.79" in text


@pytest.mark.parametrize(
    ("source", "module", "code", "said"),
    [
        (
            "import scipy",
            "mine",
            0,
            "acme:net imports scipy with its card, so whoever shows it waits\nnext: name what is",
        ),
        ("", "mine.gone", 1, "next: if it is yours, name a module of mine in the entry point in pyproject.toml"),
        ("", "mine:segkit_models", 1, "next: if it is yours, mend the entry point in pyproject.toml, and install"),
        ("1 / 0", "mine", 1, "next: python -c 'import mine'; install what is missing, or upgrade acme"),
    ],
)
def test_doctor_says_to_the_author_what_to_mend(source, module, code, said, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").write_text(
        f"from segkit import ModelCard, hookimpl\n{source}\n\n@hookimpl\ndef segkit_models():\n"
        '    return [ModelCard(name="net", factory="mine:ModelCard", summary="for tests", patch=(8, 8, 8))]\n'
    )
    registry = Registry([Entry("model", "net", module, "acme", "1.0")], Switches())
    done = CliRunner().invoke(cli, ["plugins", "doctor", "net"], obj=registry)
    assert done.exit_code == code, done.output
    assert said in done.stdout


def test_doctor_of_one_model_finds_it_healthy_and_light():
    report = answer("plugins", "doctor", "unet3d")
    (row,) = report["plugins"]
    assert (row["name"], row["status"], row["imports"]) == ("segkit3d:unet3d", "ok", [])


@pytest.mark.parametrize("command", ["show", "doctor"])
def test_unknown_plugin_is_told_the_nearest_name(command):
    result = segkit("plugins", command, "phantm")
    assert isinstance(result.exception, UnknownName)
    assert str(result.exception) == "no plugin 'phantm'; did you mean 'phantom'?"


def test_model_is_shown_with_its_size_and_source():
    shown = answer("models", "show", "unet3d", "--option", "width=4", "--channels", "2", "--classes", "3")
    assert shown["schema"] == 1
    assert shown["options"]["width"] == 4
    assert (shown["in_channels"], shown["classes"]) == (2, 3)
    assert shown["parameters"] > 0
    assert shown["reference"].endswith("doi:10.1007/978-3-319-46723-8_49")


def test_option_without_a_value_is_refused():
    result = segkit("models", "show", "unet3d", "--option", "width")
    assert isinstance(result.exception, UsageError)
    assert "expected --option KEY=VALUE, got 'width'" in str(result.exception)


def test_unknown_command_is_told_the_nearest_one():
    result = segkit("plugin")
    assert isinstance(result.exception, UnknownName)
    assert str(result.exception) == "no command 'plugin'; did you mean 'plugins'?"
