"""`segkit plugins doctor` loads plugins in processes of their own, and outlives them."""

import pytest

STATUS = {
    "acme-tiny": ("ok", None),
    "loud": ("ok", None),
    "hello": ("ok", None),
    "vnet": ("ok", None),
    "twin": ("ok", None),
    "import-fails": ("broken", "import"),
    "import-exits": ("broken", "import"),
    "aborts": ("broken", "import"),
    "hook-argument": ("broken", "register"),
    "hook-typo": ("broken", "validate"),
    "hook-raises": ("broken", "call"),
    "hook-strange": ("broken", "card"),
    "old-name": ("broken", "card"),
    "from-the-future": ("incompatible", "card"),
}


def test_doctor_reports_every_plugin_and_exits_1(segkit):
    answer = segkit("plugins", "doctor", "--json", SEGKIT_DISABLE_PLUGINS="segkit3d,acme-slow")
    assert answer.code == 1
    report = answer.json()
    assert report["schema"] == 1
    rows = {row["name"].partition(":")[2]: row for row in report["plugins"]}
    assert {name: (rows[name]["status"], rows[name].get("stage")) for name in STATUS} == STATUS
    assert "code -6" in rows["aborts"]["error"]
    assert not any(row["name"].startswith(("segkit3d:", "acme-slow:")) for row in report["plugins"])


def test_doctor_of_a_healthy_plugin_exits_0_and_tells_its_import_time(segkit):
    answer = segkit("plugins", "doctor", "hello", "--json")
    assert answer.code == 0, answer.err
    (row,) = answer.json()["plugins"]
    assert (row["name"], row["version"], row["status"], row["imports"]) == ("acme-commands:hello", "3.1", "ok", [])
    assert 0 < row["import_seconds"] < 60


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("acme-import", "model acme-import:import-fails: broken at stage import: RuntimeError: operator torchvision"),
        ("factory-gone", "model acme-gone:factory-gone: broken at stage factory: AttributeError: module 'acme_healthy"),
        ("acme-future", "model acme-future:from-the-future: incompatible at stage card: card api 99"),
    ],
)
def test_doctor_of_a_plugin_that_fails_says_in_words_what_the_failed_command_said(segkit, name, line):
    answer = segkit("plugins", "doctor", name)
    assert answer.code == 1
    assert line in answer.out
    assert "0 of 1 work" in answer.out


def test_doctor_of_an_unknown_name_is_told_the_nearest_one(segkit):
    answer = segkit("plugins", "doctor", "acme-imprt")
    assert (answer.code, answer.err) == (2, "error: no plugin 'acme-imprt'; did you mean 'acme-import'?\n")
