"""What the installed MONAI has, and what it says to the options it is given."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from segkit.cards import Options
from segkit.errors import UsageError
from segkit.extras import require


def find_in_monai(home: str, attribute: str, card: str, *modules: str) -> Any:
    """Return a class of MONAI.

    Args:
        home: module of MONAI, for example `monai.losses`.
        attribute: name in it.
        card: name of the card, for the message.
        modules: what MONAI needs beside torch to build it.

    Raises:
        MissingExtra: MONAI or a module is not installed.
        UsageError: the installed MONAI has no such class.
    """
    for module in ("monai", *modules):
        require(module, "train", card)
    import monai

    found = getattr(importlib.import_module(home), attribute, None)
    if found is None:
        raise UsageError(
            f"expected {attribute} in {home} for {card}, got MONAI {monai.__version__}, which has none",
            hint="run: pip install --upgrade monai",
        )
    return found


@contextmanager
def options_told(attribute: str, chosen: Options, defaults: Options) -> Iterator[None]:
    """Turn what MONAI raises over its arguments, errors of many kinds, into a UsageError that names the options."""
    try:
        yield
    except Exception as error:
        raise UsageError(
            f"expected options that MONAI's {attribute} takes, got {_written(chosen)}: {error}",
            hint=f"the defaults are {_written(defaults)}",
        ) from error


def _written(options: Options) -> str:
    return ", ".join(f"{key}={value}" for key, value in options.items()) or "none"
