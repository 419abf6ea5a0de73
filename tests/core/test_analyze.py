"""Analyze 7.5 pairs: read as nibabel reads them, on the axes that the data set states, or refused in one line."""

from __future__ import annotations

import itertools
import os
import tracemalloc
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.analyze import AnalyzeHeader, AnalyzeImage
from nibabel.nifti1 import Nifti1Pair

from segkit import Subject
from segkit.analyze import read_analyze
from segkit.dataset import read_images
from segkit.errors import VolumeError
from segkit.nifti import read_volume, write_volume

SHAPE = (6, 5, 4)
SPACING_MM = (1.0, 1.5, 2.0)


def voxels(dtype: str = "<i2") -> np.ndarray:
    return np.random.default_rng(0).integers(1, 100, SHAPE).astype(dtype)


def header_of(dtype: str = "<i2", byteorder: str = "<", **fields: object) -> AnalyzeHeader:
    """A good header, then the fields as given, however wrong; `name_3` sets element 3."""
    header = AnalyzeHeader(endianness=byteorder)
    header.set_data_dtype(dtype)
    header.set_data_shape((*SHAPE, 1))
    header.set_zooms((*SPACING_MM, 1))
    for name, value in fields.items():
        field, _, index = name.rpartition("_")
        if index.isdigit():
            header[field][int(index)] = value
        else:
            header[name] = value
    return header


def save(folder: Path, head: bytes, body: bytes) -> Path:
    path = folder / "head.hdr"
    path.write_bytes(head)
    path.with_suffix(".img").write_bytes(body)
    return path


HEAD, BODY = header_of().binaryblock, voxels().tobytes("F")


def head(**fields: object) -> bytes:
    return header_of(**fields).binaryblock


def with_voxel(value: float) -> bytes:
    data = voxels("<f4")
    data[0, :3, 1] = value
    return data.tobytes("F")


def nifti_header(endianness: str) -> bytes:
    header = Nifti1Pair.header_class(endianness=endianness)
    header.set_data_shape(SHAPE)
    return header.binaryblock + bytes(4)


class TestGoodPairs:
    @pytest.mark.parametrize("byteorder", ["<", ">"], ids=["little", "big"])
    @pytest.mark.parametrize("dtype", ["u1", "i2", "i4", "f4", "f8"])
    @pytest.mark.parametrize("shape", [SHAPE, (*SHAPE, 1)], ids=["3D", "3D and one more"])
    def test_read_as_nibabel_reads_its_own_plain_analyze(self, byteorder, dtype, shape, tmp_path):
        header = AnalyzeHeader(endianness=byteorder)
        header.set_data_dtype(dtype)
        image = AnalyzeImage(voxels(dtype).reshape(shape), None, header)
        image.header.set_zooms((*SPACING_MM, 1)[: len(shape)])
        nibabel.save(image, tmp_path / "head.hdr")
        for ending in (".hdr", ".img"):
            volume = read_analyze(tmp_path / f"head{ending}", "LAS")
            assert volume.data.dtype == np.dtype(dtype)
            assert volume.data.dtype.isnative
            np.testing.assert_array_equal(volume.data, voxels(dtype))
            np.testing.assert_array_equal(volume.affine, AnalyzeImage.load(tmp_path / "head.hdr").affine)

    def test_affine_has_the_stated_directions_the_voxel_sizes_and_its_origin_at_the_centre(self, tmp_path):
        path = save(tmp_path, HEAD, BODY)
        for axes in itertools.permutations(["LR", "PA", "IS"]):
            for orientation in map("".join, itertools.product(*axes)):
                volume = read_analyze(path, orientation)
                assert volume.orientation == orientation
                assert volume.spacing_mm == SPACING_MM
                centre = volume.affine @ [*(np.array(SHAPE) - 1) / 2, 1]
                np.testing.assert_allclose(centre, [0, 0, 0, 1], atol=1e-12)

    def test_one_head_stored_two_ways_round_lies_in_one_place(self, tmp_path):
        las = read_analyze(save(tmp_path, HEAD, BODY), "LAS").canonical()
        ras = read_analyze(save(tmp_path, HEAD, voxels()[::-1].tobytes("F")), "RAS").canonical()
        np.testing.assert_array_equal(las.data, ras.data)
        np.testing.assert_array_equal(las.affine, ras.affine)

    def test_written_as_nifti_it_keeps_voxels_and_affine(self, tmp_path):
        volume = read_analyze(save(tmp_path, HEAD, BODY), "LAS")
        write_volume(tmp_path / "head.nii.gz", volume)
        again = read_volume(tmp_path / "head.nii.gz")
        np.testing.assert_array_equal(again.data, volume.data)
        np.testing.assert_array_equal(again.affine, volume.affine)

    @pytest.mark.parametrize("unit", [b"mm", b"", b"vox"])
    def test_units_that_are_no_other_length_are_millimetres(self, unit, tmp_path):
        assert read_analyze(save(tmp_path, head(vox_units=unit), BODY), "LAS").spacing_mm == SPACING_MM

    def test_voxels_that_begin_as_gzip_does_are_voxels(self, tmp_path):
        body = b"\x1f\x8b" + BODY[2:]
        assert read_analyze(save(tmp_path, HEAD, body), "LAS").data.tobytes("F") == body

    def test_subject_is_read_on_the_axes_that_it_states(self, tmp_path):
        subject = Subject(id="1", images={"T1": save(tmp_path, HEAD, BODY)}, orientation="LAS")
        original, (canonical,) = read_images(subject, ["T1"])
        assert (original.orientation, canonical.orientation) == ("LAS", "RAS")
        np.testing.assert_array_equal(canonical.data, voxels()[::-1])


BAD_PAIRS: dict[str, tuple[bytes, bytes, str]] = {
    "empty header": (b"", BODY, r"expected an image in .*\.hdr, found an empty file; copy it again"),
    "text": (b"This is no header." * 30, BODY, r"expected an Analyze 7\.5 header in .*, found something else; convert"),
    "header cut": (HEAD[:200], BODY, r"expected a header of 348 bytes in .*\.hdr, found 200; copy the pair again"),
    "header too long": (HEAD + bytes(8), BODY, r"expected a header of 348 bytes in .*\.hdr, found 356"),
    "NIfTI": (
        nifti_header("<"),
        BODY,
        r"expected an Analyze 7\.5 header .* found a NIfTI one; convert the pair",
    ),
    "NIfTI of the other byte order": (nifti_header(">"), BODY, r"found a NIfTI one; convert the pair to one \.nii\.gz"),
    "no voxels": (HEAD, b"", r"expected an image in .*\.img, found an empty file"),
    "voxels cut": (HEAD, BODY[:-1], r"expected 240 bytes of voxels in .*\.img, as its header says, found 239; copy"),
    "voxels left over": (HEAD, BODY + b"\0", r"expected 240 bytes of voxels in .*\.img, as .* says, found 241"),
    "two dimensions": (head(dim_0=2), BODY, r"expected three dimensions of at least 1 in .*\.hdr, found 6x5;"),
    "negative size": (head(dim_2=-5), BODY, r"expected three dimensions of at least 1 in .*, found 6x-5x4x1"),
    "one slice": (head(dim_3=1), BODY, r"expected at least 2 voxels along each axis of .*, found 6x5x1"),
    "twenty frames": (head(dim_4=20), BODY, r"expected a 3D image in .*, found 4D 6x5x4x20; split it"),
    "too large": (
        head(dtype="<f8", dim_1=32767, dim_2=32767, dim_3=32767),
        BODY,
        r"expected at most 4 GiB, the header of .* says 262120\.0 GiB; check the header",
    ),
    "RGB": (head(datatype=128, bitpix=24), BODY, r"expected numbers of at most 64 bits .*\(code 128\)"),
    "complex": (head(datatype=32, bitpix=64), BODY, r"expected numbers .*, found complex64 \(code 32\)"),
    "bits": (head(datatype=1, bitpix=1), BODY, r"expected numbers .*code 1\b"),
    "unknown type": (head(datatype=999), BODY, r"expected numbers .*, found the unknown code 999"),
    "bits per voxel": (head(bitpix=8), BODY, r"expected 16 bits per voxel of int16 in .*, found 8; its header is dam"),
    "spacing of zero": (head(pixdim_1=0), BODY, r"expected voxel sizes above 0 mm in .*, found 0x1\.5x2"),
    "negative spacing": (head(pixdim_1=-1), BODY, r"expected voxel sizes above 0 mm in .*, found -1x1\.5x2"),
    "NaN spacing": (head(pixdim_3=np.nan), BODY, r"expected voxel sizes above 0 mm in .*, found 1x1\.5xnan"),
    "micrometres as mm": (head(pixdim_1=1000), BODY, r"expected voxels of 0\.01 to 100 mm in .*, found 1000x1\.5x2 mm"),
    "centimetres": (head(vox_units=b"cm"), BODY, r"expected millimetres in .*, found the unit cm; convert it again"),
    "voxels further on": (head(vox_offset=348), BODY, r"expected the voxels .* start of the \.img, found offset 348"),
    "scale factor": (head(funused1=0.5), BODY, r"expected voxels without a scale factor in .*, found the factor 0\.5"),
    "NaN scale factor": (head(funused1=np.nan), BODY, r"expected voxels without a scale factor in .*factor nan"),
    "NaN voxels": (head(dtype="<f4"), with_voxel(np.nan), r"expected finite voxels in .*\.img, found 3 of 120 NaN"),
    "infinite voxels": (head(dtype="<f4"), with_voxel(np.inf), r"expected finite voxels in .*\.img, found 3 of 120"),
}


class TestBadPairs:
    @pytest.mark.parametrize("case", BAD_PAIRS)
    def test_is_refused_in_one_line_that_tells_what_was_found_and_what_to_do(self, case, tmp_path):
        header, body, message = BAD_PAIRS[case]
        path = save(tmp_path, header, body)
        with pytest.raises(VolumeError, match=message) as caught:
            read_analyze(path, "LAS")
        assert "\n" not in str(caught.value)
        assert str(path.with_suffix("")) in caught.value.message
        assert caught.value.hint

    @pytest.mark.parametrize("given_ending", [".hdr", ".img"])
    @pytest.mark.parametrize("lost", [".hdr", ".img"])
    def test_half_of_it_is_not_enough(self, given_ending, lost, tmp_path):
        path = save(tmp_path, HEAD, BODY)
        path.with_suffix(lost).unlink()
        with pytest.raises(VolumeError, match=rf"expected an image at .*\{lost}, found no such file; check the path"):
            read_analyze(path.with_suffix(given_ending), "LAS")

    @pytest.mark.parametrize("name", ["head.img.gz", "head.nii", "head"])
    def test_other_names_are_refused(self, name, tmp_path):
        with pytest.raises(VolumeError, match=r"expected an Analyze pair named \.hdr and \.img, got .*; convert it to"):
            read_analyze(tmp_path / name, "LAS")

    @pytest.mark.parametrize("orientation", ["", "LA", "LAX", "LRS", "las", "LASS", "L AS", "AAA"])
    def test_directions_that_are_none_are_refused(self, orientation, tmp_path):
        with pytest.raises(
            VolumeError,
            match=rf"expected the directions of the three axes of .*, got '{orientation}'; Analyze files state none",
        ):
            read_analyze(save(tmp_path, HEAD, BODY), orientation)

    def test_large_file_behind_a_small_header_is_refused_before_it_is_read(self, tmp_path):
        path = save(tmp_path, HEAD, BODY)
        os.truncate(path.with_suffix(".img"), 2**28)  # sparse: takes no room on the disk
        tracemalloc.start()
        try:
            with pytest.raises(VolumeError, match=r"expected 240 bytes of voxels in .*, found 268,435,456"):
                read_analyze(path, "LAS")
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 2**20

    @settings(max_examples=100, deadline=None, derandomize=True)
    @given(start=st.integers(0, 340), noise=st.binary(min_size=1, max_size=80))
    def test_noise_anywhere_in_the_header_gives_a_volume_or_a_refusal(self, start, noise, tmp_path_factory):
        path = save(tmp_path_factory.getbasetemp(), (HEAD[:start] + noise + HEAD[start + len(noise) :])[:348], BODY)
        try:
            volume = read_analyze(path, "LAS")
        except VolumeError:
            return
        assert volume.data.size == voxels().size
        assert volume.orientation == "LAS"
