"""For the tests of plugin authors: pytest finds this module by itself where segkit is installed.

    def test_my_network_is_registered(segkit_registry):
        assert segkit_registry.card("model", "mynet").multiple == 8

The checks of the contract are `segkit.conformance.checks_for` and `assert_model_conforms`. Nothing heavy is imported as
pytest starts.
"""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from segkit.registry import Registry

_SETTING = "segkit_distribution"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the setting that names the distribution whose plugins are tested."""
    parser.addini(
        _SETTING, "the distribution whose segkit plugins are tested (default: the project's name)", default=""
    )


@pytest.fixture(scope="session")
def segkit_registry(pytestconfig: pytest.Config) -> Registry:
    """What segkit itself brings and what the tested distribution brings, whatever else is installed or switched off.

    The distribution is that of `segkit_distribution` in pytest's settings, else of `[project] name` in the
    pyproject.toml of pytest's root folder.

    Raises:
        UsageError: neither names one, or it is not installed.
    """
    from segkit.errors import UsageError
    from segkit.installed import installed_entries, normalise
    from segkit.registry import Registry, Switches

    name = str(pytestconfig.getini(_SETTING)) or _project_name(pytestconfig)
    if not name:
        raise UsageError(
            f"expected the name of the tested distribution, {pytestconfig.rootpath} has no pyproject.toml with one",
            hint=f"set {_SETTING} = NAME in pytest's settings",
        )
    entries = list(installed_entries())
    if not any(entry.distribution == normalise(name) for entry in entries):
        raise UsageError(
            f"expected segkit plugins of the distribution {name!r}, none is installed",
            hint="run: pip install -e . and check the entry points in pyproject.toml",
        )
    return Registry([entry for entry in entries if entry.builtin or entry.distribution == normalise(name)], Switches())


def _project_name(config: pytest.Config) -> str:
    path = config.rootpath / "pyproject.toml"
    if not path.is_file():
        return ""
    return str(tomllib.loads(path.read_text(encoding="utf-8")).get("project", {}).get("name", ""))
