"""Switches act before any import, and a typo in one is an error."""

import pytest

SWITCHES = {
    "--no-plugins": (("--no-plugins",), {}),
    "--no-plugin with the name": (("--no-plugin", "acme-tiny"), {}),
    "--no-plugin with the distribution": (("--no-plugin", "Acme_Healthy"), {}),
    "--no-plugin with the qualified name": (("--no-plugin", "acme-healthy:acme-tiny"), {}),
    "SEGKIT_DISABLE_PLUGINS": ((), {"SEGKIT_DISABLE_PLUGINS": "loud, acme-healthy"}),
    "SEGKIT_PLUGINS with others": ((), {"SEGKIT_PLUGINS": "loud,twin-one"}),
}


@pytest.mark.parametrize(("arguments", "variables"), SWITCHES.values(), ids=SWITCHES)
def test_plugin_that_is_switched_off_is_refused_and_never_imported(segkit, arguments, variables):
    answer = segkit(*arguments, "models", "show", "acme-tiny", **variables)
    assert answer.code == 2
    assert "'acme-tiny' to be enabled, it is switched off; drop --no-plugin(s), or SEGKIT_PLUGINS" in answer.err
    assert answer.imported == ()


@pytest.mark.parametrize(("arguments", "variables"), SWITCHES.values(), ids=SWITCHES)
def test_plugin_that_is_switched_off_is_listed_as_disabled_and_built_ins_stay(segkit, arguments, variables):
    rows = segkit(*arguments, "models", "--json", **variables).json()["models"]
    status = {(row["from"], row["name"]): row["status"] for row in rows}
    assert status["acme-healthy", "acme-tiny"] == "disabled"
    assert status["segkit3d", "unet3d"] == "ok"


@pytest.mark.parametrize("command", ["show", "doctor", "check"])
def test_inspection_of_a_plugin_that_is_switched_off_does_not_import_it_either(segkit, command):
    answer = segkit("--no-plugin", "acme-tiny", "plugins", command, "acme-healthy")
    assert answer.code == 2
    assert "expected plugin 'acme-healthy' to be enabled, it is switched off" in answer.err
    assert answer.imported == ()


def test_plugin_that_is_named_in_the_allow_list_works(segkit):
    answer = segkit("plugins", "show", "acme-tiny", "--json", SEGKIT_PLUGINS="acme-healthy")
    assert (answer.code, answer.imported) == (0, ("acme_healthy",))


def test_built_in_can_be_switched_off(segkit):
    answer = segkit("--no-plugin", "segkit3d:unet3d", "models", "show", "unet3d")
    assert answer.code == 2
    assert "expected model 'unet3d' to be enabled" in answer.err


def test_commands_of_plugins_are_gone_from_help_without_plugins(segkit):
    answer = segkit("--no-plugins", "--help")
    assert answer.code == 0
    assert "hello" not in answer.out
    assert "export" in answer.out
    assert segkit("--no-plugins", "hello").code == 2


@pytest.mark.parametrize(
    ("arguments", "variables"),
    [
        (("--no-plugin", "acme-helthy", "models"), {}),
        (("--no-plugin", "acme-helthy", "--help"), {}),
        (("hello",), {"SEGKIT_PLUGINS": "acme-helthy"}),
        (("models", "--json"), {"SEGKIT_DISABLE_PLUGINS": "unet3d,acme-helthy"}),
    ],
    ids=["--no-plugin", "--no-plugin before --help", "SEGKIT_PLUGINS", "SEGKIT_DISABLE_PLUGINS"],
)
def test_typo_in_a_switch_is_an_error_with_a_suggestion(segkit, arguments, variables):
    answer = segkit(*arguments, **variables)
    assert answer.code == 2
    assert answer.out == ""
    assert answer.err == "error: no plugin 'acme-helthy'; did you mean 'acme-healthy'?\n"
    assert answer.imported == ()
