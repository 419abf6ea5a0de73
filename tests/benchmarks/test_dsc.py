"""The thesis' Dice tables: every row is trained by a command, ours stand beside theirs, and say what they are of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from segkit import Registry
from segkit.cli import cli
from segkit.errors import UnknownName, UsageError
from segkit_benchmarks.thesis import ISEG, MRBRAINS, ROWS


class Commands:
    """Stands in for the processes: makes small data, and trains small networks in this process."""

    def __init__(self, registry: Registry, fail: str = "") -> None:
        self.registry, self.fail, self.lines = registry, fail, list[str]()

    def __call__(self, words: Sequence[str]) -> int:
        line = " ".join(words)
        self.lines.append(line)
        if self.fail and self.fail in line:
            return 1
        small = line.replace("--preset mrbrains --subjects 6", "--preset mini --subjects 3").split()
        if small[0] == "train" and "--resume" not in small:
            small += ["--patch", "16,16,16", "--patches-per-epoch", "2", "--loss", "cross-entropy"]
        return CliRunner().invoke(cli, small, obj=self.registry, standalone_mode=False).exit_code


def bench(registry: Registry, *words: str | Path) -> str:
    arguments = ["bench", "dsc", *(str(word) for word in words)]
    return CliRunner().invoke(cli, arguments, obj=registry, catch_exceptions=False, standalone_mode=False).stdout


def test_the_tables_have_the_thesis_rows() -> None:
    assert [row.title for row in ROWS if ISEG in row.dsc] == [row.title for row in ROWS][:-1]
    assert all(MRBRAINS in row.dsc for row in ROWS)
    for row in ROWS:
        for scores in row.dsc.values():
            assert scores["average"] > sum(scores[name] for name in ("CSF", "GM", "WM")) / 3
        assert {table for table, count in row.modalities.items() if count} == set(row.dsc)


def test_a_row_is_trained_by_a_command_and_printed_beside_the_thesis(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = Commands(registry)
    monkeypatch.setattr("segkit_benchmarks.dsc.run_segkit", commands)
    words = ("--data", "phantom", "--quick", "--model", "vnet-light", "--out", tmp_path)
    report = json.loads(bench(registry, *words, "--json"))
    (row,) = report["rows"]
    assert row["thesis"] == {"average": 82.63, "CSF": 77.80, "GM": 84.85, "WM": 76.15}
    assert set(row["ours"]) == {"average", "CSF", "GM", "WM"}
    assert (row["dataset"], row["held_out"], row["modalities"]) == ("phantom", ["sub-001"], ["T1"])
    assert report["protocol"] == "quick"
    assert json.loads((tmp_path / "dsc.json").read_text()) == report
    printed = bench(registry, *words)
    assert "| 82.63" in printed
    assert "phantom sub-001" in printed
    assert sum("--resume" in line for line in commands.lines) == 1  # the second time it goes on


def test_a_row_that_fails_says_so_and_the_next_is_trained(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segkit_benchmarks.dsc.run_segkit", Commands(registry, fail="--model vnet --"))
    models = ("--model", "vnet", "--model", "vnet-light")
    report = json.loads(bench(registry, "--data", "phantom", "--quick", *models, "--out", tmp_path, "--json"))
    assert [row["failed"] for row in report["rows"]] == ["segkit train ended with exit code 1", None]


def test_each_row_of_real_data_follows_the_recipe_of_the_thesis(
    registry: Registry, phantom_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = Commands(registry, fail="train")
    monkeypatch.setattr("segkit_benchmarks.dsc.run_segkit", commands)
    monkeypatch.setattr("segkit_benchmarks.dsc.CHALLENGES", {"phantom": MRBRAINS})
    bench(registry, "--data", f"phantom={phantom_folder}", "--out", tmp_path)
    trained = [line for line in commands.lines if line.startswith("train")]
    assert len(trained) == sum(len(row.models) for row in ROWS)
    assert all("--recipe thesis" in line for line in trained)


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["--data", "iseg2017"], UsageError, "expected a folder with --data iseg2017, got none"),
        (["--data", "iseg=x"], UnknownName, "no data of the benchmark 'iseg'; did you mean 'iseg2017'"),
        (["--data", "phantom", "--model", "vnett"], UnknownName, "no model of the thesis 'vnett'; did you mean 'vnet'"),
    ],
)
def test_a_bad_request_is_one_line(
    words: list[str], error: type[Exception], message: str, registry: Registry, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        bench(registry, *words, "--out", tmp_path)
