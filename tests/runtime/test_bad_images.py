"""Images that are not what they should be, as `segkit segment` meets them: exit code 2, one line, no file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.analyze import AnalyzeHeader
from tests.bad_nifti import AFFINE, BAD_FILES, GOOD, nifti, voxels

from segkit.cli import main

from . import simulated_gpu

Head = dict[str, Path]


def analyze_header() -> bytes:
    header = AnalyzeHeader()
    header.set_data_shape((6, 5, 4))
    header.set_data_dtype("i2")
    return bytes(header.binaryblock)


MORE_BAD_FILES: dict[str, tuple[str, bytes, str]] = {
    "28 zeros": (".nii", nifti(bytes(480)), "expected an image in {}, found zeros only; check the export"),
    "28 one value": (".nii", nifti(np.full(120, 7, "<f4").tobytes()), "expected an image in {}, found 7 only; check"),
    "30 Analyze header without voxels": (".hdr", analyze_header(), "expected the directions of the three axes of {}"),
    "30 header of a pair without voxels": (".hdr", GOOD[:344] + b"ni1\0", "in {}, found a NIfTI one; convert the pair"),
    "30 voxels without header": (".img", voxels().tobytes(), "expected an image at {}, found no such file"),
}
"""What a reader of one file takes and a network does not, or what comes in pairs."""

OTHER_GRIDS: dict[str, tuple[bytes, str]] = {
    "of another size": (
        nifti(voxels()[:, :, :3].tobytes("F"), dim_3=3),
        "expected T2 on the grid of T1 6x5x4, found 6x5x3; resample one to the other first",
    ),
    "that lies elsewhere": (
        nifti(srow_x_3=-1, qoffset_x=-1),
        "expected T2 on the grid of T1, found their corners 2.00 mm apart",
    ),
    "that is mirrored": (nifti(srow_x_0=-1, qform_code=0), "expected T2 on the grid of T1, found their corners"),
}


@pytest.fixture
def bundle(make_bundle: Callable[..., Path]) -> Path:
    sides = tuple(np.diag(AFFINE)[:3])
    return make_bundle(spacing={"least_mm": sides, "most_mm": sides})


@pytest.fixture
def refused(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """Segments images, which must be refused; returns the line that says why."""

    def run(images: Head, bundle: Path = bundle, runtime: str = "onnxruntime") -> str:
        pairs = [text for name, file in images.items() for text in ("--modality", f"{name}={file}")]
        out = tmp_path / "out" / "seg.nii.gz"
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(SystemExit, match=r"^2$"):
            main(["segment", str(bundle), *pairs, "--runtime", runtime, "--out", str(out)])
        said = capsys.readouterr()
        assert said.out == ""
        assert sorted(tmp_path.rglob("*")) == before
        (line,) = said.err.splitlines()
        assert line.startswith("error: ")
        return line

    return run


def save(folder: Path, ending: str, content: bytes) -> Head:
    (folder / "T1.nii").write_bytes(GOOD)
    (folder / f"T2{ending}").write_bytes(content)
    return {"T1": folder / "T1.nii", "T2": folder / f"T2{ending}"}


@pytest.mark.parametrize("case", [*BAD_FILES, *MORE_BAD_FILES])
def test_a_bad_file_is_refused_in_one_line(case: str, refused: Callable, tmp_path: Path) -> None:
    ending, content, message = {**BAD_FILES, **MORE_BAD_FILES}[case]
    images = save(tmp_path, ending, content)
    line = refused(images)
    assert "expected " in line
    assert str(images["T2"].with_suffix("")) in line
    if case in MORE_BAD_FILES:
        assert message.format(images["T2"].with_suffix(".hdr") if ending == ".img" else images["T2"]) in line


@pytest.mark.parametrize("case", OTHER_GRIDS)
def test_an_image_on_a_grid_of_its_own_is_refused_in_one_line(case: str, refused: Callable, tmp_path: Path) -> None:
    content, message = OTHER_GRIDS[case]
    assert message in refused(save(tmp_path, ".nii", content))


def test_voxel_sizes_that_the_network_does_not_know_are_refused_in_one_line(refused: Callable, tmp_path: Path) -> None:
    (tmp_path / "T1.nii").write_bytes(nifti(srow_z_2=3, pixdim_3=3))
    (tmp_path / "T2.nii").write_bytes(nifti(srow_z_2=3, pixdim_3=3))
    line = refused({name: tmp_path / f"{name}.nii" for name in ("T1", "T2")})
    assert "error: expected voxels of 1 x 1.5 x 2 mm along RAS axes, found 1 x 1.5 x 3 mm; resample all images" in line


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (("T1",), "got T1; add --modality T2=FILE"),
        (("T1", "T2", "FLAIR"), "got T1, T2, FLAIR; no modality 'FLAIR'"),
        (("T1", "t2"), "got T1, t2; add --modality T2=FILE; no modality 't2'; did you mean 'T2'?"),
    ],
)
def test_modalities_that_are_not_the_networks_are_refused_in_one_line(
    names: tuple[str, ...], says: str, refused: Callable, tmp_path: Path
) -> None:
    (tmp_path / "image.nii").write_bytes(GOOD)
    line = refused(dict.fromkeys(names, tmp_path / "image.nii"))
    assert line.startswith("error: expected the modalities T1, T2, ")
    assert says in line


def test_one_file_for_two_modalities_is_refused_in_one_line(refused: Callable, tmp_path: Path) -> None:
    (tmp_path / "image.nii").write_bytes(GOOD)
    line = refused(dict.fromkeys(("T1", "T2"), tmp_path / "image.nii"))
    assert "expected one file per modality, got" in line
    assert "twice" in line


def test_an_engine_that_is_not_for_this_machine_is_refused_in_one_line(
    make_bundle: Callable[..., Path],
    make_engine: Callable,
    make_proof: Callable,
    make_onnx: Callable,
    refused: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    shapes = ([1, 2, 8, 8, 8],) * 3
    simulated_gpu.install(monkeypatch, shapes, capability=(8, 9))
    engine = make_engine(
        targets=["sm86"], status="proven", shapes=shapes, onnx_sha256=hashlib.sha256(make_onnx()).hexdigest()
    )
    proof = make_proof("openvino").model_copy(
        update={"runtime": engine.runtime, "version": engine.version, "device": "cuda:0", "precision": "fp16"}
    )
    files = {engine.file: simulated_gpu.MAGIC + make_onnx()}
    bundle = make_bundle("gpu.segkit", engines=[engine], proofs=[proof], files=files)
    line = refused(save(tmp_path, ".nii", GOOD), bundle, "tensorrt_rtx")
    assert "expected a GPU of sm86, " in line
    assert "found sm89" in line


def good_files() -> dict[str, nib.Nifti1Image]:
    """What is accepted though it is seldom seen: case 31."""
    data = voxels("i8")
    swapped = nib.Nifti1Header(endianness=">")
    swapped.set_data_dtype("i2")
    swapped.set_xyzt_units("mm")
    return {
        "as all bad ones were": nib.Nifti1Image(data.astype("f4"), AFFINE),
        "NIfTI-2": nib.Nifti2Image(data.astype("f4"), AFFINE),
        "big-endian": nib.Nifti1Image(data.astype(">i2"), AFFINE, swapped),
        "64-bit integers": nib.Nifti1Image(data, AFFINE, dtype="i8"),
        "64-bit numbers": nib.Nifti1Image(data.astype("f8"), AFFINE),
        "bytes": nib.Nifti1Image(data.astype("u1"), AFFINE),
    }


@pytest.mark.parametrize("case", good_files())
def test_a_file_that_is_good_is_segmented(case: str, bundle: Path, tmp_path: Path) -> None:
    image = good_files()[case]
    for name in ("T1", "T2"):
        nib.save(image if name == "T1" else good_files()["as all bad ones were"], tmp_path / f"{name}.nii.gz")
    out = tmp_path / "seg.nii.gz"
    pairs = [text for name in ("T1", "T2") for text in ("--modality", f"{name}={tmp_path / name}.nii.gz")]
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["segment", str(bundle), *pairs, "--runtime", "onnxruntime", "--out", str(out)])
    right = np.concatenate([voxels()[1:], voxels()[-1:]])
    expected = np.array([0, 150, 250])[np.argmax([np.full(voxels().shape, 10.5), voxels(), right], axis=0)]
    found = nib.load(out)
    assert type(found) is type(image)
    assert found.header.endianness == image.header.endianness
    agree = np.asarray(found.dataobj) == expected
    assert agree[voxels() != right].all()
