"""`segkit bench training`: every side measures, ratios are taken round by round, and none of the peers is needed."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from segkit.cli import cli
from segkit.errors import UsageError
from segkit.registry import Registry
from segkit.volume import format_size
from segkit_benchmarks import training, training_ours, training_peers, training_report
from segkit_benchmarks.training_ours import Net
from segkit_benchmarks.training_report import patch_report, step_report
from segkit_benchmarks.turns import Figures, Side, take_turns
from segkit_benchmarks.turns import Result as Handed

SIZES = ((24, 24, 16), (8, 8, 8))
NAMES = [format_size(size) for size in SIZES]
TINY = Net(model="unet3d-residual", options={"width": 2}, channels=2, patch=(32, 32, 32))


class Over(Exception):
    """A side has had its rounds."""


def play(side: Side, rounds: int) -> list[Figures]:
    """Run a side here, and return what it handed over: first, then of each round."""
    handed: list[Figures] = []

    def turn(figures: Figures) -> None:
        handed.append(figures)
        if len(handed) > rounds:
            raise Over

    with pytest.raises(Over, match=r"^$"):
        side(turn)
    return handed


@pytest.fixture
def drawing(registry: Registry, phantom_folder: Path, tmp_path: Path) -> Callable[[Path], Side]:
    bare = Registry(registry.entries, registry.switches)
    return lambda data: partial(
        training_ours.patches, registry=bare, data=data, store=tmp_path / "store", sizes=SIZES, seconds=0.01
    )


def test_ours_draws_both_sizes_in_all_ways_and_tells_when_the_first_patch_came(
    drawing: Callable[[Path], Side], phantom_folder: Path
) -> None:
    first, *rounds = play(drawing(phantom_folder), 2)
    assert len(rounds) == 2
    for figures in rounds:
        assert 0 < figures["first_patch_seconds"] < first["prepare_and_first_patch_seconds"]
        for way in training_ours.WAYS:
            assert list(figures[way]) == NAMES
            assert min(figures[way].values()) > 0


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # where there is one core
@pytest.mark.parametrize(("tuned", "ways"), [(False, 1), (True, 3)])
def test_monai_draws_both_sizes(registry: Registry, phantom_folder: Path, tuned: bool, ways: int) -> None:
    first, figures = play(partial(_monai, registry=registry, data=phantom_folder, tuned=tuned), 1)
    assert first["first_patch_seconds"] > 0
    assert len(figures) == ways
    for rates in figures.values():
        assert list(rates) == NAMES
        assert min(rates.values()) > 0


def _monai(turn: Callable[[Figures], None], registry: Registry, data: Path, tuned: bool) -> None:
    training_peers.monai_patches(turn, registry, data, SIZES, 0.01, tuned)


def test_a_step_of_ours_is_a_step_of_the_trainer(registry: Registry, phantom_folder: Path, tmp_path: Path) -> None:
    training_ours.plan(registry, phantom_folder, tmp_path / "store", tmp_path / "run", TINY, "fp32", 4)
    first, *rounds = play(partial(training_ours.steps, registry=registry, folder=tmp_path / "run"), 2)
    assert not first
    assert [figures["seconds"] > 0 for figures in rounds] == [True, True]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_of_our_network_in_a_plain_loop(registry: Registry, precision: str) -> None:
    side = partial(training_peers.plain_steps, registry=registry, net=TINY, classes=4, precision=precision)
    assert play(side, 1)[1]["seconds"] > 0


def test_sides_take_turns_in_processes_of_their_own_and_one_that_fails_is_left_out(
    drawing: Callable[[Path], Side], phantom_folder: Path, tmp_path: Path
) -> None:
    order: list[str] = []
    sides = {"works": drawing(phantom_folder), "fails": drawing(tmp_path / "nowhere"), "too": drawing(phantom_folder)}
    results = take_turns(sides, 2, 1, order.append)
    assert order == ["works", "fails", "too", "works", "too", "too", "works"]
    assert "expected a folder of the data set" in str(results["fails"].failed)
    for name in ("works", "too"):
        assert results[name].failed is None
        assert len(results[name].rounds) == 2
        peak = results[name].peak_mib
        assert peak is None or peak > 10


def test_ratios_are_taken_round_by_round_and_held_against_the_floors() -> None:
    mine, theirs = training_ours.WAYS, training_peers.MONAI_TUNED
    results = {
        "ours": Handed(
            rounds=[
                {"first_patch_seconds": 0.5, **{way: dict(zip(NAMES, (a, 60), strict=True)) for way in mine}}
                for a in (4, 10, 60)
            ]
        ),
        "MONAI": Handed(rounds=[{theirs: dict(zip(NAMES, (b, 2), strict=True))} for b in (2, 2, 10)]),
        "broken": Handed(failed="its process ended with code -9"),
    }
    report = patch_report(results, SIZES, judged=True)
    large, small = (ratio for ratio in report["ratios"] if ratio["ours"] == training_ours.DEFAULT)
    assert large["ratio"] == {"median": 5, "least": 2, "most": 6}
    assert (large["floor"], large["met"]) == (3, True)
    assert (small["floor"], small["met"]) == (50, False)
    assert report["rows"][-1] == {"side": "broken", "failed": "its process ended with code -9"}
    assert {ratio["floor"] for ratio in patch_report(results, SIZES, judged=False)["ratios"]} == {None}


def test_floors_are_for_the_way_that_a_training_draws_by_default() -> None:
    workers = next(param for param in cli.get_command(None, "train").params if param.name == "workers")
    assert training_ours.WAYS[training_ours.DEFAULT] == workers.default
    assert {mine for mine, _ in training_report.FLOORS} == {training_ours.DEFAULT}


def test_a_step_has_a_ratio_to_each_of_ours_that_did_not_fail() -> None:
    results = {
        "segkit fp32": Handed(rounds=[{"seconds": 2.0}, {"seconds": 4.0}], peak_mib=100),
        "segkit bf16": Handed(failed="out of memory"),
        "MedicalZoo fp32": Handed(rounds=[{"seconds": 3.0}, {"seconds": 12.0}], peak_mib=200),
    }
    ours, failed, theirs = step_report(results, TINY, judged=True)
    assert (ours["seconds"]["median"], ours["ratios"]) == (3, [])
    assert failed["failed"] == "out of memory"
    assert [(ratio["ours"], ratio["ratio"]["least"], ratio["ratio"]["most"]) for ratio in theirs["ratios"]] == [
        ("segkit fp32", 1.5, 3)
    ]


def test_the_command_runs_without_any_peer_and_writes_its_report(registry: Registry, tmp_path: Path) -> None:
    words = "bench training --quick --peer none --part patches --repeats 1 --seconds 0.01 --json --out"
    report = json.loads(_invoke(registry, *words.split(), str(tmp_path)).stdout)
    assert report == json.loads((tmp_path / "training.json").read_text())
    assert report["schema"] == 1
    assert [row["side"] for row in report["patches"]["rows"]] == list(training_ours.WAYS)
    assert report["patches"]["ratios"] == []
    assert {"cpu", "cores", "capabilities"} <= report["machine"].keys()
    assert "segkit3d" in report["versions"]


def test_a_peer_that_is_not_installed_and_a_folder_that_is_no_clone_are_refused(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="expected a clone of MedicalZooPytorch"):
        _invoke(registry, "bench", "training", "--medicalzoo", str(tmp_path), "--out", str(tmp_path / "out"))
    monkeypatch.setattr(training, "is_installed", lambda module: False)
    with pytest.raises(UsageError, match="expected nnunetv2 for --peer nnunet"):
        _invoke(registry, "bench", "training", "--peer", "nnunet", "--out", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def _invoke(registry: Registry, *words: str) -> Result:
    return CliRunner().invoke(cli, words, obj=registry, catch_exceptions=False, standalone_mode=False)
