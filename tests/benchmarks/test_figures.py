"""Every measured figure in the README and in docs/ is made from a committed result file, or it is not there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from segkit_benchmarks.demo_result import render_markdown as render_demo
from segkit_benchmarks.io import render_markdown as render_io
from segkit_benchmarks.training_report import render_markdown as render_training

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results"

MADE = {"docs/table1.md", "docs/peers.md", "docs/exports.md", "docs/io.md", "docs/training.md"}
"""Pages that are made from results as a whole; a test of each benchmark holds them."""

FACTS = {
    "docs/architecture.md": {"74.9 %": "of docs/results/background.json, see below"},
    "docs/bundle.md": {
        "8 GiB": "limit of a bundle",
        "4 MiB": "limit of its manifest",
        "4 GiB": "limit of a zip file",
        "64 KiB": "limit of its directory",
        "16 MiB": "limit of a file in it",
        "100 times": "limit of its packing",
        "99.9 %": "a quantile, by definition",
    },
    "docs/images.md": {"4 GiB": "limit of an image", "0.1 %": "limit of a shear"},
    "docs/report.md": {"6 MB": "limit of the page"},
    "docs/runtime.md": {"2 GiB": "limit of the cache"},
}
"""Numbers with such units that nobody measured, and what they are."""

CODE = re.compile(r"^```.*?^```|^    .*?$|`[^`\n]*`", re.MULTILINE | re.DOTALL)
UNITS = r"ms|s|seconds?|minutes?|hours?|[kKMGT]i?B|[kKMG]B/s|GFLOP/s|%|x|\N{MULTIPLICATION SIGN}|times"
FIGURE = re.compile(rf"\d[\d.,]*\s?(?:{UNITS})(?!\w)")


def committed(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / name).read_text())
    return found


def test_the_readme_shows_what_the_committed_demo_gave() -> None:
    assert render_demo(committed("demo.json")) in (ROOT / "README.md").read_text()


def test_the_committed_page_of_images_is_that_of_the_committed_result() -> None:
    assert (ROOT / "docs" / "io.md").read_text() == render_io(committed("io.json"))


def test_the_committed_page_of_training_is_that_of_the_committed_result() -> None:
    assert (ROOT / "docs" / "training.md").read_text() == render_training(committed("training.json"))


def test_the_trial_of_the_background_is_told_as_its_result_has_it() -> None:
    dice, voxels = zip(
        *(
            (row["foreground_dice_percent"], row["background_voxels_deeper_than_8_mm"])
            for row in committed("background.json")["rows"]
        ),
        strict=True,
    )
    told = " ".join((ROOT / "docs" / "architecture.md").read_text().split())
    assert f'Dice of {dice[0]} % for "below", {dice[1]} for "zero", and {dice[2]} for "mask"' in told
    assert f"inside the head in {voxels[0]:,}, {voxels[1]:,} and {voxels[2]:,} voxels" in told


@pytest.mark.parametrize(
    "page",
    sorted({str(path.relative_to(ROOT)) for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]} - MADE),
)
def test_no_page_has_a_measured_figure_of_its_own(page: str) -> None:
    text = (ROOT / page).read_text().replace(render_demo(committed("demo.json")), "")
    assert set(FIGURE.findall(CODE.sub("", text))) == set(FACTS.get(page, {}))


def test_a_measured_figure_is_known_when_it_is_seen() -> None:
    said = "in 0.88 to 0.77 s, 240 MiB or 12%, 2.5 times as fast, 1.4 x; voxels of 1x1x1 mm, 64x64x64, `--budget 2GiB`"
    assert FIGURE.findall(CODE.sub("", said)) == ["0.77 s", "240 MiB", "12%", "2.5 times", "1.4 x"]
