"""`segkit export --resample-to`: the bundle brings images of other voxel sizes to those that it was trained on."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from click import BadParameter
from click.testing import CliRunner

from segkit import Registry
from segkit.errors import UsageError
from segkit.run import Run
from segkit_export.cli import export
from segkit_runtime import load
from segkit_runtime.bundle import Bundle


def invoke(registry: Registry, *arguments: str | Path) -> None:
    result = CliRunner().invoke(export, [str(part) for part in arguments], obj=registry, catch_exceptions=False)
    assert result.exit_code == 0, result.output


def test_a_bundle_that_resamples_segments_voxels_of_any_size_on_their_own_grid(
    registry: Registry, run: Run, tmp_path: Path
) -> None:
    small = ("--patch", "16,16,16")
    invoke(registry, run.folder, "--resample-to", "2x2x1.95", *small, "--out", tmp_path / "x.segkit")
    manifest = Bundle.open(tmp_path / "x.segkit").manifest
    assert manifest.resample_mm == (2, 2, 1.95)
    assert (
        "1.9 x 1.9 x 1.9 to 2.1 x 2.1 x 2.1 mm; others are resampled to 2 x 2 x 1.95 mm"
        in (tmp_path / "x.segkit" / "card.md").read_text()
    )
    image = np.random.default_rng(0).integers(1, 200, (13, 14, 12)).astype(np.int16)
    nib.Nifti1Image(image, np.diag([2.5, 2.5, 3, 1])).to_filename(tmp_path / "t1.nii.gz")
    with load(tmp_path / "x.segkit") as segmenter:
        result = segmenter.segment({"T1": tmp_path / "t1.nii.gz"})
    assert result.labels.shape == (13, 14, 12)
    assert "the images were resampled from 2.5x2.5x3 to 2x2x1.95 mm for the network, and its labels back" in (
        result.warnings
    )


def test_voxels_that_the_network_was_not_trained_on_are_refused(registry: Registry, run: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"expected voxels to resample to that the network was trained on, .*9x9x9"):
        invoke(registry, run.folder, "--resample-to", "9,9,9", "--out", tmp_path / "x.segkit")
    assert not (tmp_path / "x.segkit").exists()


def test_a_bare_network_knows_no_voxel_size(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected a trained network with --resample-to, unet3d was trained on no"):
        invoke(registry, "unet3d", "--resample-to", "1x1x1", "--patch", "16,16,16", "--out", tmp_path / "x.segkit")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["1,1", "1,1,0", "1,1,nan", "a,b,c", "1,1,1,1", "1,inf,1"])
def test_what_is_no_voxel_size_is_refused(registry: Registry, text: str) -> None:
    arguments = ["unet3d", "--resample-to", text]
    with pytest.raises(BadParameter, match=r"expected three voxel sizes in mm such as 1,1,1, got"):
        export.main(arguments, obj=registry, standalone_mode=False)
