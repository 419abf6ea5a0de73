"""Fixtures that several folders share."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

# Before torch is imported: on networks this small, and on a busy machine, threads mostly wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from segkit import Registry
from segkit.cards import load_attribute
from segkit.registry import Switches
from segkit_runtime.cuda import why_no_device


def pytest_sessionstart(session: pytest.Session) -> None:
    """Meet Ctrl-C, as whatever tests start then does: a job in a script's background ignores it, and so would they."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a CUDA device where there is none, with CUDA's own reason."""
    if item.get_closest_marker("gpu") and (reason := why_no_device()):
        pytest.skip(f"needs a CUDA device: {reason}")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compiled engines are cached in a folder of this session, never in the home of who runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def registry() -> Registry:
    """What segkit itself brings, whatever else is installed."""
    return Registry.from_environment(Switches(builtin_only=True))


@pytest.fixture(scope="session")
def phantom_folder(tmp_path_factory: pytest.TempPathFactory, registry: Registry) -> Path:
    """Three subjects of the phantom at 2 mm."""
    folder = tmp_path_factory.mktemp("phantom") / "mini"
    load_attribute(registry.card("dataset", "phantom").make)(folder, "mini", 3, 5, lambda _: None)
    return folder
