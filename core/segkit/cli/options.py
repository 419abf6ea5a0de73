"""Options that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import click

from segkit.errors import UsageError

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

dataset_option = click.option(
    "--dataset-option", "dataset_options", multiple=True, metavar="KEY=VALUE", help="An option of the data set."
)


_PREPROCESSING = {
    "registration": click.option(
        "--register",
        "registration",
        type=click.Choice(["none", "affine", "rigid"]),
        default="none",
        show_default=True,
        help="Bring all modalities onto the grid of the first: as their affines say, or after a rigid search.",
    ),
    "bias_correction": click.option(
        "--bias-correction", type=click.Choice(["none", "n4"]), default="none", show_default=True, help="Of each image."
    ),
    "normalisation": click.option(
        "--normalisation",
        type=click.Choice(["zscore-nonzero", "none"]),
        default="zscore-nonzero",
        show_default=True,
        help="Of each image.",
    ),
    "background": click.option(
        "--background",
        type=click.Choice(["mask", "zero", "below"]),
        help="Zero voxels stay zero (z-score: the brain's mean); mask tells them apart in one more channel; below lets "
        "z-score move them below all tissues.  [default: mask; zero for networks whose channels are fixed; thesis: "
        "below]",
    ),
}


def preprocessing_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of preprocessing to a command; it gets those that have a value as one dict, `preprocessing`."""

    @functools.wraps(command)
    def with_preprocessing(*args: Any, **chosen: Any) -> Any:
        steps = {name: chosen.pop(name) for name in _PREPROCESSING}
        return command(*args, preprocessing={name: how for name, how in steps.items() if how is not None}, **chosen)

    for option in reversed(_PREPROCESSING.values()):
        with_preprocessing = option(with_preprocessing)
    return with_preprocessing


def parse_options(pairs: Sequence[str], flag: str = "--option") -> dict[str, int | float | str | bool]:
    """Turn KEY=VALUE texts of a flag into options of a card: integers, numbers, true and false are read as such.

    Raises:
        UsageError: a text has no `=`.
    """
    options: dict[str, int | float | str | bool] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"expected {flag} KEY=VALUE, got {pair!r}")
        options[key] = _value(text)
    return options


def _value(text: str) -> int | float | str | bool:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


class Triple(click.ParamType[tuple[int, int, int]]):
    """Three whole numbers above 0, by comma or x: a size in voxels."""

    name = "X,Y,Z"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int, int]:
        """Read `64,64,64` or `64x64x64`."""
        if isinstance(value, tuple):
            return value
        parts = str(value).replace("x", ",").split(",")
        if len(parts) != 3 or not all(part.strip().isdigit() and int(part) > 0 for part in parts):
            self.fail(f"expected three sizes such as 64,64,64, got {value!r}", param, ctx)
        x, y, z = (int(part) for part in parts)
        return x, y, z


class Millimetres(click.ParamType[tuple[float, float, float]]):
    """Three voxel sizes above 0 mm, by comma or x."""

    name = "X,Y,Z"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, float, float]:
        """Read `1,1,1.5` or `1x1x1.5`."""
        if isinstance(value, tuple):
            return value
        try:
            x, y, z = (float(part) for part in str(value).replace("x", ",").split(","))
        except ValueError:
            x = y = z = 0.0
        if not all(0 < side < float("inf") for side in (x, y, z)):
            self.fail(f"expected three voxel sizes in mm such as 1,1,1, got {value!r}", param, ctx)
        return x, y, z
