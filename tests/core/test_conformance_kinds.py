"""The checks of losses, samplers, data sets, runtimes and commands; each plugin here breaks its contract in one way."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segkit.cards import Card, CommandCard, DatasetCard, Label, LossCard, RuntimeCard, SamplerCard
from segkit.conformance import checks_for
from segkit.fakes import fake_registry, make_subjects
from segkit.installed import KINDS

LOSS = """
import torch
from torch.nn.functional import cross_entropy

def build():
    def loss(logits, target, ignore):
        total = cross_entropy(logits, target, ignore_index=ignore, reduction="sum")
        return total / (target != ignore).sum().clamp(min=1)
    return loss
"""
SUM = 'cross_entropy(logits, target, ignore_index=ignore, reduction="sum")'
COUNT = "(target != ignore).sum().clamp(min=1)"
CLAMPED = 'cross_entropy(logits, target.clamp(max=2), reduction="sum")'

BROKEN_LOSSES = {
    "one value per voxel": (
        'reduction="sum"',
        'reduction="none"',
        "scalar",
        r"expected a scalar tensor, got a tensor \(2",
    ),
    "a number": ("return loss", "return lambda *given: loss(*given).item()", "scalar", "a scalar tensor, got a float"),
    "not finite": (SUM, f"{SUM} / 0", "scalar", "expected a finite loss, got inf"),
    "no gradient": (SUM, "(logits.detach().argmax(1) != target).sum()", "gradient", "argmax, numpy and .item"),
    "no slope": (SUM, "(logits * 0 + (logits.argmax(1) != target).unsqueeze(1)).sum()", "gradient", "no slope"),
    "divides by nothing": (".clamp(min=1)", "", "extremes", "for ignored voxels alone, got a loss of nan"),
    "counts ignored voxels": (SUM, CLAMPED, "ignored", "change nothing, they move the loss by"),
    "gradient at ignored voxels": (
        SUM,
        f"({SUM} + (x := logits.tanh().sum()) - x.detach())",
        "ignored",
        "expected no gradient at ignored voxels",
    ),
    "wrong sign": (
        SUM,
        f"-{SUM}",
        "better",
        "a lower loss for right classes than for wrong ones.*the sign",
    ),
    "first sample only": (
        SUM,
        SUM.replace("logits,", "logits[:1],").replace("target,", "target[:1],"),
        "order",
        "order",
    ),
    "changes the target": (
        SUM,
        f"(target.__setitem__(target == ignore, 0), {SUM})[1]",
        "unchanged",
        "changes the target in place",
    ),
    "random": (SUM, f"{SUM} * torch.rand(())", "unchanged", "expected the same loss twice"),
}

SAMPLER = """
import numpy as np
import random

class Sampler:
    def __call__(self, subject, patch, rng):
        x, y, z = (int(rng.integers(max(size - side, 0) + 1)) for size, side in zip(subject.shape, patch))
        return x, y, z
"""
CORNER = "return x, y, z"
RNG = "rng.integers("

BROKEN_SAMPLERS = {
    "beyond the edge": ("max(size - side, 0)", "size", "inside", r"expected a corner from \(0, 0, 0\) to \(13, 8, 2\)"),
    "only larger volumes": ("max(size - side, 0)", "(size - side)", "inside", "ValueError"),
    "never the smallest volume": (
        "+ 1)) for",
        "or 1)) if size > side else int(rng.integers(1, 2)) for",
        "inside",
        "segkit pads where the volume is smaller",
    ),
    "numpy numbers": (
        "int(rng.integers(max(size - side, 0) + 1))",
        f"{RNG}max(size - side, 0) + 1)",
        "plain-ints",
        "int64",
    ),
    "a list": (CORNER, "return [x, y, z]", "plain-ints", "expected a tuple of three plain ints, got a list of int"),
    "global numpy": (RNG, "np.random.randint(", "replay", "draw 1 gives"),
    "global numpy beside rng": (
        CORNER,
        "np.random.random(); return x, y, z",
        "global-state",
        "it draws from the global random state",
    ),
    "global random beside rng": (
        CORNER,
        "random.random(); return x, y, z",
        "global-state",
        "it draws from the global random state",
    ),
    "counts its calls": (
        CORNER,
        "Sampler.n = getattr(Sampler, 'n', 0) + 1; return (x if Sampler.n % 3 else 0), y, z",
        "replay",
        "keep nothing between calls",
    ),
    "always the same": (RNG, "min(0, ", "replay", "expected other corners from another random state"),
}

COMMAND = """
import click

@click.command(epilog="Example: segkit hi")
def run():
    "Greet."
"""

BROKEN_COMMANDS = {
    "no example": ('epilog="Example: segkit hi"', "", "example", "expected an example .* of 'segkit hi'.*epilog="),
    "no description": (
        '"Greet."',
        "pass",
        "help",
        "expected help that says what 'segkit hi' does, got a list of options",
    ),
    "no command": ("@click.command", "lambda **_: lambda f: 7  # ", "help", "got a function"),
    "heavy": ("import click", "import click, torch", "help-light", "brings torch; import it inside the function"),
}

ENGINE = """
import torch

class Engine:
    runtime, version, device, precision, batch = "mine", "1", "cpu", "fp32", 1

    def __init__(self, network, *, device, threads):
        self.network = network

    def run(self, patches):
        with torch.no_grad():
            return self.network(torch.from_numpy(patches)).numpy()

    def close(self):
        self.network = None
"""

BROKEN_ENGINES = {
    "another precision": (".numpy()", ".half().float().numpy()", "computes", "logits of the reference, they differ by"),
    "double precision": (".numpy()", ".double().numpy()", "computes", "expected float32 logits .* got float64"),
    "without the batch": (".numpy()", ".numpy()[0]", "computes", r"got float32 \(3, 6, 5, 4\)"),
    "runs once": (
        "return",
        "network, self.network = self.network, None\n            return network and",
        "computes",
        "",
    ),
    "silent on precision": ('"fp32"', "None", "says", "expected the engine to say its precision as text, got None"),
    "no batch": ('"fp32", 1', '"fp32", 0', "says", "got batch=0; set batch = 1"),
    "closes once": ("self.network = None", "del self.network", "close", "AttributeError"),
}


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`write(name, source)` writes a module that can be imported."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def module(prefix: str, case: str, source: str) -> str:
        name = f"{prefix}_{case.replace(' ', '_').replace('-', '_')}"
        (tmp_path / f"{name}.py").write_text(source)
        return name

    return module


def failures(card: Card, **settings: Any) -> dict[str, str]:
    """What fails, and why; the plugin module is another than that of the factory, which may import torch."""
    checks = checks_for(card, plugin="segkit.hookspecs", **settings)
    return {check.id: str(check.run()) for check in checks if check.run().status == "failed"}


def assert_caught(found: dict[str, str], check: str, message: str) -> None:
    assert check in found, found
    assert re.search(message, found[check]), found[check]


@pytest.mark.parametrize("kind", KINDS)
def test_the_fake_of_a_kind_conforms(kind: Any) -> None:
    card = fake_registry().card(kind, "fake")
    outcomes = {check.id: check.run() for check in checks_for(card, plugin="segkit.fakes")}
    assert {id_: str(o) for id_, o in outcomes.items() if o.status != "passed"} in (
        {},
        {"options": "the card has no options"},
    )
    assert len(outcomes) >= 5


@pytest.mark.parametrize("case", BROKEN_LOSSES)
def test_a_broken_loss_fails_the_check_that_is_for_it(case: str, write: Any) -> None:
    good, bad, check, message = BROKEN_LOSSES[case]
    assert good in LOSS
    name = write("loss", case, LOSS.replace(good, bad))
    assert_caught(failures(LossCard(name="mine", factory=f"{name}:build", summary="a loss")), check, message)


def test_a_loss_gets_class_shares_and_its_weight_map_as_in_training(write: Any) -> None:
    source = LOSS.replace("build()", "build(class_shares)").replace("ignore):", "ignore, weights):")
    source = source.replace("    def loss", "    assert abs(sum(class_shares) - 1) < 1e-6\n    def loss")
    weighted = SUM.replace("sum", "none") + ".mul(weights).sum() / weights.sum()"
    source = source.replace(SUM, weighted).replace(f" / {COUNT}", "")
    maps = "\nimport numpy as np\ndef weigh(label, spacing_mm):\n    return 1 + (label == 1).astype(np.float32)\n"
    name = write("loss", "weighted", source + maps)
    card = LossCard(
        name="mine", factory=f"{name}:build", summary="a loss", class_shares=True, weight_map=f"{name}:weigh"
    )
    assert failures(card) == {}
    bad = write("loss", "wrong map", source + maps.replace(".astype(np.float32)", ""))
    broken = replace(card, factory=f"{bad}:build", weight_map=f"{bad}:weigh")
    assert "expected a weight map of finite float32 numbers (16, 16, 16), got int64" in failures(broken)["scalar"]


@pytest.mark.parametrize("case", BROKEN_SAMPLERS)
def test_a_broken_sampler_fails_the_check_that_is_for_it(case: str, write: Any) -> None:
    good, bad, check, message = BROKEN_SAMPLERS[case]
    assert good in SAMPLER
    name = write("sampler", case, SAMPLER.replace(good, bad))
    assert_caught(failures(SamplerCard(name="mine", factory=f"{name}:Sampler", summary="a sampler")), check, message)


def test_checking_a_sampler_leaves_the_global_random_state_as_it_was() -> None:
    before = np.random.get_state()
    assert failures(fake_registry().card("sampler", "fake")) == {}
    after = np.random.get_state()
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("case", BROKEN_ENGINES)
def test_a_broken_runtime_fails_the_check_that_is_for_it(case: str, write: Any) -> None:
    good, bad, check, message = BROKEN_ENGINES[case]
    assert good in ENGINE
    name = write("engine", case, ENGINE.replace(good, bad))
    card = RuntimeCard(
        name="mine", factory=f"{name}:Engine", summary="an engine", module="torch", extra="train", takes="network"
    )
    assert_caught(failures(card), check, message)


def test_a_runtime_whose_module_is_not_installed_is_not_run(write: Any) -> None:
    name = write("engine", "absent", ENGINE)
    card = RuntimeCard(name="mine", factory=f"{name}:Engine", summary="an engine", module="acme_gpu", extra="acme")
    outcomes = {check.id: check.run() for check in checks_for(card, plugin="segkit.hookspecs")}
    assert outcomes["computes"].status == "not applicable"
    assert outcomes["computes"].found.startswith("the module acme_gpu is not installed")


@pytest.mark.parametrize("case", BROKEN_COMMANDS)
def test_a_broken_command_fails_the_check_that_is_for_it(case: str, write: Any) -> None:
    good, bad, check, message = BROKEN_COMMANDS[case]
    assert good in COMMAND
    name = write("command", case, COMMAND.replace(good, bad))
    assert_caught(failures(CommandCard(name="hi", factory=f"{name}:run", summary="greet")), check, message)


def test_sub_commands_need_an_example_too(write: Any) -> None:
    source = 'import click\n\n@click.group()\ndef run():\n    "More."\n\n@run.command()\ndef inner():\n    "Go in."\n'
    card = CommandCard(name="hi", factory=f"{write('command', 'group', source)}:run", summary="greet")
    assert "of the help of 'segkit hi inner', got none" in failures(card)["example"]


FAKE = fake_registry().card("dataset", "fake")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": (Label(code=0, name="a"), Label(code=0, name="b"))}, "each label code once, got 0 twice"),
        ({"labels": (Label(code=0, name="a"), Label(code=1, name="a"))}, "each label name once, got 'a' twice"),
        ({"ignored": (10,)}, "each label code once, got 10 twice"),
        ({"labels": FAKE.labels[:1]}, "expected background and at least one class, got 1 label"),
        ({"presets": {}}, "expected make and presets together"),
    ],
)
def test_a_card_of_a_data_set_that_contradicts_itself_fails(changes: Any, message: str) -> None:
    assert message in failures(replace(FAKE, **changes))["card"]


def test_a_data_set_that_cannot_be_made_needs_a_folder(tmp_path: Path) -> None:
    card = replace(FAKE, make=None, presets={})
    outcomes = {check.id: check.run() for check in checks_for(card)}
    assert outcomes["empty"].found.startswith("refused: expected subjects of the data set 'fake' in FOLDER")
    assert outcomes["subjects"].found == "the data set cannot be made here; name a folder of it with --data"
    make_subjects(tmp_path, "ball", 3, 1, lambda _: None)
    outcomes = {check.id: check.run() for check in checks_for(card, data=tmp_path)}
    assert outcomes["subjects"].found == "3 subjects, 3 with labels, T1"
    assert outcomes["labels"].found == "0 background, 10 ball"
    assert outcomes["geometry"].found == "images of 24x24x24"


@pytest.mark.parametrize(
    ("changes", "check", "message"),
    [
        ({"labels": (*FAKE.labels[:1], Label(code=11, name="ball"))}, "labels", "list every code on the card"),
        ({"labels": (*FAKE.labels, Label(code=20, name="cube"))}, "labels", "in some label file, cube is in none"),
        ({"labels": ()}, "labels", "expected background and at least one class for label files, got 0 in all"),
        ({"factory": "MODULE:missing"}, "subjects", "expected files that are there, a T1 is none: /nowhere/T1.nii.gz"),
        ({"factory": "MODULE:one_less"}, "subjects", "expected the 2 subjects that were made, found 1"),
        ({"factory": "MODULE:always"}, "empty", "expected no subjects in an empty folder, got a"),
        ({"make": "MODULE:make"}, "make", "expected make to give the same files from seed 1"),
        ({"make": "MODULE:shifted"}, "geometry", "ball-1: "),
    ],
)
def test_a_broken_data_set_fails_the_check_that_is_for_it(changes: Any, check: str, message: str, write: Any) -> None:
    source = """
import random
from pathlib import Path
from segkit import Subject, Volume, read_volume, write_volume
from segkit.fakes import find_subjects, make_subjects

def missing(root):
    return [Subject(id="a", images={"T1": Path("/nowhere/T1.nii.gz")})]

def always(root):
    return [Subject(id="a", images={"T1": Path(__file__)})]

def one_less(root):
    return find_subjects(root)[1:]

def make(root, preset, subjects, seed, progress):
    make_subjects(root, preset, subjects, random.randrange(10**6), progress)

def shifted(root, preset, subjects, seed, progress):
    make_subjects(root, preset, subjects, seed, progress)
    for path in Path(root).glob("*/label.nii.gz"):
        label = read_volume(path)
        affine = label.affine.copy()
        affine[0, 3] += 5
        write_volume(path, Volume(label.data, affine))
"""
    name = write("data", re.sub(r"\W", "_", message), source)
    card: DatasetCard = replace(
        FAKE, **{k: v.replace("MODULE", name) if isinstance(v, str) else v for k, v in changes.items()}
    )
    assert_caught(failures(card), check, re.escape(message))
