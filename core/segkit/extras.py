"""Optional packages: whether one is there, and what to say where it is not. Nothing is imported."""

from __future__ import annotations

import importlib.util

from segkit.errors import MissingExtra


def is_installed(module: str) -> bool:
    """Whether a module has a file of its own: an uninstall can leave a bare folder that still imports."""
    spec = importlib.util.find_spec(module)
    return spec is not None and spec.origin is not None


def require(module: str, extra: str, purpose: str) -> None:
    """Refuse early where a module is missing.

    Args:
        module: top-level module.
        extra: the extra of segkit3d that brings it.
        purpose: what it is needed for.

    Raises:
        MissingExtra: it is not installed.
    """
    if not is_installed(module):
        raise MissingExtra(module, extra, purpose)
