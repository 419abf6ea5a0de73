from __future__ import annotations

import copy
import json
import subprocess
import sys

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from segkit import Registry
from segkit.cards import Size
from segkit.errors import UnknownName, UsageError
from segkit.memory import peak_growth_bytes
from segkit_export import memory_plan
from segkit_export.memory_plan import fit, predict_inference, predict_training

MIB = 2**20
WEIGHTS = 4 * ((1 * 8 * 27 + 8) + (8 * 3 + 3))
"""Bytes of the parameters of `make_network`."""

REAL = """
import json, sys, torch
from segkit.memory import peak_growth_bytes
from segkit.registry import Registry, Switches

purpose, model, options, patch = json.loads(sys.argv[1])
network = Registry.from_environment(Switches(builtin_only=True)).build_model(model, 1, 4, options)
layer = torch.nn.Conv3d(1, 1, 1)
layer(torch.zeros(1, 1, 2, 2, 2)).sum().backward()
torch.optim.AdamW(layer.parameters()).step()  # what torch imports on first use

def train():
    steps = torch.optim.AdamW(network.train().parameters())
    images, target = torch.randn(1, 1, *patch), torch.zeros(1, *patch, dtype=torch.int64)
    for _ in range(2):
        torch.nn.functional.cross_entropy(network(images), target).backward()
        steps.step()
        steps.zero_grad()

def infer():
    with torch.no_grad():
        network.eval()(torch.randn(1, 1, *patch))

print(json.dumps(peak_growth_bytes(train if purpose == "training" else infer)))
"""


def make_network(smallest: int = 1) -> torch.nn.Module:
    class Tiny(torch.nn.Sequential):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if images.shape[2] < smallest:
                raise ValueError("too small")
            return super().forward(images)

    return Tiny(torch.nn.Conv3d(1, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv3d(8, 3, 1)).eval()


def test_training_is_told_by_kind() -> None:
    voxels = 16**3
    predicted = predict_training(make_network(), 1, (16, 16, 16), 2, "sgd")
    assert predicted.weights == WEIGHTS
    assert predicted.optimizer == WEIGHTS
    assert predicted.patches == 2 * voxels * (4 + 8)
    # At the peak, in the backward pass of the last convolution, the output of the ReLU (8 channels) is still kept.
    assert 2 * voxels * 4 * 8 <= predicted.activations < 2 * voxels * 4 * 9
    assert predicted.temporaries >= 2 * voxels * 4 * 8  # its gradient
    kinds = (
        predicted.weights,
        predicted.gradients,
        predicted.activations,
        predicted.optimizer,
        predicted.temporaries,
        predicted.patches,
    )
    assert predicted.total == sum(kinds)


def test_adamw_holds_two_states_for_each_weight() -> None:
    sgd = predict_training(make_network(), 1, (8, 8, 8), 1, "sgd")
    adamw = predict_training(make_network(), 1, (8, 8, 8), 1, "adamw")
    assert 2 * WEIGHTS <= adamw.optimizer <= 2 * WEIGHTS + 64
    assert adamw.activations == sgd.activations


def test_gradients_count_where_weights_outweigh_activations() -> None:
    network = torch.nn.Conv3d(1, 3, 1)
    network.extra = torch.nn.Parameter(torch.zeros(MIB))
    network.register_forward_hook(lambda module, _, out: out + module.extra.sum())
    predicted = predict_training(network, 1, (2, 2, 2), 1, "sgd")
    assert predicted.gradients >= 4 * MIB


def test_inference_holds_less() -> None:
    voxels = 16**3
    predicted = predict_inference(make_network(), 1, (16, 16, 16))
    assert (predicted.gradients, predicted.optimizer) == (0, 0)
    assert predicted.activations == 4 * voxels * 16  # the ReLU's input and output
    assert predicted.total < predict_training(make_network(), 1, (16, 16, 16), 1, "sgd").total


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_one_step_tells_what_torchs_own_tracker_tells_of_two(registry: Registry, optimizer: str) -> None:
    network = registry.build_model("unet3d", 1, 4, {"width": 4, "levels": 2})
    mode, tracker = FakeTensorMode(allow_non_fake_inputs=True), MemTracker()
    twin = copy.deepcopy(network, {id(tensor): mode.from_tensor(tensor) for tensor in network.buffers()})
    for module in twin.modules():
        for name, weights in list(module.named_parameters(recurse=False)):
            setattr(module, name, torch.nn.Parameter(mode.from_tensor(weights.detach())))
    with mode:
        steps = getattr(torch.optim, {"sgd": "SGD", "adamw": "AdamW"}[optimizer])(
            twin.parameters(), 1e-3, **({"momentum": 0.9} if optimizer == "sgd" else {})
        )
        images, target = torch.zeros(1, 1, 16, 16, 16), torch.zeros(1, 16, 16, 16, dtype=torch.int64)
        tracker.track_external(twin, steps, images, target)
        with tracker:
            for _ in range(2):
                torch.nn.functional.cross_entropy(twin(images), target).backward()
                steps.step()
                steps.zero_grad()
                tracker.reset_mod_stats()
    (told,) = tracker.get_tracker_snapshot("peak").values()
    predicted = predict_training(network, 1, (16, 16, 16), 1, optimizer)
    assert predicted.total == told["Total"]


def test_a_batch_costs_the_same_for_each_patch() -> None:
    one, two, five = (predict_training(make_network(), 1, (8, 8, 8), batch, "sgd").total for batch in (1, 2, 5))
    assert five - one == 4 * (two - one)


def test_a_terabyte_is_predicted_in_no_memory() -> None:
    found = []
    grown = peak_growth_bytes(
        lambda: found.append(predict_training(make_network(), 1, (2048, 2048, 2048), 4, "adamw").total)
    )
    assert found[0] > 2**40
    if grown is not None:
        assert grown < 100 * MIB


def test_the_network_is_left_as_it_is() -> None:
    network = make_network()
    before = {name: (id(tensor), tensor.clone()) for name, tensor in network.named_parameters()}
    predict_training(network, 1, (8, 8, 8), 1, "adamw")
    assert not network.training
    for name, tensor in network.named_parameters():
        assert id(tensor) == before[name][0]
        assert torch.equal(tensor, before[name][1])
        assert tensor.grad is None


def test_an_unknown_optimizer_is_refused() -> None:
    with pytest.raises(UnknownName, match="no optimizer 'adam'; did you mean 'adamw'"):
        predict_training(make_network(), 1, (8, 8, 8), 1, "adam")


def test_a_patch_that_the_network_does_not_take_is_refused() -> None:
    with pytest.raises(UsageError, match=r"a network that takes 1 x 8x8x8 voxels, it says: .*choose another --patch"):
        predict_inference(make_network(), 2, (8, 8, 8))


@pytest.mark.parametrize("purpose", ["training", "inference"])
def test_real_steps_take_the_prediction_and_no_more_than_was_seen_before(purpose: str, registry: Registry) -> None:
    case = [purpose, "unet3d", {"width": 8}, [48, 48, 48]]
    done = subprocess.run([sys.executable, "-c", REAL, json.dumps(case)], capture_output=True, text=True, check=True)
    grown = json.loads(done.stdout)
    if grown is None:
        pytest.skip("this system does not tell the memory of a process")
    network = registry.build_model("unet3d", 1, 4, {"width": 8})
    predicted = (
        predict_training(network, 1, (48, 48, 48), 1, "adamw")
        if purpose == "training"
        else predict_inference(network, 1, (48, 48, 48))
    )
    real = grown + predicted.weights  # the network was built before
    assert 0.95 * predicted.total < real < predicted.expected + 128 * MIB


@pytest.mark.parametrize("budget_mib", [1, 3, 20])
@pytest.mark.parametrize("purpose", ["training", "inference"])
def test_the_largest_patch_is_chosen(budget_mib: int, purpose: memory_plan.Purpose) -> None:
    network, budget = make_network(), budget_mib * MIB

    def need(patch: Size, batch: int = 1) -> int:
        if purpose == "training":
            return predict_training(network, 1, patch, batch, "adamw").total
        return predict_inference(network, 1, patch, batch).total

    patch, batch = fit(network, 1, budget, patch=(16, 16, 8), multiple=4, purpose=purpose, bare=True)
    x, y, z = patch
    assert (x == y, x % 4, z % 4) == (True, 0, 0)
    assert abs(z - x / 2) <= 2  # as near to the card's shape as multiples of 4 allow
    assert need(patch, batch) <= budget < need(patch, batch + 1)
    larger = (x + 4, y + 4, 4 * round((x + 4) / 8))
    assert need(larger) > budget


def test_what_a_prediction_leads_to_expect_fits() -> None:
    network, budget = make_network(), 264 * MIB
    patch, batch = fit(network, 1, budget, patch=(16, 16, 16), multiple=2)
    assert predict_training(network, 1, patch, batch, "adamw").expected <= budget
    bare, _ = fit(network, 1, budget, patch=(16, 16, 16), multiple=2, bare=True)
    assert bare > patch


def test_a_batch_takes_what_the_largest_patch_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_plan, "MOST_SIDE", 16)
    network, budget = make_network(), 20 * MIB
    patch, batch = fit(network, 1, budget, patch=(8, 8, 8), multiple=4, bare=True)
    assert patch == (16, 16, 16)
    assert batch > 5
    totals = [predict_training(network, 1, patch, more, "adamw").total for more in (batch, batch + 1)]
    assert totals[0] <= budget < totals[1]


@pytest.mark.parametrize("smallest", [1, 8])
def test_a_budget_below_the_least_patch_is_refused_with_what_it_needs(smallest: int) -> None:
    network = make_network(smallest)
    side = max(4, smallest)
    needed = predict_training(network, 1, (side, side, side), 1, "adamw").expected / MIB
    with pytest.raises(UsageError, match=rf"budget of at least {needed:.0f} MiB, .*{side}x{side}x{side} voxels.*got 0"):
        fit(network, 1, 1000, patch=(16, 16, 16), multiple=4)


def test_patches_too_small_for_the_network_are_no_answer() -> None:
    needed = predict_training(make_network(), 1, (8, 8, 8), 1, "adamw").total
    patch, _ = fit(make_network(8), 1, needed, patch=(16, 16, 16), multiple=4, bare=True)
    assert patch == (8, 8, 8)
    with pytest.raises(UsageError, match="expected a budget of at least"):
        fit(make_network(8), 1, needed - 1, patch=(16, 16, 16), multiple=4, bare=True)
