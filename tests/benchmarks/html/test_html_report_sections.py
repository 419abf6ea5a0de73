"""What the report says of results beside others, of Dice tables, and of runs that were just begun."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segkit.errors import UsageError

Segkit = Callable[..., str]

ROOT = Path(__file__).parents[3]


def three(value: float) -> str:
    """A figure below a thousand in three significant digits."""
    return f"{value:#.3g}".rstrip(".")


def section_of(page: str, name: str) -> str:
    found = re.search(f'<section id="{name}".*?</section>', page, re.DOTALL)
    assert found is not None
    return found[0]


def test_every_ratio_with_its_interval_and_every_verdict_is_in_it(page: str, peers: dict[str, Any]) -> None:
    section = section_of(page, "peers")
    parts = [*peers["volumes"], peers["start"], peers["run"]]
    for ratio in (ratio for part in parts for ratio in part["ratios"]):
        span = ratio["seconds"]
        assert f'data-value="{span["median"]}"' in section
        assert f"<small>{three(span['least'])} to {three(span['most'])}" in section
        assert f"{ratio['peer']} against {ratio['ours']}, {three(span['median'])}" in section
    assert (
        section.count("labels differ</small>") == 2 * 3 * 2
    )  # MedicalZoo beside three of ours: two cases, seconds and memory
    assert {"✓ reached", "✗ not reached"} <= set(re.findall(">([✓✗][^<]+)<", section))
    assert section.count("not measured: killed: &lt;out of memory&gt;") == 2
    assert section.count("not measured: nnunetv2 is not installed") == 2


def test_a_dot_stands_on_a_log_axis_within_its_interval_beside_its_floor(page: str) -> None:
    plot = re.search('<svg class="plot[^"]*"[^>]*aria-labelledby="peers-1-start-t.*?</svg>', page)
    assert plot is not None
    ratios = {
        peer: (float(low), float(dot), float(high))
        for peer, low, high, dot in re.findall(
            r"<title>process start to the first patch: (\w+) against[^<]+</title>"
            r'<path class="line s1" d="M([\d.]+) [\d.]+v6m0 -3H([\d.]+)m0 -3v6"/><circle class="dot s1" cx="([\d.]+)"',
            plot[0],
        )
    }
    floors = {
        peer: float(at)
        for peer, at in re.findall(r'<title>(\w+): floor [^<]+</title><path class="mark" d="M([\d.]+)', plot[0])
    }
    one = float(re.findall(r'class="reference" d="M([\d.]+)', plot[0])[0])
    assert all(low < dot < high for low, dot, high in ratios.values())
    # MONAI takes 5 times as long with a floor of 6, torch 4 times with a floor of 4.
    per_log = (ratios["MONAI"][1] - one) / math.log(5)
    assert ratios["torch"][1] - one == pytest.approx(per_log * math.log(4), abs=0.2)
    assert floors == pytest.approx({"MONAI": one + per_log * math.log(6), "torch": ratios["torch"][1]}, abs=0.2)


def test_ratios_rates_and_failures_of_training_and_of_images_are_in_it(page: str, results: Path) -> None:
    training, images = (json.loads((results / f"{name}.json").read_text()) for name in ("training", "io"))
    section = section_of(page, "training")
    for row in (row for row in training["patches"]["rows"] if "failed" not in row):
        assert all(f'data-value="{rate["median"]}"' in section for rate in row["patches_per_second"].values())
    steps = [ratio for row in training["steps"] for ratio in row.get("ratios", [])]
    for ratio in [*training["patches"]["ratios"], *steps]:
        assert f"{ratio['peer']} against {ratio['ours']}, {three(ratio['ratio']['median'])}" in section
    assert section.count("not measured: made up") == 2
    assert section.count("not measured: killed: out of memory") == 1
    assert "<title>MONAI, tuned: floor 50</title>" in section
    section = section_of(page, "io")
    for row in (row for row in images["rows"] if "read_ratio" in row):
        for work in ("read", "write"):
            found = row[f"{work}_ratio"]
            text = f"{three(found['median'])} ({three(found['least'])} to {three(found['most'])})"
            assert f"<title>{work}: {row['side']} against segkit, {text}</title>" in section
            assert f'data-value="{row[f"{work}_ms"]}"' in section
    assert section.count("not measured: ImportError: no") == 2


def test_peers_that_were_begun_give_what_there_is(segkit: Segkit, peers: dict[str, Any], tmp_path: Path) -> None:
    begun = {name: peers[name] for name in ("machine", "versions", "quick", "rounds", "threads")}
    (tmp_path / "peers.json").write_text(json.dumps({**begun, "volumes": peers["volumes"][:1], "floors": []}))
    assert json.loads(segkit("report", tmp_path, "--html", "--json"))["sections"] == ["peers"]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "peers-1-volume-t" in page
    assert "peers-1-start-t" not in page


def test_a_row_that_failed_and_a_class_that_is_nowhere_are_said_in_the_dice_table(
    segkit: Segkit, tmp_path: Path
) -> None:
    report = json.loads((ROOT / "docs" / "results" / "dsc-quick.json").read_text())
    first, second, *_ = report["rows"]
    kept = ("table", "row", "model", "dataset", "run", "thesis")
    failed = {**{name: first[name] for name in kept}, "ours": None, "failed": "segkit train ended with exit code 1"}
    second["ours"]["CSF"] = math.nan  # as `segkit bench dsc` writes it
    (tmp_path / "dsc.json").write_text(json.dumps({**report, "rows": [failed, second]}))
    assert json.loads(segkit("report", tmp_path, "--html", "--json"))["sections"] == ["dsc"]
    section = section_of((tmp_path / "report.html").read_text(encoding="utf-8"), "dsc")
    assert section.count("segkit train ended with exit code 1") == 4
    assert f'data-value="{second["ours"]["GM"]}"' in section
    assert "nan" not in section


@pytest.mark.parametrize("metrics", [None, "", "epoch,step,loss\n"])
def test_a_run_without_an_epoch_is_left_out_and_the_last_section_says_so(
    segkit: Segkit, results: Path, tmp_path: Path, metrics: str | None
) -> None:
    begun = tmp_path / "dsc" / "vnet"
    begun.mkdir(parents=True)
    (begun / "config.json").write_bytes((results / "run" / "config.json").read_bytes())
    if metrics is not None:
        (begun / "metrics.csv").write_text(metrics)
    with pytest.raises(UsageError, match=r"expected results in .*, found runs that have no epoch yet: dsc/vnet; let"):
        segkit("report", tmp_path, "--html")
    (tmp_path / "dsc.json").write_bytes((results / "dsc.json").read_bytes())
    (tmp_path / "config.json").write_text('{"architectures": ["of other software"]}')
    said = json.loads(segkit("report", tmp_path, "--html", "--json"))
    assert said["sections"] == ["dsc"]
    assert said["missing"]["run dsc/vnet"] == "It has no epoch yet."
    assert [name for name in said["missing"] if name.startswith("run ")] == ["run dsc/vnet"]
    missing = section_of((tmp_path / "report.html").read_text(encoding="utf-8"), "missing")
    assert "Run dsc/vnet" in missing
    assert "segkit train --resume --out RUN" in missing
