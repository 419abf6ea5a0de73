from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from segkit import Registry
from segkit.errors import DataError, UnknownName, UsageError
from segkit.preprocess import Preprocessing
from segkit.run import Run
from segkit_export.source import BareOptions, Source, find_target, open_source
from segkit_export.volumes import choose_heads

from .conftest import OPTIONS, PATCH, build_unet

BARE = BareOptions(options=OPTIONS)


def open_bare(registry: Registry, bare: BareOptions = BARE, patch: tuple[int, int, int] | None = PATCH) -> Source:
    return open_source(find_target("unet3d", registry), registry, patch=patch, bare=bare)


def test_a_bare_model_is_untrained_and_has_defaults(registry: Registry) -> None:
    source = open_bare(registry)
    assert not source.weights.trained
    assert (source.modalities, source.channels, source.preprocessing.background) == (("image",), 1, "zero")
    assert [(label.code, label.name) for label in source.labels][:2] == [(0, "background"), (1, "class 1")]
    assert len(source.labels) == 4
    assert (source.spacing, source.run) == (None, None)
    assert not source.network.training
    assert source.origin.model == "segkit3d:unet3d"
    assert source.origin.options == {"width": 4, "levels": 2, "norm": "batch"}
    assert source.origin.parameters == sum(weights.numel() for weights in source.network.parameters())
    assert source.origin.macs > 0
    assert set(source.origin.layers) == set(source.origin.layer_rules)


def test_the_patch_of_a_bare_model_is_the_cards(registry: Registry) -> None:
    assert open_bare(registry, patch=None).tiling.patch == registry.card("model", "unet3d").patch


def test_random_weights_are_the_same_each_time_and_leave_the_generator_alone(registry: Registry) -> None:
    state = torch.random.get_rng_state()
    one, two = open_bare(registry), open_bare(registry)
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, weights in one.network.state_dict().items():
        assert torch.equal(weights, two.network.state_dict()[name])


def test_modalities_and_classes_can_be_chosen(registry: Registry) -> None:
    source = open_bare(registry, BareOptions(modalities=("T1", "FLAIR"), classes=3, options=OPTIONS))
    assert (source.modalities, source.channels, len(source.labels)) == (("T1", "FLAIR"), 2, 3)


def test_a_modality_named_twice_is_refused(registry: Registry) -> None:
    with pytest.raises(UsageError, match="expected each modality once, got T1, T1"):
        open_bare(registry, BareOptions(modalities=("T1", "T1")))


def test_a_patch_that_does_not_fit_is_refused_with_one_that_does(registry: Registry) -> None:
    said = "expected patch sides that are multiples of 2 for unet3d, got 33x12x64; .* for example 34,12,64"
    with pytest.raises(UsageError, match=said):
        open_bare(registry, patch=(33, 12, 64))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("vnat", "no run folder or model 'vnat'; did you mean 'vnet'"),
        ("runs/nowhere", "no run folder or model 'runs/nowhere'; known: densenet3d"),
    ],
)
def test_what_is_neither_run_nor_model_is_an_error_with_a_suggestion(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownName, match=said):
        find_target(name, registry)


def test_a_folder_that_is_no_run_is_told_apart(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected a run in .*, found no config\.json"):
        find_target(str(tmp_path), registry)


def test_a_folder_named_as_a_model_does_not_hide_the_model(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vnet").mkdir()
    monkeypatch.chdir(tmp_path)
    target = find_target("vnet", registry)
    assert (target.run, target.default_out) == (None, Path("vnet.segkit"))


def test_a_run_says_everything_itself(registry: Registry, run: Run) -> None:
    scores = {"weights_sha256": run.weights_sha256(), "mean": {"CSF": 0.9, "GM": 0.85, "WM": None}}
    (run.folder / "scores.json").write_text(json.dumps(scores))
    target = find_target(str(run.folder), registry)
    source = open_source(target, registry)
    assert target.default_out == run.folder / "unet3d.segkit"
    assert source.modalities == ("T1",)
    assert [label.name for label in source.labels] == ["background", "CSF", "GM", "WM"]
    assert source.tiling.patch == (48, 48, 48)
    assert source.spacing is not None
    assert source.spacing.least_mm == (1.9, 1.9, 1.9)
    weights = source.weights
    assert (weights.trained, weights.dataset, weights.sha256) == (True, "phantom", run.weights_sha256())
    assert (weights.train_subjects, weights.held_out_subjects) == (["sub-001", "sub-002"], ["sub-003"])
    assert weights.dice == {"CSF": 0.9, "GM": 0.85}


def test_scores_of_other_weights_are_not_taken(registry: Registry, run: Run) -> None:
    (run.folder / "scores.json").write_text(json.dumps({"weights_sha256": "0" * 64, "mean": {"CSF": 0.9}}))
    assert open_source(find_target(str(run.folder), registry), registry).weights.dice is None


def test_a_run_without_scores_has_no_dice(registry: Registry, run: Run) -> None:
    assert open_source(find_target(str(run.folder), registry), registry).weights.dice is None


def test_scores_that_cannot_be_read_are_an_error(registry: Registry, run: Run) -> None:
    (run.folder / "scores.json").write_text("{}")
    with pytest.raises(DataError, match=r"expected scores with the mean Dice .*scores\.json, found KeyError"):
        open_source(find_target(str(run.folder), registry), registry)


def test_a_run_refuses_what_it_says_itself(registry: Registry, run: Run) -> None:
    with pytest.raises(UsageError, match="leave out --modality"):
        open_source(find_target(str(run.folder), registry), registry, bare=BareOptions(classes=3))


def test_held_out_subjects_are_compared_on_first(registry: Registry, run: Run) -> None:
    source = open_source(find_target(str(run.folder), registry), registry)
    assert [head.name for head in choose_heads(source, registry)] == ["phantom sub-003"]
    assert [head.name for head in choose_heads(source, registry, subjects=2)] == ["phantom sub-003", "phantom sub-001"]


def test_a_head_of_a_run_is_normalised_and_has_the_mask_of_its_brain(registry: Registry, run: Run) -> None:
    source = open_source(find_target(str(run.folder), registry), registry)
    images, mask = choose_heads(source, registry)[0].load()
    assert images.shape == (1, *mask.shape)
    assert 0.05 < mask.mean() < 0.6
    assert abs(float(images[0][mask].mean())) < 1e-3
    assert abs(float(images[0][mask].std()) - 1) < 1e-3


def test_a_run_whose_network_gets_the_mask_has_one_channel_more(registry: Registry, run: Run) -> None:
    masked = Run.create(run.folder, run.config.model_copy(update={"preprocessing": Preprocessing()}))
    save_file(build_unet(registry, channels=2).state_dict(), masked.best)
    source = open_source(find_target(str(masked.folder), registry), registry)
    assert (source.modalities, source.channels) == (("T1",), 2)
    for head in (choose_heads(source, registry)[0], choose_heads(dataclasses.replace(source, run=None), registry)[0]):
        images, mask = head.load()
        assert images.shape == (2, *mask.shape)
        assert np.array_equal(images[1], mask)
        assert not images[0][~mask].any()


def test_data_that_is_gone_is_an_error_that_says_how_to_name_a_copy(
    registry: Registry, run: Run, phantom_folder: Path, tmp_path: Path
) -> None:
    moved = Run.create(run.folder, run.config.model_copy(update={"data": tmp_path / "gone"}))
    source = open_source(find_target(str(moved.folder), registry), registry)
    with pytest.raises(DataError, match=r"expected the data of the run at .*gone, found no folder; name another copy"):
        choose_heads(source, registry)
    copy = tmp_path / "copy"
    shutil.copytree(phantom_folder, copy)
    assert len(choose_heads(source, registry, copy)) == 1


def test_a_bare_model_takes_no_data(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected --verify with a run, got it with the bare model 'unet3d'"):
        choose_heads(open_bare(registry), registry, tmp_path)


def test_a_patch_too_small_for_the_network_is_a_bad_request(registry: Registry) -> None:
    target = find_target("monai-dynunet", registry)
    with pytest.raises(
        UsageError, match=r"expected a patch that monai-dynunet takes, 32x32x32 gives ValueError: .*larger"
    ):
        open_source(target, registry, patch=(32, 32, 32))
