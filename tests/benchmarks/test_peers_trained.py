"""`segkit bench peers --run`: all sides take the weights of a run, and segkit runs in int8 where that is proven."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from segkit import Registry
from segkit.cli import cli
from segkit.errors import DataError, UsageError
from segkit.preprocess import Preprocessing
from segkit.run import Run
from segkit_benchmarks.peers import bench, command, contenders, runs, work
from segkit_benchmarks.peers.work import Case, Net, Work
from segkit_runtime.bundle import Bundle

NET = Net(model="unet3d-residual", options={"width": 4}, channels=2, patch=(32, 32, 32), cases=())


@pytest.fixture(scope="module")
def trained(phantom_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few steps, which is enough for int8 to hold."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    words = (
        "train --model unet3d-residual --option width=4 --dataset phantom --patch 32,32,32 --background zero "
        "--epochs 1 --patches-per-epoch 30 --learning-rate 5e-3 --validation-patches 1 --overlap 0 --seed 3"
    )
    answer = CliRunner().invoke(
        cli, [*words.split(), "--data", str(phantom_folder), "--out", str(folder)], catch_exceptions=False
    )
    assert answer.exit_code == 0, answer.output
    return folder


def test_a_trained_network_runs_in_int8_beside_others_with_its_weights_and_its_proof_is_told(
    registry: Registry, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = replace(NET, cases=(Case("stripped", 0, (work.OPENVINO, work.OPENVINO_INT8, work.TORCH)),))
    monkeypatch.setattr(command, "QUICK", Work(nets=(net,), preset="mini"))
    words = f"--quick --rounds 1 --threads 1 --only torch --part volume --run {trained} --out {tmp_path}"
    answer = CliRunner().invoke(command.peers, words.split(), obj=registry, catch_exceptions=False)
    assert answer.exit_code == 0, answer.output
    found = json.loads((tmp_path / "peers.json").read_text())
    (part,), (told,) = found["volumes"], found["networks"]
    rows = {row["side"]: row for row in part["rows"]}
    assert rows[work.OPENVINO]["same_labels"] > 0.999
    assert 0.95 < rows[work.OPENVINO_INT8]["same_labels"] < 1  # it computes in less precision, and nearly the same
    assert part["int8"]["label_agreement"] >= part["int8"]["tolerance"]["least_label_agreement"] == 0.99
    assert part["int8"]["dice_difference"] <= part["int8"]["tolerance"]["most_dice_difference"] == 0.005
    assert told["run"]["data"] == "segkit data make phantom DATA --preset mini --subjects 3 --seed 5"
    assert told["run"]["train"] == (
        "segkit train --model unet3d-residual --option width=4 --dataset phantom --data DATA --patch 32,32,32 "
        "--background zero --hold-out 1 --learning-rate 0.005 --seed 3 --epochs 1 --patches-per-epoch 30 "
        "--validation-patches 1 --overlap 0 --out RUN"
    )
    page_text = (tmp_path / "peers.md").read_text()
    assert f"- int8 on OpenVINO was proven with tiles that overlap by 0, on {part['int8']['volumes'][0]}: " in page_text
    assert told["run"]["train"] in page_text


def test_a_run_whose_int8_does_not_hold_goes_without_it_and_says_why(
    registry: Registry, trained: Path, tmp_path: Path
) -> None:
    run = Run.open(trained)
    config = run.config.model_copy(update={"patch": (48, 48, 48)})
    bad = Run.create(tmp_path / "bad", config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_file(registry.build_model("unet3d-residual", 2, 4, config.options).state_dict(), bad.best)
    net = replace(NET, patch=config.patch)
    made = bench.Bench(
        registry=Registry(registry.entries, registry.switches),
        chosen=contenders.choose(["torch"], None, []),
        work=Work(nets=(net,), preset="mini"),
        runs={net.model: bad},
        mend=False,
        folder=tmp_path,
        found={"threads": 1},
        save=lambda: None,
        show=lambda name: None,
    )
    int8 = made._export(net, 0, always=True)
    assert int8["proof"] is None
    assert "openvino in int8 was not proven: expected openvino in int8 to do what torch does" in int8["why_not"]
    proofs = Bundle.open(work.bundle_path(tmp_path, net.model, 0)).manifest.proofs
    assert {proof.precision for proof in proofs} == {"fp32"}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"options": {"width": 8}}, r"expected the options width 4 in a run of unet3d-residual, got width 8"),
        ({"patch": (64, 32, 32)}, r"expected the patch 32x32x32 in a run of unet3d-residual, got 64x32x32"),
        ({"modalities": ("T1",)}, r"expected the modalities T1, T2 in a run of unet3d-residual, got T1"),
        ({"preprocessing": Preprocessing(background="mask")}, r"expected the background zero .*--background zero"),
        ({"dataset": "segkit3d:ixi"}, r"expected the data set segkit3d:phantom .*got segkit3d:ixi"),
        ({"model": "segkit3d:vnet"}, r"expected a run of unet3d-residual, got segkit3d:vnet"),
    ],
)
def test_a_run_that_is_not_of_the_measured_network_is_refused(
    registry: Registry, trained: Path, tmp_path: Path, changed: Mapping[str, Any], message: str
) -> None:
    other = Run.create(tmp_path / "other", Run.open(trained).config.model_copy(update=dict(changed)))
    with pytest.raises(UsageError, match=message):
        runs.match_runs([other.folder], Work(nets=(NET,), preset="mini"), registry)


def test_two_runs_of_a_network_and_one_without_weights_or_data_are_refused(
    registry: Registry, trained: Path, tmp_path: Path
) -> None:
    tiny = Work(nets=(NET,), preset="mini")
    with pytest.raises(UsageError, match=r"expected one run of unet3d-residual, got .*run and .*run"):
        runs.match_runs([trained, trained], tiny, registry)
    config = Run.open(trained).config
    with pytest.raises(DataError, match=r"expected weights at .*best.safetensors, found none"):
        runs.match_runs([Run.create(tmp_path / "begun", config).folder], tiny, registry)
    moved = Run.create(tmp_path / "moved", config.model_copy(update={"data": tmp_path / "gone"}))
    moved.best.write_bytes(Run.open(trained).best.read_bytes())
    with pytest.raises(DataError, match=r"expected the data of the run at .*gone, found no folder"):
        runs.match_runs([moved.folder], tiny, registry)
