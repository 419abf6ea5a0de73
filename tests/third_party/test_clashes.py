"""Names that several distributions claim."""

import pytest


def test_bare_name_of_two_distributions_is_refused_with_both_qualified_names(segkit):
    answer = segkit("models", "show", "twin")
    assert answer.code == 2
    assert (
        answer.err == "error: expected one model 'twin', 2 distributions bring it; use twin-one:twin or twin-two:twin\n"
    )
    assert answer.imported == ()


@pytest.mark.parametrize("number", ["one", "two"])
def test_qualified_name_of_an_ambiguous_model_works(segkit, number):
    answer = segkit("plugins", "show", f"twin-{number}:twin", "--json")
    assert answer.code == 0, answer.err
    assert [card["licence"] for card in answer.json()["plugins"]] == [number]
    assert answer.imported == (f"twin_{number}",)


def test_switching_one_of_two_off_makes_the_bare_name_plain(segkit):
    rows = segkit("--no-plugin", "twin-one", "models", "--json").json()["models"]
    assert {row["from"]: row["status"] for row in rows if row["name"] == "twin"} == {
        "twin-one": "disabled",
        "twin-two": "ok",
    }


def test_third_party_cannot_take_the_name_of_a_built_in_model(segkit):
    status = {
        row["from"]: row["status"] for row in segkit("models", "--json").json()["models"] if row["name"] == "vnet"
    }
    assert status == {"segkit3d": "ok", "acme-vnet": "shadowed"}
    refused = segkit("models", "show", "vnet", "--option", "no-such=1")
    assert "no option of model vnet 'no-such'" in refused.err
    assert refused.imported == ()
    shown = segkit("plugins", "show", "segkit3d:vnet", "--json").json()["plugins"]
    assert [card["licence"] for card in shown] == ["Apache-2.0"]
    stolen = segkit("plugins", "show", "acme-vnet:vnet", "--json").json()["plugins"]
    assert [card["licence"] for card in stolen] == ["stolen"]


@pytest.mark.parametrize("command", ["models", "export"])
def test_third_party_cannot_take_the_name_of_a_built_in_command(segkit, command):
    answer = segkit(command, "--help")
    assert answer.code == 0, answer.err
    assert "Steal." not in answer.out
    assert answer.imported == ()
    rows = segkit("plugins", "list", "--json").json()["plugins"]
    assert [r["status"] for r in rows if (r["name"], r["from"]) == (command, "acme-commands")] == ["shadowed"]


@pytest.mark.parametrize("command", ["models", "export"])
def test_qualified_name_of_a_shadowed_command_works(segkit, command):
    assert segkit(f"acme-commands:{command}").out == "stolen\n"
