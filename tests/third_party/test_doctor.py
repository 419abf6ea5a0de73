"""`segkit plugins doctor` loads plugins in processes of their own, and outlives them."""

import pytest

STATUS = {
    "acme-tiny": ("ok", None),
    "loud": ("ok", None),
    "hello": ("ok", None),
    "vnet": ("ok", None),
    "twin": ("ok", None),
    "needs-more": ("broken", "import"),
    "import-fails": ("broken", "import"),
    "import-exits": ("broken", "import"),
    "aborts": ("broken", "import"),
    "removed": ("broken", "import"),
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
    for name, row in rows.items():
        if row["status"] != "ok":
            assert row["name"].startswith(("acme-", "twin-"))
            assert row["version"] == ("3.1" if "commands" in row["name"] else "0.1")
            assert row["entry_point"].startswith(f"{name} = acme_")
            assert row["error"]
            assert "segkit" in row["next"] or row["name"].partition(":")[0] in row["next"]
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
        (
            "acme-import",
            "model acme-import:import-fails 0.1 (import-fails = acme_import) is broken at stage import: RuntimeError: "
            "operator torchvision::nms does not exist\n"
            "next: python -c 'import acme_import'; install what is missing, or upgrade acme-import\n",
        ),
        (
            "removed",
            "model acme-removed:removed 0.1 (removed = acme_removed) is broken at stage import: ModuleNotFoundError: "
            "No module named 'acme_removed'\n"
            "next: its code is gone: pip install --force-reinstall acme-removed, or pip uninstall acme-removed\n",
        ),
        (
            "acme-typo",
            "model acme-typo:hook-typo 0.1 (hook-typo = acme_typo) is broken at stage validate: unknown hook "
            "'segkit_model', did you mean 'segkit_models'?\n"
            "next: if it is yours, write the hook in acme_typo so: segkit_models() -> list[ModelCard], marked with "
            "@segkit.hookimpl; else upgrade acme-typo, or tell its authors; until then: segkit --no-plugin acme-typo "
            "...\n",
        ),
        (
            "acme-gone",
            "is broken at stage factory: AttributeError: module 'acme_healthy.network' has no attribute 'Huge'\n"
            "next: if it is yours, mend the factory on the card, or what it raises; see: segkit plugins check "
            "acme-gone; else upgrade acme-gone, or tell its authors; until then: segkit --no-plugin acme-gone ...\n",
        ),
        (
            "acme-future",
            "model acme-future:from-the-future 0.1 (from-the-future = acme_future) is incompatible at stage card: card "
            "api 99, this segkit knows 1: upgrade segkit3d\n"
            "next: pip install --upgrade segkit3d\n",
        ),
    ],
)
def test_doctor_of_a_plugin_that_fails_says_in_words_what_the_failed_command_said_and_what_to_do(segkit, name, line):
    answer = segkit("plugins", "doctor", name)
    assert answer.code == 1
    assert line in answer.out
    assert "0 of 1 work" in answer.out


def test_doctor_of_an_unknown_name_is_told_the_nearest_one(segkit):
    answer = segkit("plugins", "doctor", "acme-imprt")
    assert (answer.code, answer.err) == (2, "error: no plugin 'acme-imprt'; did you mean 'acme-import'?\n")
