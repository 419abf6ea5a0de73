"""One channel of a NIfTI file that holds several modalities along its fourth axis."""

from __future__ import annotations

import gzip
import tracemalloc
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Image
from nibabel.nifti2 import Nifti2Image

from segkit import Subject
from segkit.dataset import read_images
from segkit.errors import VolumeError
from segkit.nifti import read_volume, write_volume

SHAPE = (5, 4, 3, 4)
AFFINE = np.array([[-1.5, 0, 0, 90], [0, 0, 2, -126], [0, 1, 0, -72], [0, 0, 0, 1.0]])


def save(path: Path, data: np.ndarray, *, kind=Nifti1Image, byteorder: str = "<") -> Path:
    header = kind.header_class(endianness=byteorder)
    header.set_data_dtype(data.dtype)
    nibabel.save(kind(data, AFFINE, header, dtype=data.dtype), path)
    return path


def voxels(dtype: str = "i2", shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 100, shape).astype(dtype)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", [Nifti1Image, Nifti2Image], ids=["nifti1", "nifti2"])
@pytest.mark.parametrize("byteorder", ["<", ">"], ids=["little", "big"])
@pytest.mark.parametrize("dtype", ["u1", "i2", "f4", "f8"])
def test_each_channel_reads_as_nibabel_reads_it(dtype, byteorder, kind, ending, tmp_path):
    path = save(tmp_path / f"image{ending}", voxels(dtype), kind=kind, byteorder=byteorder)
    for channel in range(SHAPE[3]):
        volume = read_volume(path, channel=channel)
        assert volume.data.dtype == np.dtype(dtype)
        assert volume.data.dtype.isnative
        np.testing.assert_array_equal(volume.data, np.asanyarray(nibabel.load(path).dataobj)[..., channel])
        np.testing.assert_array_equal(volume.affine, nibabel.load(path).affine)


def test_channel_of_a_scaled_file_is_scaled(tmp_path):
    path = save(tmp_path / "image.nii", voxels())
    header = nibabel.load(path).header
    header["scl_slope"], header["scl_inter"], header["vox_offset"] = 0.5, -3, 352
    path.write_bytes(header.binaryblock + bytes(4) + voxels().tobytes("F"))
    np.testing.assert_array_equal(read_volume(path, channel=3).data, voxels()[..., 3] * 0.5 - 3)


def test_channel_is_written_as_a_3d_image(tmp_path):
    volume = read_volume(save(tmp_path / "image.nii", voxels()), channel=1)
    write_volume(tmp_path / "channel.nii.gz", volume)
    again = read_volume(tmp_path / "channel.nii.gz")
    np.testing.assert_array_equal(again.data, voxels()[..., 1])
    np.testing.assert_array_equal(again.affine, volume.affine)


@pytest.mark.parametrize("shape", [SHAPE[:3], (*SHAPE[:3], 1), (*SHAPE[:3], 1, 1)])
def test_file_of_one_volume_has_the_channel_0_only(shape, tmp_path):
    path = save(tmp_path / "image.nii", voxels(shape=shape))
    np.testing.assert_array_equal(read_volume(path, channel=0).data, voxels(shape=shape).reshape(SHAPE[:3]))
    with pytest.raises(VolumeError, match=r"expected a channel from 0 to 0 of .*image\.nii, got 1; check which modal"):
        read_volume(path, channel=1)


@pytest.mark.parametrize("channel", [-1, 4, 100])
def test_channel_that_the_file_lacks_is_refused(channel, tmp_path):
    path = save(tmp_path / "image.nii.gz", voxels())
    with pytest.raises(VolumeError, match=rf"expected a channel from 0 to 3 of .*image\.nii\.gz, got {channel}; check"):
        read_volume(path, channel=channel)


def test_file_of_several_channels_is_refused_where_none_is_named(tmp_path):
    with pytest.raises(VolumeError, match=r"expected a 3D image in .*, found 4D 5x4x3x4; split it"):
        read_volume(save(tmp_path / "image.nii", voxels()))


def test_fifth_axis_is_refused_with_a_channel_too(tmp_path):
    path = save(tmp_path / "image.nii", voxels(shape=(*SHAPE[:3], 1, 4)))
    with pytest.raises(VolumeError, match=r"expected a 3D or 4D image in .*, found 5D 5x4x3x1x4; split it"):
        read_volume(path, channel=0)


def test_nan_counts_in_the_channel_that_is_read(tmp_path):
    data = voxels("f4")
    data[0, 0, 0, 2] = np.nan
    path = save(tmp_path / "image.nii", data)
    np.testing.assert_array_equal(read_volume(path, channel=1).data, data[..., 1])
    with pytest.raises(VolumeError, match=r"expected finite voxels in .*, found 1 of 60 NaN or infinite"):
        read_volume(path, channel=2)


def test_damage_behind_the_first_channel_is_found_when_the_first_is_read(tmp_path):
    path = save(tmp_path / "image.nii.gz", voxels())
    zipped = bytearray(gzip.compress(gzip.decompress(path.read_bytes()), compresslevel=0))
    zipped[-20] ^= 1  # within the voxels of the last channel, stored uncompressed
    path.write_bytes(zipped)
    with pytest.raises(VolumeError, match=r"expected an intact gzip stream in .*CRC"):
        read_volume(path, channel=0)


def test_file_that_ends_within_a_later_channel_is_refused(tmp_path):
    path = save(tmp_path / "image.nii", voxels())
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(VolumeError, match=r"expected 832 bytes of header and voxels in .*, found 830"):
        read_volume(path, channel=0)


def test_size_of_all_channels_counts_against_the_budget(tmp_path):
    path = save(tmp_path / "image.nii", voxels())
    header = nibabel.load(path).header
    header["dim"][1:5] = 1024, 1024, 1024, 4
    path.write_bytes(header.binaryblock + bytes(4))
    with pytest.raises(VolumeError, match=r"expected at most 4 GiB, the header of .* says 8\.0 GiB"):
        read_volume(path, channel=0)


def test_other_channels_are_not_kept_in_memory(tmp_path):
    path = save(tmp_path / "image.nii", voxels(shape=(64, 64, 32, 8)))
    tracemalloc.start()
    try:
        volume = read_volume(path, channel=5)
        kept = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert volume.data.nbytes <= kept < 2 * volume.data.nbytes


def test_subject_reads_its_modalities_from_one_file(tmp_path):
    path = save(tmp_path / "image.nii.gz", voxels())
    subject = Subject(id="1", images={"T2": path, "FLAIR": path}, channels={"FLAIR": 0, "T2": 3})
    _, volumes = read_images(subject, ["FLAIR", "T2"])
    for volume, channel in zip(volumes, (0, 3), strict=True):
        np.testing.assert_array_equal(volume.data, read_volume(path, channel=channel).canonical().data)
