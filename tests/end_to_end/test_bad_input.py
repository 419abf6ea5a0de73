"""Bad input: one clear line, exit code 2, and nothing half-written."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
import pytest

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Job, Outcome, Segkit


def refused(done: Outcome, message: str) -> None:
    lines = [line for line in done.err.splitlines() if line.strip()]
    assert done.code == 2, done.err
    assert lines[-1].startswith("error: "), done.err
    assert sum(line.startswith("error: ") for line in lines) == 1
    assert message in lines[-1]
    assert "Traceback" not in done.err


def other_grid(image: nib.Nifti1Image) -> nib.Nifti1Image:
    return nib.Nifti1Image(np.asarray(image.dataobj)[:-1], image.affine)


def moved(image: nib.Nifti1Image) -> nib.Nifti1Image:
    affine = image.affine.copy()
    affine[0, 3] += 5
    return nib.Nifti1Image(np.asarray(image.dataobj), affine)


def four_d(image: nib.Nifti1Image) -> nib.Nifti1Image:
    return nib.Nifti1Image(np.stack([np.asarray(image.dataobj)] * 2, axis=-1), image.affine)


def with_nan(image: nib.Nifti1Image) -> nib.Nifti1Image:
    data = np.asarray(image.dataobj, np.float32).copy()
    data[40, 40, 40] = np.nan
    return nib.Nifti1Image(data, image.affine)


def all_zero(image: nib.Nifti1Image) -> nib.Nifti1Image:
    return nib.Nifti1Image(np.zeros(image.shape, np.int16), image.affine)


def zero_spacing(image: nib.Nifti1Image) -> nib.Nifti1Image:
    copy = nib.Nifti1Image(np.asarray(image.dataobj), image.affine)
    copy.header["pixdim"][2] = 0
    return copy


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_grid, "expected T2 on the grid of T1 80x96x80, found 79x96x80"),
        (moved, "expected T2 on the grid of T1, found their corners 5.00 mm apart"),
        (four_d, "expected a 3D image"),
        (with_nan, "found 1 of 614,400 NaN or infinite"),
        (all_zero, "found zeros only"),
        (zero_spacing, "expected voxel sizes above 0 mm"),
    ],
)
def test_segment_refuses_a_bad_volume(
    change: Callable[[nib.Nifti1Image], nib.Nifti1Image], message: str, job: Job, segkit: Segkit, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.nii"
    bad.write_bytes(change(nib.load(job.data / "sub-001" / "T2.nii.gz")).to_bytes())
    out = tmp_path / "out" / "seg.nii.gz"
    t1 = job.data / "sub-001" / "T1.nii.gz"
    refused(segkit(f"segment {job.bundle} --modality T1={t1} --modality T2={bad} --out {out}"), message)
    assert not out.parent.exists()


def test_segment_refuses_a_truncated_gz(job: Job, segkit: Segkit, tmp_path: Path) -> None:
    whole = (job.data / "sub-001" / "T2.nii.gz").read_bytes()
    bad, out = tmp_path / "bad.nii.gz", tmp_path / "seg.nii.gz"
    bad.write_bytes(whole[: len(whole) // 2])
    t1 = job.data / "sub-001" / "T1.nii.gz"
    done = segkit(f"segment {job.bundle} --modality T1={t1} --modality T2={bad} --out {out}")
    refused(done, "found that it ends early")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.nii.gz"]


def test_segment_refuses_a_missing_modality(job: Job, segkit: Segkit, tmp_path: Path) -> None:
    done = segkit(f"segment {job.bundle} --modality T1={job.data}/sub-001/T1.nii.gz --out {tmp_path / 'seg.nii.gz'}")
    refused(done, "expected the modalities T1, T2, got T1; add --modality T2=FILE")


def test_segment_refuses_an_output_that_is_there(job: Job, segkit: Segkit, tmp_path: Path) -> None:
    out = tmp_path / "seg.nii.gz"
    out.write_text("mine")
    folder = job.data / "sub-001"
    command = f"segment {job.bundle} --modality T1={folder}/T1.nii.gz --modality T2={folder}/T2.nii.gz --out {out}"
    refused(segkit(command), "--overwrite")
    assert out.read_text() == "mine"


@pytest.mark.parametrize("option", ["--out {}", "--out seg.nii.gz --png {}"])
def test_segment_never_writes_over_an_image_it_reads(
    option: str, job: Job, segkit: Segkit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(job.data / "sub-001", tmp_path / "head")
    before = (tmp_path / "head" / "T1.nii.gz").read_bytes()
    images = "--modality T1=head/T1.nii.gz --modality T2=head/T2.nii.gz"
    done = segkit(f"segment {job.bundle} {images} {option.format('head/../head/T1.nii.gz')} --overwrite")
    refused(done, "expected an output other than the images, got head/T1.nii.gz, the T1")
    assert (tmp_path / "head" / "T1.nii.gz").read_bytes() == before


def test_segment_says_that_a_run_is_no_bundle(job: Job, segkit: Segkit, tmp_path: Path) -> None:
    done = segkit(f"segment {job.run} --modality T1={job.data}/sub-001/T1.nii.gz --out {tmp_path / 'seg.nii.gz'}")
    refused(done, f"found a run; make a bundle of it: segkit export {job.run}")


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx", "card.md"])
def test_segment_refuses_an_altered_bundle(name: str, job: Job, segkit: Segkit, tmp_path: Path) -> None:
    bundle = tmp_path / "altered.segkit"
    shutil.copytree(job.bundle, bundle)
    content = bytearray((bundle / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / name).write_bytes(content)
    folder, out = job.data / "sub-001", tmp_path / "seg.nii.gz"
    command = f"segment {bundle} --modality T1={folder}/T1.nii.gz --modality T2={folder}/T2.nii.gz --out {out}"
    refused(segkit(command), name)
    assert not out.exists()


def test_train_refuses_an_unknown_label_code(job: Job, segkit: Segkit, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(job.data, data)
    label = data / "sub-002" / "label.nii.gz"
    image = nib.load(label)
    codes = np.asarray(image.dataobj).copy()
    codes[40, 40, 40] = 42
    nib.save(nib.Nifti1Image(codes, image.affine), label)
    done = segkit(f"train --model unet3d --data {data} --out {tmp_path / 'run'} --patch 32,32,32")
    refused(done, "expected the label codes 0, 1, 2, 3, 7 (ignored), 8 (ignored)")
    assert "found 42" in done.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("models show vnt", "no model 'vnt'; did you mean 'vnet'?"),
        ("plugins show phantm", "no plugin 'phantm'; did you mean 'phantom'?"),
        ("--no-plugin vnat models", "no plugin 'vnat'; did you mean 'vnet'?"),
        ("train --model unet3d --data {missing} --out {out}", "expected a folder of the data set 'phantom'"),
        ("evaluate {missing}", "expected a run in"),
        ("export unett3d --out {out}", "did you mean 'unet3d'?"),
        ("profile {missing}", "expected a bundle"),
        ("segment {missing} --modality T1=x.nii --out {out}.nii", "expected a bundle"),
        ("data make phantom {out} --preset isig", "no preset of phantom 'isig'; did you mean 'iseg'?"),
        ("exprt vnet", "no command 'exprt'; did you mean 'export'?"),
    ],
)
def test_a_request_that_cannot_be_met_is_one_line(command: str, message: str, segkit: Segkit, tmp_path: Path) -> None:
    refused(segkit(command, missing=tmp_path / "missing", out=tmp_path / "out"), message)
    assert not list(tmp_path.iterdir())


def test_export_refuses_an_output_that_is_there(job: Job, segkit: Segkit) -> None:
    before = (job.bundle / "SHA256SUMS").read_bytes()
    refused(segkit(f"export {job.run} --out {job.bundle}"), "--overwrite")
    assert (job.bundle / "SHA256SUMS").read_bytes() == before


def test_train_refuses_a_folder_that_is_in_use(job: Job, segkit: Segkit) -> None:
    refused(segkit(f"train --model unet3d --data {job.data} --out {job.run}"), "expected a new run folder, found files")


def test_data_make_refuses_a_folder_that_holds_something_else(segkit: Segkit, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    refused(segkit(f"data make phantom {tmp_path} --preset mini --subjects 1"), str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
