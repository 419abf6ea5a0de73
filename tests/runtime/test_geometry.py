"""The geometry contract: wherever the voxels of a head lie, its labels lie where they belong in the patient.

The network of these bundles looks at one voxel to the right: it gives other labels to an image that was not turned.
"""

from __future__ import annotations

import gzip
import hashlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segkit.errors import DataError
from segkit_runtime import Segmenter, load
from segkit_runtime.bundle import write_bundle

Head = dict[str, Path]
SHAPE = (10, 12, 9)
AXES = [
    np.diag(signs)[:, order]
    for order in itertools.permutations(range(3))
    for signs in itertools.product([1, -1], repeat=3)
]
"""The 48 ways in which array axes lie along patient axes."""

angles = st.tuples(*[st.floats(-0.25, 0.25)] * 3)
sides = st.tuples(*[st.sampled_from([0.8, 1.0, 1.25, 2.0])] * 3)


def rotation(x: float, y: float, z: float) -> np.ndarray:
    turn = np.eye(3)
    for axis, angle in enumerate((x, y, z)):
        step = np.eye(3)
        first, second = (i for i in range(3) if i != axis)
        step[first, first] = step[second, second] = np.cos(angle)
        step[first, second], step[second, first] = -np.sin(angle), np.sin(angle)
        turn = turn @ step
    return turn


def images() -> dict[str, np.ndarray]:
    """Two images in RAS, zero around a box; no two classes are ever equally likely."""
    rng = np.random.default_rng(5)
    inside = np.zeros(SHAPE, bool)
    inside[1:9, 2:11, 1:8] = True
    drawn = {"T1": 2 * rng.integers(1, 15, SHAPE), "T2": 2 * rng.integers(0, 15, SHAPE) + 1}
    return {name: np.where(inside, values, 0).astype(np.int16) for name, values in drawn.items()}


def save_turned(folder: Path, affine: np.ndarray, axes: np.ndarray) -> Head:
    """The head of `images` with an affine of its RAS voxels, stored along other axes."""
    folder.mkdir(exist_ok=True)
    for name, array in images().items():
        order, signs = np.abs(axes).argmax(0), axes.sum(0)
        stored = array.transpose(order)[tuple(slice(None, None, int(sign)) for sign in signs)]
        move = np.eye(4)
        move[:3, :3] = axes
        move[:3, 3] = [SHAPE[row] - 1 if axes[row].sum() < 0 else 0 for row in range(3)]
        image = nib.Nifti1Image(stored, affine @ move)
        image.header.set_xyzt_units("mm", "sec")
        image.to_filename(folder / f"{name}.nii")
    return {name: folder / f"{name}.nii" for name in images()}


def by_place(labels: nib.Nifti1Image, affine: np.ndarray) -> np.ndarray:
    """Labels, whatever their axes, by the RAS voxel of `affine` that they lie on."""
    found = np.full(SHAPE, 99)
    data = np.asarray(labels.dataobj)
    indices = np.argwhere(np.ones(data.shape, bool))
    places = indices @ labels.affine[:3, :3].T + labels.affine[:3, 3] - affine[:3, 3]
    voxels = places @ np.linalg.inv(affine[:3, :3]).T
    np.testing.assert_allclose(voxels, np.rint(voxels), atol=1e-3)
    found[tuple(np.rint(voxels).astype(int).T)] = data[tuple(indices.T)]
    return found


@pytest.fixture(scope="module", params=["native", "resampled"])
def segmenter(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    make_manifest: Callable,
    make_onnx: Callable,
) -> Iterator[Segmenter]:
    """Takes voxels of any size, or brings all to 1 mm."""
    resample: dict[str, Any] = {"spacing": None}
    if request.param == "resampled":
        resample = {"spacing": {"least_mm": (1, 1, 1), "most_mm": (1, 1, 1)}, "resample_mm": (1, 1, 1)}
    model = make_onnx()
    folder = tmp_path_factory.mktemp(request.param) / "x.segkit"
    write_bundle(folder, make_manifest(model, **resample), {"model.onnx": model})
    with load(folder, "onnxruntime") as segmenter:
        yield segmenter


@settings(max_examples=16, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(axes=st.sampled_from(AXES), turn=angles, spacing=sides)
def test_flipped_permuted_and_oblique_copies_get_the_same_labels_in_the_patient(
    segmenter: Segmenter, tmp_path: Path, axes: np.ndarray, turn: tuple[float, ...], spacing: tuple[float, ...]
) -> None:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = rotation(*turn) * spacing, (-90.5, 126.25, -72)
    answers = []
    for number, (lies, along) in enumerate([(affine, np.eye(3, dtype=int)), (affine, axes)]):
        head = save_turned(tmp_path / str(number), lies, along)
        out = tmp_path / f"{number}.nii.gz"
        result = segmenter.segment(head)
        result.save(out, overwrite=True)
        saved = nib.load(out)
        np.testing.assert_array_equal(saved.affine, nib.load(head["T1"]).affine)
        answers.append(by_place(saved, lies))
        assert result.volumes_ml["grey matter"] == pytest.approx(
            (answers[-1] == 150).sum() * np.prod(spacing) / 1000, rel=1e-5
        )
    np.testing.assert_array_equal(answers[0], answers[1])
    assert set(np.unique(answers[0])) == {0, 150, 250}


def test_a_head_that_lies_elsewhere_gets_the_same_labels(segmenter: Segmenter, tmp_path: Path) -> None:
    """The same voxels, tilted by up to half a right angle: the network never sees where they lie."""
    straight = np.diag([1.25, 0.8, 2, 1])
    tilted = np.eye(4)
    tilted[:3, :3], tilted[:3, 3] = rotation(0.3, -0.2, 0.4) @ straight[:3, :3], (5, -60, 33)
    one, other = (
        segmenter.segment(save_turned(tmp_path / name, affine, np.eye(3, dtype=int))).labels.data
        for name, affine in (("straight", straight), ("tilted", tilted))
    )
    np.testing.assert_array_equal(one, other)


class TestResampling:
    @pytest.fixture
    def resampling(self, make_bundle: Callable) -> Iterator[Segmenter]:
        spacing = {"least_mm": (1, 1, 1), "most_mm": (1.1, 1.1, 1.1)}
        with load(make_bundle(spacing=spacing, resample_mm=(1, 1, 1)), "onnxruntime") as segmenter:
            yield segmenter

    def test_voxels_that_are_taken_stay_as_they_are(
        self, resampling: Segmenter, make_bundle: Callable, tmp_path: Path
    ) -> None:
        head = save_turned(tmp_path / "head", np.diag([1.1, 1, 1.05, 1]), np.eye(3, dtype=int))
        with load(make_bundle("native.segkit", spacing=None), "onnxruntime") as native:
            expected = native.segment(head)
        found = resampling.segment(head)
        np.testing.assert_array_equal(found.labels.data, expected.labels.data)
        assert found.warnings == expected.warnings == ()

    def test_others_are_seen_by_the_network_at_its_own_size_and_the_report_says_so(
        self, resampling: Segmenter, tmp_path: Path
    ) -> None:
        """Twice as many voxels along each axis, each twice: at 1 mm they are what they were before."""
        for name, array in images().items():
            doubled = np.kron(array, np.ones((2, 2, 2), np.int16))
            nib.Nifti1Image(doubled, np.diag([0.5, 0.5, 0.5, 1])).to_filename(tmp_path / f"{name}.nii")
        result = resampling.segment({name: tmp_path / f"{name}.nii" for name in images()})
        assert result.labels.shape == (20, 24, 18)
        assert result.warnings == (
            "the images were resampled from 0.5x0.5x0.5 to 1x1x1 mm for the network, and its labels back",
        )
        assert result.report()["spacing_mm"] == [0.5, 0.5, 0.5]
        assert result.indices.shape == (20, 24, 18)

    def test_all_modalities_are_resampled_alike(self, resampling: Segmenter, tmp_path: Path) -> None:
        """Both show the same ramp: the second, seen one voxel to the right, is larger everywhere but at the last."""
        ramp = (20 + 2 * np.arange(10))[:, None, None] * np.ones((10, 6, 6))
        for name in ("T1", "T2"):
            nib.Nifti1Image(ramp.astype(np.int16), np.diag([2, 2, 2, 1.0])).to_filename(tmp_path / f"{name}.nii")
        labels = resampling.segment({name: tmp_path / f"{name}.nii" for name in ("T1", "T2")}).labels.data
        assert (labels[:9] == 250).all()

    def test_grids_that_disagree_are_refused_before(self, resampling: Segmenter, tmp_path: Path) -> None:
        head = save_turned(tmp_path / "head", np.diag([2, 2, 2, 1.0]), np.eye(3, dtype=int))
        nib.Nifti1Image(images()["T2"], np.diag([2, 2, 1.9, 1])).to_filename(head["T2"])
        with pytest.raises(DataError, match=r"expected T2 on the grid of T1, found their corners 0\.80 mm apart"):
            resampling.segment(head)

    def test_with_registration_the_others_are_brought_onto_the_resampled_first(
        self, make_bundle: Callable, tmp_path: Path
    ) -> None:
        how = {"normalisation": "none", "background": "zero", "registration": "affine"}
        spacing = {"least_mm": (1, 1, 1), "most_mm": (1, 1, 1)}
        ramp = (20 + 2 * np.arange(10))[:, None, None] * np.ones((10, 6, 6))
        nib.Nifti1Image(ramp.astype(np.int16), np.diag([2, 2, 2, 1.0])).to_filename(tmp_path / "T1.nii")
        finer = np.kron(ramp, np.ones((1, 2, 2)))
        nib.Nifti1Image(finer.astype(np.int16), np.diag([2, 1, 1, 1.0])).to_filename(tmp_path / "T2.nii")
        bundle = make_bundle(spacing=spacing, resample_mm=(1, 1, 1), preprocessing=how)
        with load(bundle, "onnxruntime") as segmenter:
            result = segmenter.segment({name: tmp_path / f"{name}.nii" for name in ("T1", "T2")})
        assert result.labels.shape == (10, 6, 6)
        assert (result.labels.data[1:8, 1:5, 1:5] == 250).all()


TEMPLATE = "sform of a template, qform of the scanner"


def headers() -> dict[str, nib.Nifti1Image]:
    """A head's T1 with the headers that scanners and tools write."""
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = rotation(0.2, -0.1, 0.15) * (-1.0, 1.1, 1.2), (90, -126, -72)
    data = images()["T1"]
    both = nib.Nifti1Image(data, affine)
    both.set_sform(affine, 1)
    both.set_qform(affine, 1)
    aligned = nib.Nifti1Image(data, affine)
    aligned.set_sform(affine, 4)
    moved = affine.copy()
    moved[:3, 3] += 11
    aligned.set_qform(moved, 1)
    qform = nib.Nifti1Image(data, affine)
    qform.set_qform(affine, 1)
    qform.set_sform(None, 0)
    sform = nib.Nifti1Image(data, affine)
    sform.set_sform(affine, 2)
    sform.set_qform(None, 0)
    second = nib.Nifti2Image(data, affine)
    swapped = nib.Nifti1Image(data, affine, nib.Nifti1Header(endianness=">"))
    told = nib.Nifti1Image(data, affine)
    told.header["cal_max"], told.header["cal_min"] = 900, 3
    told.header.set_intent("z score")
    told.header.set_dim_info(0, 1, 2)
    told.header["descrip"] = b"3T MP-RAGE"
    scaled = nib.Nifti1Image(data, affine)
    scaled.header.set_slope_inter(0.5, 0)
    found = {
        "sform and qform": both,
        TEMPLATE: aligned,
        "qform alone": qform,
        "sform alone": sform,
        "NIfTI-2": second,
        "big-endian": swapped,
        "windows, an intent and axes": told,
        "scaled": scaled,
    }
    for image in found.values():
        image.header.set_xyzt_units("mm", "sec")
    return found


ITK_READS = headers().keys() - {"NIfTI-2"}
"""Of NIfTI-2 it reads neither image nor labels; of `TEMPLATE` it takes the qform, nibabel and FSL the sform."""

KEPT = ("dim", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z")
KEPT_TOO = ("srow_x", "srow_y", "srow_z", "pixdim", "xyzt_units", "dim_info", "descrip", "magic", "vox_offset")


class TestHeader:
    """What 3D Slicer and ITK-SNAP (through ITK), FSL and nibabel read must be the grid of the image, and labels."""

    @pytest.fixture(params=headers())
    def saved(self, request: pytest.FixtureRequest, make_bundle: Callable, tmp_path: Path) -> tuple[Path, Path]:
        """The file of the image, and that of its labels."""
        image = headers()[request.param]
        nib.save(image, tmp_path / "T1.nii")
        nib.save(nib.Nifti1Image(images()["T2"], image.affine), tmp_path / "T2.nii")
        with load(make_bundle(spacing=None), "onnxruntime") as segmenter:
            segmenter.segment({name: tmp_path / f"{name}.nii" for name in ("T1", "T2")}).save(tmp_path / "seg.nii.gz")
        return tmp_path / "T1.nii", tmp_path / "seg.nii.gz"

    def test_every_field_of_the_grid_is_that_of_the_image(self, saved: tuple[Path, Path]) -> None:
        image, labels = (nib.load(path).header for path in saved)
        assert type(image) is type(labels)
        assert image.endianness == labels.endianness
        for field in (*KEPT, *KEPT_TOO):
            np.testing.assert_array_equal(labels[field], image[field], err_msg=field)

    def test_it_says_that_they_are_labels(self, saved: tuple[Path, Path]) -> None:
        with gzip.open(saved[1]) as file:  # nibabel.load takes the scaling out of the header
            header = type(nib.load(saved[1]).header).from_fileobj(file)
        assert header.get_data_dtype() == np.uint8
        assert header["bitpix"] == 8
        assert (header["scl_slope"], header["scl_inter"], header["cal_min"], header["cal_max"]) == (1, 0, 0, 0)
        assert header["intent_code"] == 1002  # NIFTI_INTENT_LABEL: FSLeyes, MRIcroGL and NiiVue then do not interpolate

    @pytest.mark.parametrize("saved", sorted(ITK_READS), indirect=True)
    def test_simpleitk_reads_it_on_the_grid_of_the_image(self, saved: tuple[Path, Path]) -> None:
        image, labels = (sitk.ReadImage(str(path)) for path in saved)
        assert labels.GetPixelID() == sitk.sitkUInt8
        assert labels.GetSize() == image.GetSize()
        for ask in ("GetOrigin", "GetSpacing", "GetDirection"):
            assert getattr(labels, ask)() == getattr(image, ask)()
        read = nib.load(saved[1])
        np.testing.assert_array_equal(sitk.GetArrayFromImage(labels).T, np.asarray(read.dataobj))

    @pytest.mark.parametrize("saved", sorted(ITK_READS - {TEMPLATE}), indirect=True)
    def test_simpleitk_and_nibabel_put_its_voxels_at_the_same_places(self, saved: tuple[Path, Path]) -> None:
        labels, read = sitk.ReadImage(str(saved[1])), nib.load(saved[1])
        for index in itertools.product(*[(0, n - 1) for n in SHAPE]):
            x, y, z = labels.TransformIndexToPhysicalPoint(index)
            np.testing.assert_allclose((-x, -y, z), (read.affine @ (*index, 1))[:3], atol=1e-3)


def test_codes_beyond_255_are_read_as_16_bits_by_simpleitk_too(
    make_bundle: Callable, head: Head, tmp_path: Path
) -> None:
    labels = [{"code": 0, "name": "out"}, {"code": 150, "name": "first"}, {"code": 1000, "name": "second"}]
    with load(make_bundle(labels=labels), "onnxruntime") as segmenter:
        segmenter.segment(head).save(tmp_path / "seg.nii.gz")
    read = sitk.ReadImage(str(tmp_path / "seg.nii.gz"))
    assert read.GetPixelID() == sitk.sitkUInt16
    assert np.unique(sitk.GetArrayFromImage(read)).tolist() == [0, 150, 1000]


def test_the_bytes_are_the_same_run_after_run(segmenter: Segmenter, tmp_path: Path) -> None:
    head = save_turned(tmp_path / "head", np.diag([2, 1.25, 0.8, 1]), AXES[17])
    found = set()
    for number in range(3):
        segmenter.segment(head).save(tmp_path / f"{number}.nii.gz")
        found.add(hashlib.sha256((tmp_path / f"{number}.nii.gz").read_bytes()).hexdigest())
    assert len(found) == 1
