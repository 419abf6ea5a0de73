"""A broken plugin is an error for who asks for it, in one line that says whose it is and what to do; no one else."""

import re

import pytest

BROKEN = {
    "needs-more": ("acme-needs", "import", r"ModuleNotFoundError: No module named 'package_that_acme_forgot'"),
    "import-fails": ("acme-import", "import", r"RuntimeError: operator torchvision::nms does not exist"),
    "import-exits": ("acme-exit", "import", r"SystemExit: no licence found"),
    "removed": ("acme-removed", "import", r"ModuleNotFoundError: No module named 'acme_removed'"),
    "hook-argument": ("acme-argument", "register", r"PluginValidationError: .*segkit_models\(width\).*"),
    "hook-typo": ("acme-typo", "validate", r"unknown hook 'segkit_model', did you mean 'segkit_models'\?"),
    "hook-unmarked": ("acme-unmarked", "validate", r"no hook: expected one of segkit_models, .* @segkit.hookimpl"),
    "hook-raises": ("acme-raises", "call", r"ValueError: two lines"),
    "hook-strange": ("acme-strange", "card", r"expected a list of ModelCard from segkit_models, got a str"),
    "hook-single": ("acme-single", "card", r"expected a list of ModelCard .* got a ModelCard and no list"),
    "old-name": ("acme-renamed", "card", r"expected a card named 'old-name', the hook returned new-name"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_asking_for_a_broken_model_names_distribution_version_stage_cause_and_remedy(segkit, name):
    distribution, stage, cause = BROKEN[name]
    answer = segkit("models", "show", name)
    assert answer.code == 1
    assert answer.out == ""
    assert re.fullmatch(
        rf"error: expected model '{name}' from {distribution} 0\.1, it is broken at stage '{stage}': {cause}; "
        rf"run: segkit plugins doctor {distribution}\n",
        answer.err,
    ), answer.err


def test_card_of_a_newer_contract_is_incompatible_and_says_to_upgrade(segkit):
    answer = segkit("models", "show", "from-the-future")
    assert answer.code == 1
    assert "is incompatible at stage 'card': card api 99, this segkit knows 1: upgrade segkit3d" in answer.err


def test_debug_shows_the_line_of_the_plugin_that_failed(segkit):
    answer = segkit("--debug", "models", "show", "import-fails")
    assert answer.code == 1
    assert re.search(
        r"acme_import\.py\", line \d+.*RuntimeError: operator.*PluginError: expected model", answer.err, re.S
    )


def test_what_a_plugin_prints_at_import_does_not_spoil_the_answer(segkit):
    answer = segkit("plugins", "show", "loud", "--json")
    assert answer.json()["plugins"][0]["status"] == "ok"
    assert answer.err == "hello from a plugin\n"


def test_show_says_how_to_learn_more_of_a_broken_plugin(segkit):
    answer = segkit("plugins", "show", "import-exits")
    assert (answer.code, answer.out.splitlines()[-2]) == (1, "next: segkit plugins doctor acme-exit")


def test_show_prints_a_broken_plugin_as_a_row_with_its_stage(segkit):
    answer = segkit("plugins", "show", "import-exits", "--json")
    assert answer.json()["schema"] == 1
    assert answer.json()["plugins"] == [
        {
            "kind": "model",
            "from": "acme-exit 0.1",
            "module": "acme_exit",
            "name": "import-exits",
            "status": "broken",
            "stage": "import",
            "error": "SystemExit: no licence found",
        }
    ]
