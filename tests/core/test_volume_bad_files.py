"""Files that are not what they should be: each is refused in one line that says what was found."""

from __future__ import annotations

import gzip
import os
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.bad_nifti import AFFINE, BAD_FILES, GOOD, ZIPPED, voxels

from segkit.errors import VolumeError
from segkit.nifti import MAX_VOLUME_BYTES, read_volume


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_file_is_refused_in_one_line_that_tells_what_was_found_and_what_to_do(case, tmp_path):
    ending, content, message = BAD_FILES[case]
    path = tmp_path / f"image{ending}"
    path.write_bytes(content)
    with pytest.raises(VolumeError, match=message) as caught:
        read_volume(path)
    assert "\n" not in str(caught.value)
    assert str(path) in caught.value.message
    assert caught.value.hint
    assert caught.value.exit_code == 2


def test_file_that_all_bad_ones_were_made_from_is_good(tmp_path):
    (tmp_path / "image.nii").write_bytes(GOOD)
    (tmp_path / "image.nii.gz").write_bytes(ZIPPED)
    for name in ("image.nii", "image.nii.gz"):
        volume = read_volume(tmp_path / name)
        np.testing.assert_array_equal(volume.data, voxels())
        np.testing.assert_array_equal(volume.affine, AFFINE)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, r"expected an image at .*, found no such file; check the path"),
        (Path.mkdir, r"expected an image at .*, found a folder; name the file inside it"),
        (os.mkfifo, r"expected an image at .*, found a device or a pipe; name a regular file"),
        (lambda path: path.symlink_to(path), r"expected an image at .*(levels of symbolic links|no such file)"),
    ],
    ids=["missing", "folder", "pipe", "link to itself"],
)
def test_path_without_a_regular_file_is_refused(make: Callable[[Path], None], message, tmp_path):
    make(tmp_path / "image.nii")
    with pytest.raises(VolumeError, match=message):
        read_volume(tmp_path / "image.nii")


@pytest.mark.parametrize("name", ["a\0b.nii", "n" * 300 + ".nii"], ids=["NUL", "300 letters"])
def test_name_that_no_file_can_have_is_refused(name, tmp_path):
    with pytest.raises(VolumeError, match=r"(?s)expected an image at .*, which cannot be read: .*; check the path"):
        read_volume(tmp_path / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_file_without_permission_is_refused(tmp_path):
    (tmp_path / "image.nii").write_bytes(GOOD)
    (tmp_path / "image.nii").chmod(0)
    with pytest.raises(
        VolumeError, match=r"which cannot be read: Permission denied; check the path and its permissions"
    ):
        read_volume(tmp_path / "image.nii")


@pytest.mark.parametrize("case", ["13 281 TB", "13 more than 2^64 bytes"])
@pytest.mark.parametrize("zipped", [False, True])
def test_header_that_claims_too_much_is_refused_without_room_being_made_for_it(case, zipped, tmp_path):
    content = BAD_FILES[case][1]
    path = tmp_path / ("image.nii.gz" if zipped else "image.nii")
    path.write_bytes(gzip.compress(content) if zipped else content)
    tracemalloc.start()
    try:
        with pytest.raises(VolumeError, match=r"expected at most 4 GiB"):
            read_volume(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**20


def test_file_larger_than_any_volume_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "image.nii"
    path.write_bytes(GOOD)
    os.truncate(path, 2 * MAX_VOLUME_BYTES)  # sparse: takes no room on the disk
    with pytest.raises(VolumeError, match=r"expected at most 4 GiB, found 8\.0 GiB in .*; crop or resample"):
        read_volume(path)


def test_bomb_behind_a_small_header_is_refused_without_being_inflated(tmp_path):
    packer = zlib.compressobj(9, wbits=31)
    bomb = packer.compress(GOOD) + b"".join(packer.compress(bytes(2**20)) for _ in range(32)) + packer.flush()
    (tmp_path / "image.nii.gz").write_bytes(bomb)
    tracemalloc.start()
    try:
        with pytest.raises(VolumeError, match=r"expected 832 bytes of header and voxels in .*, found more"):
            read_volume(tmp_path / "image.nii.gz")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * 2**20


def test_flipped_bit_of_a_gzip_file_is_refused_or_harmless(tmp_path):
    path = tmp_path / "image.nii.gz"
    harmless = 0
    for bit in np.random.default_rng(1).choice(8 * len(ZIPPED), 200, replace=False):
        content = bytearray(ZIPPED)
        content[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(content)
        try:
            volume = read_volume(path)
        except VolumeError:
            continue
        harmless += 1
        np.testing.assert_array_equal(volume.data, voxels())
        np.testing.assert_array_equal(volume.affine, AFFINE)
    assert harmless < 20  # the time and the system in the gzip header, codes that no byte uses


def test_flipped_bit_of_a_plain_header_gives_a_volume_or_a_refusal_and_nothing_else(tmp_path):
    """A plain file has no checksum, so some flips must pass; none may end in another error, or in unsound values."""
    path = tmp_path / "image.nii"
    refused = 0
    for bit in np.random.default_rng(2).choice(8 * 352, 600, replace=False):
        content = bytearray(GOOD)
        content[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(content)
        try:
            volume = read_volume(path)
        except VolumeError:
            refused += 1
            continue
        assert np.isfinite(volume.data).all()
        assert np.linalg.det(volume.affine) != 0
        assert volume.data.size == voxels().size
    assert refused > 50


@settings(max_examples=100, deadline=None, derandomize=True)
@given(start=st.integers(4, 340), noise=st.binary(min_size=1, max_size=80))
def test_noise_anywhere_in_the_header_gives_a_volume_or_a_refusal(start, noise, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "noise.nii"
    path.write_bytes(GOOD[:start] + noise + GOOD[start + len(noise) :])
    try:
        volume = read_volume(path)
    except VolumeError:
        return
    assert np.isfinite(volume.data).all()
