"""The checks of networks find what they promise to find; each network here breaks the contract in one way."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from typing import Any
from unittest import SkipTest

import pytest
import torch
from tests.small_network import GOOD, failures

from segkit.conformance import assert_conforms, assert_model_conforms, checks_for, small_patch
from segkit.conformance.patches import even_patch, minimal_patch, odd_patch
from segkit.errors import PluginError

FORWARD = "self.drop(self.conv(images))"
DROP = "self.drop = nn.Dropout3d()"

BROKEN = {
    "takes one channel only": (
        "Conv3d(in_channels,",
        "Conv3d(1,",
        "",
        "channels",
        "RuntimeError.*build the first convolution for in_channels, or put the only number that works on the card",
    ),
    "always four classes": (
        "classes, 3,",
        "4, 3,",
        "",
        "classes",
        r"expected 2 logits per voxel from .*\(1, 2\), got 4",
    ),
    "loses the border": ("padding=1", "padding=0", "", "size-even", r"got \(1, 2, 6, 8, 10\); pad the convolutions"),
    "fails on odd sizes": (
        FORWARD,
        "self.drop(nn.functional.interpolate(nn.functional.avg_pool3d(self.conv(images), 2), scale_factor=2))",
        "",
        "size-odd",
        r"expected logits \(1, classes, 9, 11, 13\).*got \(1, 2, 8, 10, 12\); pad the convolutions",
    ),
    "half precision": (FORWARD, "self.conv(images).half()", "", "finite", "expected float32 logits, got torch.float16"),
    "softmax at the end": (
        FORWARD,
        "self.conv(images).softmax(1)",
        "",
        "logits",
        "got probabilities.*drop the softmax",
    ),
    "sigmoid at the end": (
        FORWARD,
        "self.conv(images).sigmoid()",
        "",
        "logits",
        "as a sigmoid gives; drop the sigmoid",
    ),
    "not finite": (FORWARD, "self.conv(images) / 0", "", "finite", "expected finite logits"),
    "random in eval mode": (
        FORWARD,
        "self.conv(images) + torch.rand(1)",
        "",
        "deterministic",
        "expected equal logits tw",
    ),
    "dropout that eval mode leaves on": (
        FORWARD,
        "nn.functional.dropout(self.conv(images))",
        "",
        "deterministic",
        r"differ by up to .*training=self.training",
    ),
    "statistics that change in eval mode": (
        FORWARD,
        "self.seen.add_(1) * 0 + self.conv(images)",
        "buffer",
        "deterministic",
        r"got changes in seen; update buffers only where self\.training",
    ),
    "statistics of the batch in eval mode": (
        DROP,
        "self.drop = nn.BatchNorm3d(classes, track_running_stats=False)",
        "",
        "batch",
        "expected a batch of 2 to give what two batches of 1 give.*running statistics",
    ),
    "unregistered tensor": (DROP, "self.drop = torch.rand(1).mul", "", "state", r"with register_buffer, as a buffer"),
    "size that is chosen at random": (
        "__init__()",
        "__init__(); self.extra = nn.Linear(1, int(torch.randint(1, 99, ())))",
        "",
        "state",
        "expected a new network to take the weights of the first, got RuntimeError.*make all parameters and buffers in",
    ),
    "unreached parameter": (
        DROP,
        f"{DROP}; self.extra = nn.Linear(1, 1)",
        "",
        "gradient",
        r"got none on extra\.weight, extra\.bias; use them in forward, drop them",
    ),
    "gradient not finite": (
        FORWARD,
        "self.conv(images) + (self.conv.bias.sum() * 0).sqrt() * 0",
        "",
        "gradient",
        r"expected finite gradients, got NaN or infinity on conv\.bias",
    ),
    "nothing to train": (
        "self.conv(images)",
        "images.repeat(1, 9, 1, 1, 1)[:, : len(self.conv.bias)]",
        "",
        "gradient",
        "expected parameters to train, got none",
    ),
    "several outputs": (FORWARD, "[self.conv(images)]", "", "size-even", "expected one tensor of logits, got list"),
    "several outputs in training": (
        FORWARD,
        "[self.conv(images)] if self.training else self.conv(images)",
        "",
        "gradient",
        "in train mode too, got list",
    ),
    "no module": (
        "class Net(nn.Module):",
        "def Net(*_): return 1\nclass Unused(nn.Module):",
        "",
        "builds",
        "expected an nn.Module .*got int; return the network itself",
    ),
    "cannot be built": (
        "super().__init__()",
        "raise ValueError('no')",
        "",
        "builds",
        r"expected a network from .*:Net\(1, 2\), got ValueError: no; call it so yourself.*come by position",
    ),
    "fails in training": (
        FORWARD,
        "self.conv(images) if not self.training else 1 / 0",
        "",
        "gradient",
        r"got ZeroDivisionError: division by zero; look at line 12 of .*network\.py",
    ),
    "takes two channels at most": (
        "super().__init__()",
        "super().__init__()\n        assert in_channels < 3",
        "",
        "channels",
        r":Net\(3, 4\), got AssertionError",
    ),
    "branch on voxel values": (
        FORWARD,
        "self.conv(images) if images.max() > 0 else -self.conv(images)",
        "",
        "onnx",
        "expected a network that torch can export.*without branches that depend on voxel values",
    ),
    "another way in export": (
        FORWARD,
        "self.conv(images) * (0.5 if torch.compiler.is_exporting() else 1)",
        "",
        "onnx-parity",
        "expected logits in ONNX Runtime within .*look for what tracing froze",
    ),
}


ALSO = {
    "fails on odd sizes": {"size-minimal"},
    "size that is chosen at random": {"gradient"},
}
"""Other checks that fail by the same defect."""


def test_a_good_network_passes_every_check_that_applies(write: Any) -> None:
    outcomes = {check.id: check.run() for check in checks_for(write("conforming"))}
    assert {id_: str(o) for id_, o in outcomes.items() if o.status == "failed"} == {}
    assert {id_ for id_, o in outcomes.items() if o.status == "not applicable"} == {"options"}
    assert {"onnx", "onnx-parity", "tensorrt", "memory"} <= set(outcomes)
    assert outcomes["channels"].found == "1, 2, 3, 4"
    assert outcomes["tensorrt"].found.endswith("not run")


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_network_fails_the_check_that_is_for_it(case: str, write: Any) -> None:
    good, bad, hint, check, message = BROKEN[case]
    assert good in GOOD
    source = GOOD.replace(good, bad)
    if hint == "buffer":
        source = source.replace(DROP, 'self.register_buffer("seen", torch.zeros(1))')
    card = write("broken_" + case.replace(" ", "_"), source)
    only_export = check.startswith("onnx")
    found = failures(card, channels=(1, 2, 3) if "channel" in case else (1,), export=only_export)
    assert check in found, found
    assert re.search(message, found[check]), found[check]
    assert set(found) - {check} <= ALSO.get(case, set()), found


def test_a_fixed_number_of_channels_on_the_card_is_kept(write: Any) -> None:
    card = write("two_channels", GOOD.replace("Conv3d(in_channels", "Conv3d(2"))
    assert failures(replace(card, in_channels=2), export=False) == {}
    assert "mend multiple and in_channels on the card" in failures(card, export=False)["size-even"]


def test_checks_that_need_a_network_that_does_not_build_do_not_apply(write: Any) -> None:
    card = write("no_network", "def Net(in_channels, classes):\n    raise ValueError\n")
    outcomes = {check.id: check.run() for check in checks_for(card)}
    assert outcomes["builds"].status == "failed"
    assert outcomes["volume"].found == "needs the check 'builds' to pass"
    assert outcomes["tensorrt"].found == "needs the check 'builds' to pass"


def test_the_random_state_of_the_caller_is_kept(write: Any) -> None:
    before = torch.get_rng_state()
    assert_model_conforms(write("quiet"), export=False)
    assert torch.equal(before, torch.get_rng_state())


def test_a_check_is_a_test_that_passes_fails_or_is_skipped(write: Any) -> None:
    checks = {check.id: check for check in checks_for(write("as_tests", GOOD.replace("padding=1", "padding=0")))}
    assert str(checks["size-even"]) == "net-size-even"
    checks["card"]()
    with pytest.raises(PluginError, match="pad the convolutions"):
        checks["size-even"]()
    with pytest.raises(SkipTest, match="the card has no options"):
        checks["options"]()


def test_all_that_failed_is_in_one_message_and_what_is_skipped_is_not(write: Any) -> None:
    card = replace(write("twice", GOOD.replace(FORWARD, "self.conv(images).softmax(1)")), licence="not stated")
    with pytest.raises(
        PluginError, match=r"(?s)^the model 'net' breaks the contract of ModelCard:\nlicence: .*\nlogits: "
    ):
        assert_model_conforms(card, channels=[2], export=False)
    assert_conforms(card, channels=[2], export=False, skip=("licence", "logits"))


def test_listing_the_checks_imports_nothing_heavy() -> None:
    code = (
        "import sys; from segkit.conformance import checks_for; from segkit.fakes import fake_registry\n"
        "from segkit.installed import KINDS\n"
        "for kind in KINDS: checks_for(fake_registry().card(kind, 'fake'))\n"
        "print({'torch', 'onnx', 'onnxruntime', 'SimpleITK', 'scipy.ndimage'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize(
    ("multiple", "small", "minimal", "even", "odd"),
    [
        (1, (8, 9, 10), (8, 8, 9), (8, 10, 12), (9, 11, 13)),
        (3, (9, 12, 15), (9, 9, 12), (12, 18, 24), (9, 15, 21)),
        (8, (8, 16, 24), (8, 8, 16), (8, 16, 24), None),
        (16, (16, 32, 48), (16, 16, 32), (16, 32, 48), None),
    ],
)
def test_patches_of_a_multiple(multiple: int, small: Any, minimal: Any, even: Any, odd: Any) -> None:
    patches = small_patch(multiple), minimal_patch(multiple), even_patch(multiple), odd_patch(multiple)
    assert patches == (small, minimal, even, odd)
