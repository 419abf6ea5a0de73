"""Tiles of other sizes than the trained patch: proven, told, and refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from segkit import Registry
from segkit.errors import UsageError
from segkit.inference import Tiling
from segkit.inference.torch_engine import TorchEngine
from segkit.run import Run
from segkit_export import tiles
from segkit_export.cli import export as command
from segkit_export.exporter import Request, export
from segkit_export.reference import Reference, run_reference
from segkit_export.reproof import reprove
from segkit_export.tiles import prove_tiles
from segkit_export.tolerances import TILES
from segkit_export.volumes import Head
from segkit_runtime.bundle import Bundle
from segkit_runtime.choice import choose_ways, open_fastest
from segkit_runtime.manifest import Tolerance

from .test_exporter import request

OTHER = (32, 48, 32)


class Voxelwise(torch.nn.Module):
    """Each voxel by itself: how a volume is cut cannot matter."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.zeros_like(images), images], 1)


class Norm(Voxelwise):
    """Each voxel against the mean of its tile, so that it matters."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images - images.mean((2, 3, 4), keepdim=True))


@pytest.fixture
def head() -> Head:
    """Intensities that rise along x; truth is their upper half."""
    ramp = np.linspace(-1, 1, 24, dtype=np.float32)[:, None, None] * np.ones((24, 20, 22), np.float32)
    return Head("a ramp", lambda: (ramp[None], np.ones(ramp.shape, bool)), lambda: (ramp > 0).astype(np.uint8))


def reference(network: torch.nn.Module, head: Head) -> Reference:
    return run_reference(TorchEngine(network), [head], Tiling((24, 24, 24), 0.0), 2)


def test_where_voxels_do_not_see_each_other_every_size_is_proven(head: Head) -> None:
    made = prove_tiles(TorchEngine(Voxelwise()), reference(Voxelwise(), head), (8, 16, 12))
    assert made.proven
    assert (made.patch, made.label_agreement, made.least_dice, made.dice_difference) == ((8, 16, 12), 1, 1, 0)
    assert made.tolerance == TILES


def test_labels_that_move_with_the_tiles_are_not_proven(head: Head) -> None:
    told = reference(Norm(), head)
    assert prove_tiles(TorchEngine(Norm()), told, (24, 8, 8)).proven  # cut along what is even
    moved = prove_tiles(TorchEngine(Norm()), told, (8, 24, 24))
    assert not moved.proven
    assert moved.label_agreement == pytest.approx(2 / 3, abs=0.01)
    assert moved.dice_difference == pytest.approx(1 / 3, abs=0.02)


@pytest.fixture
def exported(registry: Registry, run: Run, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Exports the run with tiles of another size, which must keep to a share of its labels."""

    def make(least: float) -> Any:
        bound = Tolerance(most_logit_difference=None, least_label_agreement=least, most_dice_difference=1)
        monkeypatch.setattr(tiles, "TILES", bound)
        wanted = Request(name=str(run.folder), dynamic="size", tiles=(OTHER,), overwrite=True)
        return export(wanted, registry)

    return make


def test_what_holds_is_in_the_bundle_and_is_proven_again_with_it(
    exported: Callable[..., Any], registry: Registry, phantom_folder: Path
) -> None:
    done = exported(0.0)
    proofs = Bundle.open(done.bundle.folder).manifest.proofs
    assert {proof.runtime for proof in proofs} >= {"onnxruntime"}
    for proof in proofs:
        (made,) = proof.tiles
        assert made.patch == OTHER
        assert made.proven
        assert 0 < made.label_agreement < 1
        assert made.dice_difference is not None
        assert made.patch_ms is not None
    assert done.warnings == ()
    assert "also with tiles of 32 x 48 x 32 (" in (done.bundle.folder / "card.md").read_text()
    opened = open_fastest(done.bundle, choose_ways(done.bundle.manifest))
    opened.engine.close()
    assert opened.patches == (done.bundle.manifest.inference.patch, OTHER)
    again = reprove(registry, done.bundle.folder, phantom_folder)
    assert [[made.patch for made in proof.tiles] for proof in again.proofs] == [[OTHER]] * (len(proofs) - 1)


def test_what_does_not_hold_is_told_and_left_out(exported: Callable[..., Any]) -> None:
    done = exported(1.0)
    assert all(proof.proven and proof.tiles == [] for proof in done.bundle.manifest.proofs)
    assert len(done.warnings) == len(done.bundle.manifest.proofs)
    assert "onnxruntime in fp32 with tiles of 32x48x32 was not proven: agrees on " in done.warnings[0]
    assert "where at least 100.00% and at most 1 were expected" in done.warnings[0]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tiles": ((24, 24, 24),)}, "expected --dynamic size with --also-patch: else the file takes one size alone"),
        (
            {"tiles": ((24, 24, 23),), "dynamic": "size"},
            "expected patch sides that are multiples of 2 for unet3d, got 24x24x23",
        ),
        ({"tiles": ((16, 16, 16),), "dynamic": "size"}, "expected other sizes with --also-patch, got 16x16x16 twice"),
        ({"tiles": ((24, 24, 24),) * 2, "dynamic": "size"}, "got 24x24x24 twice; leave one of them out"),
    ],
)
def test_sizes_that_the_file_does_not_take_are_refused(
    registry: Registry, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        export(request(tmp_path / "x.segkit", **changes), registry)
    assert list(tmp_path.iterdir()) == []


def test_the_command_takes_several_sizes(registry: Registry, tmp_path: Path) -> None:
    arguments = ["unet3d", "--out", str(tmp_path / "x.segkit"), "--also-patch", "24x24x24", "--also-patch", "8,8,8"]
    with pytest.raises(UsageError, match="expected --dynamic size with --also-patch"):
        CliRunner().invoke(command, arguments, obj=registry, catch_exceptions=False)
