"""A budget of memory: what does not fit is refused before it is taken, and the prediction holds."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from segkit.errors import UsageError
from segkit.memory import held_bytes
from segkit_runtime import load
from segkit_runtime.manifest import TileProof

needs_proc = pytest.mark.skipif(held_bytes() is None, reason="needs Linux: /proc/self/status")

RUN = """
import json, sys
from segkit_runtime import load
bundle, runtime, t1, t2 = sys.argv[1:]
with load(bundle, runtime, budget="1GiB", threads=1) as net:
    print(json.dumps(net.segment({"T1": t1, "T2": t2}).report()))
"""


@needs_proc
@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("overlap", [0, 0.5])
def test_the_peak_stays_below_what_was_predicted(
    make_bundle: Callable,
    save_head: Callable,
    affine: np.ndarray,
    tmp_path: Path,
    runtime: str,
    overlap: float,
) -> None:
    """In a process of its own, with a volume that outweighs the libraries' own ups and downs."""
    inside = np.zeros((240, 240, 240), np.int16)
    inside[100:130, 110:140, 90:120] = 9
    inside[0, 0, 0] = inside[-1, -1, -1] = 5  # the box is all of it
    head = save_head(tmp_path / "large", {"T1": inside, "T2": 2 * inside}, affine)
    bundle = make_bundle(inference={"patch": (32, 32, 32), "overlap": overlap, "blending": "constant"})
    command = [sys.executable, "-c", RUN, str(bundle), runtime, str(head["T1"]), str(head["T2"])]
    report = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert report["peak_mib"] < report["predicted_peak_mib"] < 1.5 * report["peak_mib"]
    assert report["warnings"] == []


@needs_proc
def test_a_volume_that_does_not_fit_is_refused_before_its_voxels_are_read(
    bundle: Path, save_head: Callable, affine: np.ndarray, tmp_path: Path
) -> None:
    voxels = np.zeros((400, 400, 400), np.uint8)
    head = save_head(tmp_path / "large", {"T1": voxels, "T2": voxels}, affine)
    for path in head.values():
        path.write_bytes(path.read_bytes()[:2000])  # whoever reads on finds that it ends early
    with (
        load(bundle, budget=held_bytes() + 2**27) as segmenter,
        pytest.raises(UsageError, match=r"expected a volume that is segmented within .* MiB, this one takes .*GiB"),
    ):
        segmenter.segment(head)


@needs_proc
def test_of_the_proven_patches_those_are_taken_that_fit(
    make_bundle: Callable, make_proof: Callable, head: dict[str, Path]
) -> None:
    tolerance = make_proof("openvino").tolerance
    tiles = [
        TileProof(patch=(side,) * 3, label_agreement=1, least_dice=1, patch_ms=1, tolerance=tolerance, proven=proven)
        for side, proven in ((16, True), (8, False))
    ]
    bundle = make_bundle(
        inference={"patch": (256, 256, 256), "overlap": 0, "blending": "constant"},
        proofs=[make_proof("openvino", tiles=tiles)],
    )
    budget = held_bytes() + 100 * 2**20
    with load(bundle, "openvino", budget=budget) as segmenter:
        result = segmenter.segment(head)
    assert result.report()["patch"] == [16, 16, 16]
    assert held_bytes() < budget


@needs_proc
def test_a_network_that_does_not_fit_is_refused(bundle: Path) -> None:
    with pytest.raises(UsageError, match=r"expected a way to run .*runs within 1 MiB, openvino in fp32 holds"):
        load(bundle, budget="1MiB")


@needs_proc
@pytest.mark.parametrize(
    ("budget", "words"), [("4", "expected a size with its unit"), (0, "expected a budget above zero")]
)
def test_what_is_no_budget_is_refused(bundle: Path, budget: str | int, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        load(bundle, budget=budget)


def test_without_a_budget_nothing_is_predicted(bundle: Path, head: dict[str, Path]) -> None:
    with load(bundle) as segmenter:
        assert segmenter.segment(head).predicted_peak_mib is None


def test_a_system_that_does_not_tell_memory_has_no_budget(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segkit_runtime.budget.held_bytes", lambda: None)
    with pytest.raises(UsageError, match="expected a system that tells the memory of a process"):
        load(bundle, budget="4GiB")
