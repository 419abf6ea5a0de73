"""The shipped check finds what it promises to find; each network here breaks the contract in one way."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from segkit import ModelCard
from segkit.conformance import assert_model_conforms, check_model, small_patch
from segkit.errors import PluginError

GOOD = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, in_channels, classes):
        super().__init__()
        self.conv = nn.Conv3d(in_channels, classes, 3, padding=1)
        self.drop = nn.Dropout3d()

    def forward(self, images):
        return self.drop(self.conv(images))
"""

BROKEN = {
    "takes one channel only": ("Conv3d(in_channels,", "Conv3d(1,", "got RuntimeError: .*expected input"),
    "always four classes": ("classes, 3,", "4, 3,", r"expected logits \(1, 2, 8, 9, 10\).*got \(1, 4, 8, 9, 10\)"),
    "loses the border": ("padding=1", "padding=0", r"got \(1, 2, 6, 7, 8\); pad the convolutions"),
    "half precision": (
        "self.drop(self.conv(images))",
        "self.conv(images).half()",
        "expected float32 logits, got torch.float16",
    ),
    "random in eval mode": ("self.drop(self.conv(images))", "self.conv(images) + torch.rand(1)", "twice in eval mode"),
    "unregistered tensor": ("self.drop = nn.Dropout3d()", "self.drop = torch.rand(1).mul", "from the same state dict"),
    "unreached parameter": (
        "self.drop = nn.Dropout3d()",
        "self.drop = nn.Dropout3d(); self.extra = nn.Linear(1, 1)",
        r"got none on extra\.weight, extra\.bias",
    ),
    "not finite": ("self.drop(self.conv(images))", "self.conv(images) / 0", "expected finite logits"),
    "gradient not finite": (
        "self.drop(self.conv(images))",
        "self.conv(images) + (self.conv.bias.sum() * 0).sqrt() * 0",
        "expected finite gradients",
    ),
    "nothing to train": (
        "self.conv(images)",
        "images.repeat(1, 9, 1, 1, 1)[:, : len(self.conv.bias)]",
        "expected parameters to train, got none",
    ),
    "several outputs": (
        "self.drop(self.conv(images))",
        "[self.conv(images)]",
        "expected one tensor of logits, got list",
    ),
    "no module": (
        "class Net(nn.Module):",
        "def Net(*_): return 1\nclass Unused(nn.Module):",
        "expected an nn.Module .*got int",
    ),
    "cannot be built": (
        "super().__init__()",
        "raise ValueError('no')",
        "got ValueError: no; try .*:Net with 1 channels",
    ),
}


def plugin(folder: Path, name: str, network: str, top: str = "") -> ModelCard:
    """Write a plugin of two modules and return its card."""
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(top)
    (folder / name / "network.py").write_text(network)
    return ModelCard(name="net", factory=f"{name}.network:Net", summary="", patch=(8, 8, 8))


def test_a_good_network_has_no_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    assert check_model(plugin(tmp_path, "conforming", GOOD)) == []


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_network_is_named(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    good, bad, message = BROKEN[case]
    assert good in GOOD
    card = plugin(tmp_path, "broken_" + case.replace(" ", "_"), GOOD.replace(good, bad))
    with pytest.raises(PluginError, match=message):
        assert_model_conforms(card)


def test_a_fixed_number_of_channels_on_the_card_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    card = plugin(tmp_path, "two_channels", GOOD.replace("Conv3d(in_channels", "Conv3d(2"))
    fixed = ModelCard(name="net", factory=card.factory, summary="", patch=(8, 8, 8), in_channels=2)
    assert check_model(fixed) == []
    assert {line.split(":")[0] for line in check_model(card)} == {f"with {n} input channels" for n in (1, 3, 4)}


def test_a_plugin_module_that_imports_torch_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    card = plugin(tmp_path, "eager", GOOD, top="import torch.nn")
    with pytest.raises(PluginError, match="expected the module eager to import nothing heavy, got torch"):
        assert_model_conforms(card)


def test_a_plugin_module_that_cannot_be_imported_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (problem,) = check_model(plugin(tmp_path, "elsewhere", GOOD), plugin="no_such_module")
    assert "ModuleNotFoundError: No module named 'no_such_module'; run: python -c" in problem


def test_the_random_state_of_the_caller_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    before = torch.get_rng_state()
    check_model(plugin(tmp_path, "quiet", GOOD))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("multiple", "patch"), [(1, (8, 9, 10)), (3, (9, 12, 15)), (8, (8, 16, 24)), (16, (16, 32, 48))]
)
def test_small_patch(multiple: int, patch: tuple[int, int, int]) -> None:
    assert small_patch(multiple) == patch
