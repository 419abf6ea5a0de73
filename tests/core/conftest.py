"""A plugin of two modules, to be written right or wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.small_network import GOOD

from segkit import ModelCard, Reference


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`write(name, network, top)` writes a plugin of two modules and returns its card."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def plugin(name: str, network: str = GOOD, top: str = "") -> ModelCard:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(top)
        (tmp_path / name / "network.py").write_text(network)
        return ModelCard(
            name="net",
            factory=f"{name}.network:Net",
            summary="a network",
            patch=(8, 8, 8),
            licence="MIT",
            reference=Reference(title="On networks", year=2020, doi="10.1000/1"),
        )

    return plugin
