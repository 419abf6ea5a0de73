"""What `segkit report` promises: every picture is there, and figures.json says what is in it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from segkit.cli import cli
from segkit.dataset import load_input, open_dataset, read_label
from segkit.errors import DataError, UnknownName
from segkit.fakes import fake_registry, make_subjects
from segkit.inference import Tiling, segment_volume
from segkit.inference.torch_engine import TorchEngine
from segkit.metrics import confusion_matrix, dice
from segkit.nifti import write_volume
from segkit.patches import extract_patch
from segkit.registry import Registry, Switches
from segkit.run import Run
from segkit.volume import Volume

Segkit = Callable[..., str]
PICTURES = {
    "dice-curve.png": [62, 64, 66, 68],
    "loss-curve.png": [63, 65, 67, 69],
    "output-volumes.png": [70],
    "predicted-slice.png": [71],
    "sub-volume.png": [72],
    "overlapping.png": [73],
}
UNET = "--model unet3d --option width=2 --option levels=2 --option norm=instance --epochs 2 --patches-per-epoch 3"
VOXELWISE = "--model fake --epochs 1 --patches-per-epoch 2"
THIN = (22, 18, 9)


@pytest.fixture(scope="module")
def registry() -> Registry:
    """What segkit brings, and the fakes: their data set is small."""
    return Registry([*Registry.from_environment(Switches(builtin_only=True)).entries, *fake_registry().entries])


@pytest.fixture(scope="module")
def segkit(registry: Registry) -> Segkit:
    def run(*arguments: str | Path) -> str:
        words = [str(argument) for argument in arguments]
        return CliRunner().invoke(cli, words, obj=registry, catch_exceptions=False, standalone_mode=False).stdout

    return run


def train(segkit: Segkit, data: Path, out: Path, network: str) -> Path:
    fixed = "--dataset fake --patch 16,16,16 --loss cross-entropy --hold-out 1 --overlap 0.25 --device cpu"
    segkit("train", "--data", data, "--out", out, *fixed.split(), *network.split())
    return out


@pytest.fixture(scope="module")
def run_folder(segkit: Segkit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A U-Net on balls in cubes of 24 voxels; ball-1 was held out."""
    folder = tmp_path_factory.mktemp("balls")
    make_subjects(folder / "data", "ball", 3, 0, lambda _: None)
    return train(segkit, folder / "data", folder / "run", UNET)


@pytest.fixture(scope="module")
def found(segkit: Segkit, run_folder: Path) -> dict[str, Any]:
    """What the report of the U-Net prints."""
    return json.loads(segkit("report", run_folder, "--device", "cpu", "--json"))


def figure(found: dict[str, Any], file: str) -> dict[str, Any]:
    return next(one for one in found["figures"] if one["file"] == file)


def opened(registry: Registry, run: Run, name: str) -> tuple[Any, np.ndarray, TorchEngine]:
    dataset = open_dataset(registry.card("dataset", "fake"), run.config.data)
    subject = next(one for one in dataset.subjects if one.id == name)
    head = load_input(subject, run.config.modalities, run.config.preprocessing)
    return head, read_label(subject, run.config.scheme).data, TorchEngine(run.build_network(registry))


def percent(truth: np.ndarray, labels: np.ndarray) -> list[float]:
    return [100 * score for score in dice(confusion_matrix(truth, labels, 2))]


def test_every_picture_is_there_and_listed(found: dict[str, Any], run_folder: Path) -> None:
    assert {one["file"]: one["thesis_figures"] for one in found["figures"]} == PICTURES
    for name in PICTURES:
        assert (run_folder / "figures" / name).read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in (run_folder / "figures").iterdir()} == {*PICTURES, "figures.json"}
    assert json.loads((run_folder / "figures" / "figures.json").read_text()) == found


def test_the_subject_is_the_first_that_was_held_out(found: dict[str, Any], run_folder: Path) -> None:
    assert (found["subject"], found["trained_on"]) == ("ball-1", False)
    assert found["classes"] == ["background", "ball"]
    assert found["weights_sha256"] == Run.open(run_folder).weights_sha256()


def test_the_curves_say_what_metrics_csv_says(found: dict[str, Any], run_folder: Path) -> None:
    rows = list(csv.DictReader((run_folder / "metrics.csv").read_text().splitlines()))
    best = max(rows, key=lambda row: float(row["mean_dice"]))
    curve, losses = figure(found, "dice-curve.png"), figure(found, "loss-curve.png")
    assert curve["epochs"] == losses["epochs"] == 2
    assert curve["best_epoch"] == int(best["epoch"])
    assert curve["best_dice"]["ball"] == pytest.approx(100 * float(best["dice_ball"]), abs=0.01)
    assert losses["last"] == {key: float(rows[-1][key]) for key in ("loss", "validation_loss")}


def test_the_output_volumes_are_the_logits_of_their_patch(
    found: dict[str, Any], run_folder: Path, registry: Registry
) -> None:
    head, _, engine = opened(registry, Run.open(run_folder), "ball-1")
    shown = figure(found, "output-volumes.png")
    logits = engine.run(extract_patch(head.images, shown["corner"], (16, 16, 16))[None])[0]
    assert shown["size"] == [16, 16, 16]
    for name, volume in {"background": logits[0], "ball": logits[1], "largest of all": logits.max(0)}.items():
        at = shown["maxima"][name]
        assert at["logit"] == pytest.approx(float(volume.max()), abs=1e-5)
        x, y, z = (voxel - start for voxel, start in zip(at["voxel"], shown["corner"], strict=True))
        assert volume[x, y, z] == pytest.approx(float(volume.max()), abs=1e-5)
        assert at["voxel"][2] in at["slices"]
        assert np.diff(at["slices"]).tolist() == [1, 1, 1, 1]


def test_the_predicted_slice_is_cut_from_the_segmented_volume(
    found: dict[str, Any], run_folder: Path, registry: Registry
) -> None:
    run = Run.open(run_folder)
    head, truth, engine = opened(registry, run, "ball-1")
    labels = segment_volume(engine, head.images, head.mask, Tiling((16, 16, 16), 0.25))
    shown = figure(found, "predicted-slice.png")
    at = shown["slice"]
    assert (truth[..., at] == 1).sum() == (truth == 1).sum((0, 1)).max()
    assert shown["wrong_voxels"] == (truth[..., at] != labels[..., at]).sum()
    assert list(shown["dice_of_volume"].values()) == pytest.approx(percent(truth, labels), abs=0.01)
    assert list(shown["dice_of_slice"].values()) == pytest.approx(percent(truth[..., at], labels[..., at]), abs=0.01)


def test_the_sub_volume_holds_the_rarest_class(found: dict[str, Any], run_folder: Path, registry: Registry) -> None:
    _, truth, _ = opened(registry, Run.open(run_folder), "ball-1")
    shown = figure(found, "sub-volume.png")
    patch = extract_patch(truth, shown["corner"], (16, 16, 16))
    assert shown["corner"] == figure(found, "output-volumes.png")["corner"]
    assert (patch == 1).sum() > 0.8 * (truth == 1).sum()


def test_four_predictions_meet_in_every_voxel_of_the_combined_slice(found: dict[str, Any]) -> None:
    assert figure(found, "overlapping.png")["predictions_per_voxel"] == {"least": 4, "median": 4, "most": 4}


@pytest.fixture(scope="module")
def thin(tmp_path_factory: pytest.TempPathFactory, segkit: Segkit) -> Path:
    """A voxel-wise network on thick slices, fewer than its patch is high, with voxels that are ignored."""
    folder = tmp_path_factory.mktemp("thin")
    rng = np.random.default_rng(0)
    for number in (1, 2):
        label = np.zeros(THIN, np.uint8)
        label[8:14, 5:12, 3:7] = 10
        label[8:10, 5:12, 3:7] = 99
        image = (100 + 20 * label + rng.normal(0, 10, THIN)).astype(np.int16)
        for name, data in {"T1": image, "label": label}.items():
            write_volume(folder / f"data/ball-{number}/{name}.nii.gz", Volume(data, np.diag([1.0, 1.0, 3.0, 1.0])))
    return train(segkit, folder / "data", folder / "run", VOXELWISE)


@pytest.fixture(scope="module")
def thin_found(thin: Path, segkit: Segkit, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("pictures") / "new"
    printed = segkit("report", thin, "--subject", "ball-2", "--out", out, "--device", "cpu")
    assert printed.startswith(f"6 pictures of ball-2 in {out}")
    assert all((out / name).read_bytes().startswith(b"\x89PNG") for name in PICTURES)
    assert not (thin / "figures").exists()
    return json.loads((out / "figures.json").read_text())


def test_a_subject_that_was_trained_on_is_said_to_be(thin_found: dict[str, Any]) -> None:
    assert (thin_found["subject"], thin_found["trained_on"]) == ("ball-2", True)


def test_a_patch_that_reaches_beyond_the_volume_is_shown_where_the_volume_is(thin_found: dict[str, Any]) -> None:
    assert figure(thin_found, "sub-volume.png")["size"] == [16, 16, 9]
    assert figure(thin_found, "output-volumes.png")["size"] == [16, 16, 9]


def test_ignored_voxels_are_not_wrong(thin_found: dict[str, Any], thin: Path, registry: Registry) -> None:
    head, truth, engine = opened(registry, Run.open(thin), "ball-2")
    at = figure(thin_found, "predicted-slice.png")["slice"]
    labels = segment_volume(engine, head.images, head.mask, Tiling((16, 16, 16), 0.25))
    counted = truth[..., at] != 255
    assert (~counted).sum() == 14
    wrong = (truth[..., at] != labels[..., at]) & counted
    assert figure(thin_found, "predicted-slice.png")["wrong_voxels"] == wrong.sum()


def test_overlap_changes_nothing_for_a_network_that_sees_one_voxel(thin_found: dict[str, Any]) -> None:
    shown = figure(thin_found, "overlapping.png")
    assert shown["differing_voxels"] == 0
    assert shown["combined"] == shown["without_overlap"]
    assert shown["combined"]["dice_of_slice"] == figure(thin_found, "predicted-slice.png")["dice_of_slice"]


def test_an_unknown_subject_gets_a_suggestion_and_leaves_nothing(
    segkit: Segkit, run_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UnknownName, match=r"no labelled subject 'ball-9'; did you mean 'ball-\d'\?"):
        segkit("report", run_folder, "--subject", "ball-9", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_without_an_epoch_is_refused(segkit: Segkit, run_folder: Path, tmp_path: Path) -> None:
    run = Run.create(tmp_path / "new", Run.open(run_folder).config)
    with pytest.raises(DataError, match=r"expected at least one epoch in .*metrics\.csv, found none"):
        segkit("report", run.folder)
    (run.folder / "metrics.csv").write_text((run_folder / "metrics.csv").read_text())
    with pytest.raises(DataError, match=r"expected weights at .*best\.safetensors, found none"):
        segkit("report", run.folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "epoch,loss,mean_dice\n1,0.5,0.5\n",
            "expected the column validation_loss in .*, found epoch, loss, mean_dice",
        ),
        ("epoch,loss\none,0.5\n", "expected the metrics of a run in .*, found: invalid literal"),
        ("epoch,loss\n1\n", "expected the metrics of a run in "),
    ],
    ids=["column", "number", "cut off"],
)
def test_metrics_that_are_not_of_a_run_are_refused(
    segkit: Segkit, run_folder: Path, tmp_path: Path, text: str, message: str
) -> None:
    run = Run.create(tmp_path / "new", Run.open(run_folder).config)
    (run.folder / "metrics.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        segkit("report", run.folder)
