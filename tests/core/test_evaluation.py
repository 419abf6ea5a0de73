"""What `segkit evaluate` promises: figures of whole volumes, and of nothing but what the data set counts."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from segkit.cli import cli
from segkit.errors import UnknownName, UsageError
from segkit.evaluation import METRICS, Measures, Protocol, as_csv, measure, resolve_regions, summarise
from segkit.fakes import fake_registry, make_subjects
from segkit.surfaces import hd95_mm, surface_dice, surface_distances

CLASSES = ("background", "NCR", "ED", "ET")
SPACING_MM = (1.0, 0.8, 2.0)
PROTOCOL = Protocol(CLASSES, {"WT": (1, 2, 3), "TC": (1, 3)})


def box(classes: dict[int, slice], shape: tuple[int, int, int] = (12, 10, 8)) -> np.ndarray:
    labels = np.zeros(shape, np.uint8)
    for index, place in classes.items():
        labels[place, 2:7, 2:6] = index
    return labels


TRUTH = box({1: slice(1, 3), 2: slice(3, 6), 3: slice(6, 8)})
LABELS = box({1: slice(1, 4), 2: slice(4, 7), 3: slice(7, 9)})
WITHOUT_ET = box({1: slice(1, 3), 2: slice(3, 8)})
MISSED = measure(TRUTH, WITHOUT_ET, SPACING_MM, PROTOCOL)
HIT = measure(TRUTH, TRUTH, SPACING_MM, PROTOCOL)
SHIFTED = measure(TRUTH, LABELS, SPACING_MM, PROTOCOL)
ABSENT = measure(WITHOUT_ET, WITHOUT_ET, SPACING_MM, PROTOCOL)


@pytest.mark.parametrize("region", PROTOCOL.regions)
def test_a_region_scores_as_its_classes_painted_in_one_colour(region: str) -> None:
    merged = (np.isin(labels, PROTOCOL.regions[region]).astype(np.uint8) for labels in (TRUTH, LABELS))
    alone = measure(*merged, SPACING_MM, Protocol(("background", "region")))
    assert {metric: SHIFTED.values[metric][region] for metric in METRICS} == {
        metric: alone.values[metric]["region"] for metric in METRICS
    }


def test_every_class_and_region_has_every_metric_but_background_has_no_surface() -> None:
    every = [*CLASSES, "WT", "TC"]
    assert {metric: list(values) for metric, values in SHIFTED.values.items()} == {
        "dice": every,
        "volume_similarity": every,
        "hd95_mm": every[1:],
        "surface_dice": every[1:],
    }


def test_the_spacing_the_tolerance_and_the_convention_reach_the_surfaces() -> None:
    for protocol in (Protocol(CLASSES, tolerance_mm=1.9), Protocol(CLASSES, convention="surface-distance")):
        surfaces = surface_distances(TRUTH == 2, LABELS == 2, SPACING_MM, protocol.convention)
        measured = measure(TRUTH, LABELS, SPACING_MM, protocol).values
        assert measured["hd95_mm"]["ED"] == hd95_mm(surfaces)
        assert measured["surface_dice"]["ED"] == surface_dice(surfaces, protocol.tolerance_mm)
    loose, tight = (
        measure(TRUTH, LABELS, SPACING_MM, Protocol(CLASSES, tolerance_mm=tolerance)).values["surface_dice"]["ED"]
        for tolerance in (1.0, 0.5)
    )
    assert loose > tight


@pytest.mark.parametrize("convention", ["monai", "surface-distance"])
def test_what_the_network_says_of_ignored_voxels_changes_no_figure(convention: str) -> None:
    truth = TRUTH.copy()
    truth[:, 4:, :] = 255
    other = LABELS.copy()
    other[truth == 255] = np.random.default_rng(0).integers(0, 4, np.count_nonzero(truth == 255))
    protocol = Protocol(CLASSES, PROTOCOL.regions, convention=convention)
    plain, changed = (measure(truth, labels, SPACING_MM, protocol) for labels in (LABELS, other))
    assert plain.values == changed.values
    np.testing.assert_array_equal(plain.confusion, changed.confusion)


def report(*scores: Measures, protocol: Protocol = PROTOCOL) -> dict:
    return summarise({f"sub-{number + 1}": score for number, score in enumerate(scores)}, protocol)


def test_the_mean_of_hd95_says_which_subjects_it_leaves_out() -> None:
    statistics = report(HIT, SHIFTED, MISSED, ABSENT)["statistics"]
    counted = [HIT.values["hd95_mm"]["ET"], SHIFTED.values["hd95_mm"]["ET"]]
    hd95, overlap = statistics["hd95_mm"]["ET"], statistics["dice"]["ET"]
    assert (hd95["mean"], hd95["sd"]) == pytest.approx((np.mean(counted), np.std(counted, ddof=1)), abs=1e-6)
    assert (hd95["subjects"], hd95["missed"], hd95["absent"]) == (2, 1, 1)
    assert overlap["mean"] == pytest.approx(np.mean([1, SHIFTED.values["dice"]["ET"], 0]), abs=1e-6)
    assert (overlap["subjects"], overlap["missed"], overlap["absent"]) == (3, 0, 1)


@pytest.mark.parametrize("metric", ["dice", "surface_dice", "volume_similarity"])
def test_a_missed_class_scores_zero(metric: str) -> None:
    assert MISSED.values[metric]["ET"] == 0


def test_both_averages_stand_side_by_side_and_leave_regions_out() -> None:
    both = report(SHIFTED, HIT)
    each = np.array([[score.values["dice"][name] for name in CLASSES] for score in (SHIFTED, HIT)])
    assert both["foreground_mean"] == pytest.approx(each[:, 1:].mean(), abs=1e-6)
    assert both["thesis_convention"] == pytest.approx(each.mean(), abs=1e-6)
    assert both["mean"] == pytest.approx(dict(zip(CLASSES, each.mean(0), strict=True)), abs=1e-6)
    assert both["subjects"][0]["foreground_mean"] == pytest.approx(each[0, 1:].mean(), abs=1e-6)
    assert both["statistics"]["foreground_mean"]["mean"] == both["foreground_mean"]


def test_the_confusion_matrix_is_summed_over_subjects() -> None:
    matrix = report(SHIFTED, MISSED)["confusion_matrix"]
    assert matrix["voxels"] == (SHIFTED.confusion + MISSED.confusion).tolist()
    assert matrix["classes"] == CLASSES
    truth_of_et = CLASSES.index("ET")
    assert matrix["voxels"][truth_of_et][CLASSES.index("ED")] > 0
    assert matrix["voxels"][CLASSES.index("ED")][truth_of_et] == 0


def test_two_subjects_have_no_interval_and_three_have_one_around_the_mean() -> None:
    two, three = (report(*scores)["statistics"]["dice"]["ED"] for scores in ((HIT, SHIFTED), (HIT, SHIFTED, MISSED)))
    assert two["interval"] is None
    low, high = three["interval"]
    assert low < three["mean"] < high
    assert report(HIT)["statistics"]["dice"]["ED"]["sd"] is None


def test_a_class_that_no_subject_has_gives_nulls_and_valid_json() -> None:
    text = json.dumps(report(ABSENT, ABSENT, ABSENT), allow_nan=False)
    statistics = json.loads(text)["statistics"]["hd95_mm"]["ET"]
    assert statistics == {"mean": None, "sd": None, "interval": None, "subjects": 0, "absent": 3, "missed": 0}
    assert json.loads(text)["mean"]["ET"] is None


def test_the_csv_has_a_row_per_subject_and_structure_and_tells_missed_from_absent() -> None:
    scores = {"a": MISSED, "b": ABSENT, "c, d": HIT}
    rows = list(csv.DictReader(io.StringIO(as_csv(scores, PROTOCOL))))
    assert [(row["subject"], row["structure"]) for row in rows] == [
        (subject, name) for subject in scores for name in PROTOCOL.structures
    ]
    of = {(row["subject"], row["structure"]): row for row in rows}
    assert of["a", "ET"]["hd95_mm"] == "inf"
    assert [of["b", "ET"][metric] for metric in METRICS] == ["nan"] * 4
    assert (of["c, d", "background"]["hd95_mm"], of["c, d", "background"]["dice"]) == ("", "1.000000")
    for metric in METRICS:
        assert float(of["a", "WT"][metric]) == pytest.approx(MISSED.values[metric]["WT"], abs=1e-6)


def test_regions_are_given_by_the_names_of_their_classes() -> None:
    assert resolve_regions(CLASSES, {"WT": ["NCR", "ED", "ET"], "TC": ["ET", "NCR"]}) == {"WT": (1, 2, 3), "TC": (3, 1)}


def test_a_region_of_an_unknown_class_is_refused() -> None:
    with pytest.raises(UnknownName, match="no class 'NRC'; did you mean 'NCR'"):
        resolve_regions(CLASSES, {"TC": ["NRC", "ET"]})


def test_a_region_with_the_name_of_a_class_is_refused() -> None:
    with pytest.raises(UsageError, match="expected names of regions that no class has, got 'ET'; give the region"):
        resolve_regions(CLASSES, {"ET": ["ET"]})


@pytest.mark.parametrize("tolerance_mm", [-1.0, float("nan"), float("inf")])
def test_a_tolerance_that_is_no_distance_is_refused(tolerance_mm: float) -> None:
    with pytest.raises(UsageError, match="expected a tolerance of the surface Dice from 0 mm up, got"):
        Protocol(CLASSES, tolerance_mm=tolerance_mm)


@pytest.fixture(scope="module")
def segkit() -> Callable[..., str]:
    def run(*words: str | Path) -> str:
        arguments = [str(word) for word in words]
        done = CliRunner().invoke(cli, arguments, obj=fake_registry(), catch_exceptions=False, standalone_mode=False)
        return done.output

    return run


@pytest.fixture(scope="module")
def run_folder(segkit: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the fake network that keeps three subjects to score."""
    folder = tmp_path_factory.mktemp("evaluate")
    make_subjects(folder / "balls", "ball", 4, 1, lambda _: None)
    words = "--model fake --dataset fake --loss fake --sampler fake --epochs 1 --patches-per-epoch 2 --hold-out 3"
    segkit("train", "--data", folder / "balls", "--out", folder / "run", *words.split())
    return folder / "run"


def test_evaluate_writes_scores_csv_beside_scores_json_and_prints_both_tables(
    segkit: Callable[..., str], run_folder: Path
) -> None:
    output = segkit("evaluate", run_folder, "--region", "head = background, ball", "--tolerance-mm", "2")
    for shown in ("foreground mean", "thesis convention", "mean ± SD", "95 % interval", "HD95, mm", "Surfaces at 2 mm"):
        assert shown in output
    scores = json.loads((run_folder / "scores.json").read_text())
    rows = list(csv.DictReader(io.StringIO((run_folder / "scores.csv").read_text())))
    assert (scores["schema"], scores["tolerance_mm"]) == (2, 2)
    assert scores["regions"] == {"head": ["background", "ball"]}
    assert len(rows) == 3 * 3
    assert list(scores["mean"]) == ["background", "ball"]
    assert {row["dice"] for row in rows if row["structure"] == "head"} == {"1.000000"}


@pytest.mark.parametrize("region", ["WT", "=ball", "WT=", "ball"])
def test_evaluate_refuses_a_region_that_it_cannot_read(
    region: str, segkit: Callable[..., str], run_folder: Path
) -> None:
    with pytest.raises(UsageError, match="expected --region NAME=CLASS,CLASS with a NAME of its own, got"):
        segkit("evaluate", run_folder, "--region", region)


def test_evaluate_refuses_two_regions_of_one_name(segkit: Callable[..., str], run_folder: Path) -> None:
    with pytest.raises(UsageError, match="with a NAME of its own, got 'A=background'"):
        segkit("evaluate", run_folder, "--region", "A=ball", "--region", "A=background")
