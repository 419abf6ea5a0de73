"""Volumes read from files and written to them."""

from __future__ import annotations

import errno
import gzip
import resource
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Header, Nifti1Image
from nibabel.nifti2 import Nifti2Header, Nifti2Image

from segkit.errors import UsageError, VolumeError
from segkit.files import write_bytes
from segkit.nifti import read_volume, write_volume
from segkit.volume import Volume

DTYPES = ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"]
AFFINE = np.array([[-1.5, 0, 0, 90], [0, 0, 2, -126], [0, 1, 0, -72], [0, 0, 0, 1.0]])
NIBABEL_DATA = Path(nibabel.__file__).parent / "tests" / "data"


def image_of(dtype: str, *, kind=Nifti1Image, byteorder: str = "<", slope: float = 1, intercept: float = 0):
    """An image with distinct sform and qform codes, scaled on disk as asked."""
    voxels = np.arange(60).reshape(3, 4, 5).astype(dtype)
    header = kind.header_class(endianness=byteorder)
    header.set_data_dtype(voxels.dtype)
    image = kind(voxels * slope + intercept if slope != 1 else voxels, AFFINE, header, dtype=dtype)
    image.set_sform(AFFINE, 2)
    image.set_qform(AFFINE, 1)
    image.header["descrip"] = b"a test"
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_slope_inter(slope, intercept)
    return image


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", [Nifti1Image, Nifti2Image], ids=["nifti1", "nifti2"])
@pytest.mark.parametrize("byteorder", ["<", ">"], ids=["little", "big"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type_and_byte_order_reads_as_nibabel_reads_it(dtype, byteorder, kind, ending, tmp_path):
    path = tmp_path / f"image{ending}"
    nibabel.save(image_of(dtype, kind=kind, byteorder=byteorder), path)
    volume = read_volume(path)
    assert volume.data.dtype == np.dtype(dtype)
    assert volume.data.dtype.isnative
    np.testing.assert_array_equal(volume.data, np.asanyarray(nibabel.load(path).dataobj))
    np.testing.assert_array_equal(volume.affine, nibabel.load(path).affine)
    assert volume.spacing_mm == (1.5, 1, 2)
    assert volume.voxel_ml == pytest.approx(0.003)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", [Nifti1Image, Nifti2Image], ids=["nifti1", "nifti2"])
@pytest.mark.parametrize("byteorder", ["<", ">"], ids=["little", "big"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_writing_what_was_read_keeps_voxels_affine_codes_and_header(dtype, byteorder, kind, ending, tmp_path):
    nibabel.save(image_of(dtype, kind=kind, byteorder=byteorder), tmp_path / "first.nii")
    first = read_volume(tmp_path / "first.nii")
    write_volume(tmp_path / f"second{ending}", first)
    second = read_volume(tmp_path / f"second{ending}")
    assert second.data.dtype == first.data.dtype
    np.testing.assert_array_equal(second.data, first.data)
    np.testing.assert_array_equal(second.affine, first.affine)
    assert type(second.header) is type(first.header)
    for field in ("sform_code", "qform_code", "srow_x", "srow_y", "srow_z", "quatern_b", "quatern_c", "quatern_d"):
        np.testing.assert_array_equal(second.header[field], first.header[field])
    for field in ("qoffset_x", "qoffset_y", "qoffset_z", "pixdim", "descrip", "xyzt_units", "datatype", "dim"):
        np.testing.assert_array_equal(second.header[field], first.header[field])


@pytest.mark.parametrize(("sform", "qform"), [(0, 1), (1, 0), (4, 1), (2, 2)])
def test_codes_are_kept_and_the_affine_comes_from_the_form_in_force(sform, qform, tmp_path):
    image = image_of("i2")
    image.set_sform(AFFINE, sform)
    image.set_qform(AFFINE, qform)
    nibabel.save(image, tmp_path / "first.nii")
    write_volume(tmp_path / "second.nii", read_volume(tmp_path / "first.nii"))
    second = read_volume(tmp_path / "second.nii")
    assert (second.header["sform_code"], second.header["qform_code"]) == (sform, qform)
    np.testing.assert_allclose(second.affine, AFFINE, atol=1e-5)


def test_sform_of_another_space_than_the_qform_is_the_affine(tmp_path):
    image = image_of("i2")
    image.set_sform(np.diag([2.0, 2, 2, 1]), "mni")
    image.set_qform(AFFINE, "scanner")
    nibabel.save(image, tmp_path / "image.nii")
    np.testing.assert_array_equal(read_volume(tmp_path / "image.nii").affine, np.diag([2.0, 2, 2, 1]))


def test_affine_that_was_changed_is_written_and_not_the_one_of_the_header(tmp_path):
    nibabel.save(image_of("i2"), tmp_path / "first.nii")
    first = read_volume(tmp_path / "first.nii")
    moved = first.affine.copy()
    moved[:3, 3] += (10, 20, 30)
    write_volume(tmp_path / "second.nii", Volume(first.data, moved, first.header))
    np.testing.assert_array_equal(read_volume(tmp_path / "second.nii").affine, moved)


@pytest.mark.parametrize("dtype", ["u1", "i2", "i4", "f4"])
@pytest.mark.parametrize(("slope", "intercept"), [(0.5, 0), (2.0, -1024), (-1, 3), (1, 7)])
def test_scaled_voxels_are_float32_as_nibabel_scales_them(dtype, slope, intercept, tmp_path):
    stored = np.arange(60).reshape(3, 4, 5).astype(dtype)
    header = image_of(dtype).header
    header["scl_slope"], header["scl_inter"] = slope, intercept
    header["magic"], header["vox_offset"] = b"n+1", 352
    path = tmp_path / "image.nii"
    path.write_bytes(header.binaryblock + bytes(4) + stored.tobytes("F"))
    volume = read_volume(path)
    assert volume.data.dtype == np.float32
    np.testing.assert_array_equal(volume.data, nibabel.load(path).get_fdata().astype(np.float32))
    write_volume(tmp_path / "second.nii", volume)
    np.testing.assert_array_equal(nibabel.load(tmp_path / "second.nii").get_fdata(), volume.data)


@pytest.mark.parametrize(("slope", "intercept"), [(1, 0), (0, 0), (0, 5), (0, np.nan)])
def test_scaling_by_one_or_by_nothing_leaves_the_voxels_as_stored(slope, intercept, tmp_path):
    header = image_of("i2").header
    header["scl_slope"], header["scl_inter"] = slope, intercept
    header["magic"], header["vox_offset"] = b"n+1", 352
    stored = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    (tmp_path / "image.nii").write_bytes(header.binaryblock + bytes(4) + stored.tobytes("F"))
    volume = read_volume(tmp_path / "image.nii")
    assert volume.data.dtype == np.int16
    np.testing.assert_array_equal(volume.data, stored)


ACCEPTED = {"anatomical.nii", "reoriented_anat_moved.nii", "standard.nii.gz"}
REFUSED = {
    "example4d.nii.gz": r"expected a 3D image in .*, found 4D 128x96x24x2",
    "example_nifti2.nii.gz": r"expected a 3D image in .*, found 4D 32x20x12x2",
    "functional.nii": r"expected a 3D image in .*, found 4D 17x21x3x20",
    "resampled_anat_moved.nii": r"expected finite voxels in .*, found 153 of 1,071 NaN or infinite",
    "row_major.dconn.nii": r"expected a 3D image in .*, found 6D 1x1x1x1x10x10",
}


@pytest.mark.parametrize("name", sorted(ACCEPTED))
def test_files_of_nibabels_own_tests_read_as_nibabel_reads_them(name):
    volume, image = read_volume(NIBABEL_DATA / name), nibabel.load(NIBABEL_DATA / name)
    np.testing.assert_allclose(volume.data, image.get_fdata(), rtol=1e-6)
    np.testing.assert_array_equal(volume.affine, image.affine)


@pytest.mark.parametrize("name", REFUSED)
def test_files_of_nibabels_own_tests_that_are_no_single_volume_are_refused(name):
    with pytest.raises(VolumeError, match=REFUSED[name]):
        read_volume(NIBABEL_DATA / name)


def test_all_nifti_files_of_nibabels_own_tests_are_known_here():
    assert {path.name for path in NIBABEL_DATA.glob("*.nii*")} == ACCEPTED | set(REFUSED)


@pytest.mark.parametrize("folder", ["with space", "größe-脳", "new\nline", "-dash", "100% 'quoted'"])
def test_folders_and_files_of_any_name_work(folder, tmp_path):
    path = tmp_path / folder / f"{folder}.nii.gz"
    write_volume(path, Volume(np.ones((2, 3, 4), np.uint8), np.eye(4)))
    assert read_volume(path).shape == (2, 3, 4)
    assert [found.name for found in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("dtype", [bool, np.uint8])
def test_masks_are_written_as_bytes(dtype, tmp_path):
    write_volume(tmp_path / "mask.nii", Volume(np.eye(4, dtype=dtype)[..., None].repeat(3, 2), np.eye(4)))
    assert read_volume(tmp_path / "mask.nii").data.dtype == np.uint8


def test_int64_without_a_header_is_written_as_such(tmp_path):
    write_volume(tmp_path / "labels.nii", Volume(np.arange(27).reshape(3, 3, 3), np.eye(4)))
    assert read_volume(tmp_path / "labels.nii").data.dtype == np.int64


@pytest.mark.parametrize("dtype", [np.complex64, np.float16, object])
def test_voxels_that_nifti_cannot_hold_are_refused(dtype, tmp_path):
    with pytest.raises(VolumeError, match=r"expected voxels that NIfTI can hold for .*, got .*; convert them"):
        write_volume(tmp_path / "image.nii", Volume(np.zeros((2, 2, 2), dtype), np.eye(4)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["image", "image.mgz", "image.nii.bz2", "image.img"])
def test_name_that_does_not_say_nifti_is_refused(name, tmp_path):
    with pytest.raises(
        UsageError, match=rf"expected a name that ends in .nii or .nii.gz, got '{name}'; add the ending"
    ):
        write_volume(tmp_path / name, Volume(np.zeros((2, 2, 2), np.uint8), np.eye(4)))


def test_same_volume_gives_the_same_bytes(tmp_path):
    volume = Volume(np.arange(27, dtype=np.int16).reshape(3, 3, 3), np.eye(4))
    for name in ("a.nii.gz", "b.nii.gz"):
        write_volume(tmp_path / name, volume)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


class TestInterruptedWriting:
    """Whatever stops it, the old file stays whole, or there is none; and no draft is left."""

    @pytest.fixture(params=["old", "none"])
    def path(self, request, tmp_path) -> Path:
        path = tmp_path / "image.nii.gz"
        if request.param == "old":
            write_volume(path, self.volume(1))
        self.before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
        return path

    @staticmethod
    def volume(value: int) -> Volume:
        noise = np.random.default_rng(value).integers(0, 255, (32, 32, 32), np.uint8)
        return Volume(noise, np.eye(4))

    def assert_nothing_happened(self, path: Path) -> None:
        assert {p.name: p.read_bytes() for p in path.parent.iterdir()} == self.before

    def test_by_a_full_disk(self, path, monkeypatch):
        whole = Path.write_bytes

        def half(self: Path, payload: bytes) -> int:
            whole(self, payload[: len(payload) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(Path, "write_bytes", half)
        with pytest.raises(
            UsageError, match=r"expected to write .*image\.nii\.gz, the system says: No space left on device; free"
        ):
            write_volume(path, self.volume(2))
        self.assert_nothing_happened(path)

    def test_by_a_limit_of_the_system(self, path):
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
        try:
            with pytest.raises(
                UsageError, match=r"expected to write .*image\.nii\.gz, the system says: File too large"
            ):
                write_volume(path, self.volume(2))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        self.assert_nothing_happened(path)

    @pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, OSError(errno.EIO, "Input/output error")])
    def test_at_the_last_step(self, path, error, monkeypatch):
        def fail(self: Path, target: Path) -> None:
            raise error

        monkeypatch.setattr(Path, "replace", fail)
        with pytest.raises((KeyboardInterrupt, MemoryError, UsageError), match=r"^$|Input/output error"):
            write_volume(path, self.volume(2))
        self.assert_nothing_happened(path)


def test_writing_onto_a_folder_is_refused(tmp_path):
    (tmp_path / "image.nii").mkdir()
    with pytest.raises(UsageError, match=r"expected to write .*image\.nii, the system says: Is a directory; "):
        write_volume(tmp_path / "image.nii", Volume(np.zeros((2, 2, 2), np.uint8), np.eye(4)))
    assert [path.name for path in tmp_path.iterdir()] == ["image.nii"]


def test_writing_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        UsageError, match=r"expected to write .*x\.json, the system says: (Not a directory|File exists); "
    ):
        write_bytes(tmp_path / "file" / "x.json", b"{}")


def test_gzip_of_several_members_is_read_whole(tmp_path):
    nibabel.save(image_of("i2"), tmp_path / "image.nii")
    content = (tmp_path / "image.nii").read_bytes()
    (tmp_path / "image.nii.gz").write_bytes(gzip.compress(content[:400]) + gzip.compress(content[400:]))
    np.testing.assert_array_equal(read_volume(tmp_path / "image.nii.gz").data, read_volume(tmp_path / "image.nii").data)


def test_header_extensions_are_passed_over(tmp_path):
    image = image_of("i2")
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"who was scanned"))
    nibabel.save(image, tmp_path / "image.nii")
    assert b"scanned" in (tmp_path / "image.nii").read_bytes()
    volume = read_volume(tmp_path / "image.nii")
    np.testing.assert_array_equal(volume.data, image.dataobj)
    write_volume(tmp_path / "second.nii", volume)
    assert b"scanned" not in (tmp_path / "second.nii").read_bytes()
    assert isinstance(volume.header, Nifti1Header)
    assert not isinstance(volume.header, Nifti2Header)
