"""Good NIfTI files in bytes, and what can be wrong with them."""

from __future__ import annotations

import gzip
import struct

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header

SHAPE = (6, 5, 4)
AFFINE = np.array([[1.0, 0, 0, -3], [0, 1.5, 0, -4], [0, 0, 2.0, 5], [0, 0, 0, 1]])
NAN, INF = float("nan"), float("inf")


def voxels(dtype: str = "<f4") -> np.ndarray:
    return np.random.default_rng(0).integers(1, 100, SHAPE).astype(dtype)


def header_of(kind: type[Nifti1Header] = Nifti1Header, dtype: str = "<f4", **fields: object) -> Nifti1Header:
    """A good header, then the fields as given, however wrong; `name_3` sets element 3."""
    header = kind(endianness="<")
    header.set_data_dtype(dtype)
    header.set_data_shape(SHAPE)
    header.set_sform(AFFINE, 1)
    header.set_qform(AFFINE, 1)
    header.set_xyzt_units("mm")
    header["magic"] = kind.single_magic
    header["vox_offset"] = kind.sizeof_hdr + 4
    header["scl_slope"], header["scl_inter"] = 1, 0
    for name, value in fields.items():
        field, _, index = name.rpartition("_")
        if index.isdigit():
            header[field][int(index)] = value
        else:
            header[name] = value
    return header


def nifti(body: bytes | None = None, extension: bytes = bytes(4), **fields: object) -> bytes:
    """A NIfTI-1 file, good but for the fields."""
    return header_of(**fields).binaryblock + extension + (voxels().tobytes("F") if body is None else body)


def with_voxel(value: float) -> bytes:
    data = voxels()
    data[:2, 1, 1] = value
    return data.tobytes("F")


def sheared(share: float) -> dict[str, object]:
    return {"qform_code": 0, "srow_x_1": share * 1.5}


GOOD = nifti()
ZIPPED = gzip.compress(GOOD, mtime=0)

BAD_FILES: dict[str, tuple[str, bytes, str]] = {
    "01 empty file": (".nii", b"", r"expected an image in .*, found an empty file; copy it again"),
    "01 empty file named .gz": (".nii.gz", b"", r"found an empty file"),
    "01 empty gzip stream": (".nii.gz", gzip.compress(b""), r"expected a NIfTI file .* found something else"),
    "02 header cut": (".nii", GOOD[:100], r"expected a NIfTI header of 348 bytes in .*, found 100; .*truncated"),
    "02 three bytes": (".nii", GOOD[:3], r"expected a NIfTI header of 348 bytes in .*, found 3;"),
    "03 text": (".nii", b"This is not an image.\n" * 40, r"expected a NIfTI file .* found something else; convert it"),
    "03 PNG": (".nii", b"\x89PNG\r\n\x1a\n" + bytes(600), r"expected a NIfTI file .* found something else"),
    "03 DICOM": (".nii", bytes(128) + b"DICM" + bytes(600), r"expected a NIfTI file .* found something else"),
    "04 gzip named .nii": (".nii", ZIPPED, r"expected the name .* to fit its content, found gzip data in a file not"),
    "05 plain named .nii.gz": (".nii.gz", GOOD, r"found no gzip data in a file named .gz; rename the file"),
    "06 gzip cut in its data": (
        ".nii.gz",
        ZIPPED[:-20],
        r"expected a whole gzip stream in .*, found that it ends early",
    ),
    "06 gzip cut in its trailer": (".nii.gz", ZIPPED[:-2], r"expected a whole gzip stream in .*, found that it ends"),
    "06 gzip cut in its header": (".nii.gz", ZIPPED[:40], r"expected a NIfTI header of 348 bytes|something else"),
    "07 gzip checksum": (
        ".nii.gz",
        ZIPPED[:-8] + bytes(4) + ZIPPED[-4:],
        r"expected an intact gzip stream .*CRC check",
    ),
    "07 gzip length": (".nii.gz", ZIPPED[:-4] + bytes(4), r"expected an intact gzip stream .*Incorrect length"),
    "07 junk after gzip": (".nii.gz", ZIPPED + b"junk" * 5, r"expected an intact gzip stream .*Not a gzipped file"),
    "08 data cut": (".nii", GOOD[:-17], r"expected 832 bytes of header and voxels in .*, found 815; the file is trunc"),
    "08 data cut, then zipped": (".nii.gz", gzip.compress(GOOD[:-17]), r"expected 832 bytes .*, found 815"),
    "08 no data": (".nii", GOOD[:352], r"expected 832 bytes of header and voxels in .*, found 352"),
    "09 data left over": (
        ".nii",
        GOOD + b"\0",
        r"expected 832 bytes of header and voxels in .*, found more; its header",
    ),
    "09 data left over, zipped": (".nii.gz", gzip.compress(GOOD + b"1"), r"expected 832 bytes .*, found more"),
    "10 magic": (".nii", nifti(magic=b"abc"), r"expected a NIfTI file .* found something else"),
    "10 magic of NIfTI-2": (".nii", nifti(magic=b"n+2"), r"expected a NIfTI file .* found something else"),
    "10 size of header": (".nii", nifti(sizeof_hdr=349), r"expected a NIfTI file .* found something else"),
    "10 NIfTI-2 sent as text": (
        ".nii",
        header_of(Nifti2Header).binaryblock.replace(b"\r\n", b"\n\n") + bytes(4 + 480),
        r"expected a NIfTI file .* found something else",
    ),
    "11 no dimension": (".nii", nifti(dim_0=0), r"expected three dimensions of at least 1 in .*, found 0;"),
    "11 eight dimensions": (".nii", nifti(dim_0=8), r"expected three dimensions of at least 1 in .*, found 6x5x4x"),
    "11 minus three dimensions": (".nii", nifti(dim_0=-3), r"expected three dimensions .*, found -3;"),
    "12 negative size": (".nii", nifti(dim_1=-8), r"expected three dimensions of at least 1 in .*, found -8x5x4;"),
    "12 size of zero": (".nii", nifti(dim_3=0), r"expected three dimensions of at least 1 in .*, found 6x5x0;"),
    "13 281 TB": (
        ".nii",
        nifti(dtype="<f8", dim_1=32767, dim_2=32767, dim_3=32767),
        r"expected at most 4 GiB, the header of .* says 262120\.0 GiB; check the header",
    ),
    "13 more than 2^64 bytes": (
        ".nii",
        header_of(Nifti2Header, dim_1=2**32, dim_2=2**32, dim_3=2**32).binaryblock + bytes(4),
        r"expected at most 4 GiB, the header of .* says \d{20,}\.0 GiB",
    ),
    "14 twenty frames": (".nii", nifti(dim_0=4, dim_4=20), r"expected a 3D image in .*, found 4D 6x5x4x20; split it"),
    "14 vector": (".nii", nifti(dim_0=5, dim_5=3), r"expected a 3D image in .*, found 5D 6x5x4x1x3"),
    "15 two dimensions": (".nii", nifti(dim_0=2), r"expected three dimensions of at least 1 in .*, found 6x5;"),
    "15 one slice": (".nii", nifti(dim_3=1), r"expected at least 2 voxels along each axis of .*, found 6x5x1; give a"),
    "16 RGB": (
        ".nii",
        nifti(datatype=128, bitpix=24),
        r"expected numbers of at most 64 bits in .*, found .*\(code 128\)",
    ),
    "16 complex": (".nii", nifti(datatype=32, bitpix=64), r"expected numbers .*, found complex64 \(code 32\); convert"),
    "16 128 bits": (".nii", nifti(datatype=1536, bitpix=128), r"expected numbers .*, found .*code 1536"),
    "16 unknown type": (".nii", nifti(datatype=999), r"expected numbers .*, found the unknown code 999"),
    "16 no type": (".nii", nifti(datatype=0), r"expected numbers .*, found the unknown code 0"),
    "17 bits": (
        ".nii",
        nifti(bitpix=16),
        r"expected 32 bits per voxel of float32 in .*, found 16; its header is damaged",
    ),
    "18 NaN in sform": (
        ".nii",
        nifti(srow_x_0=NAN, qform_code=0),
        r"expected a finite, invertible affine .*, found \[\[nan",
    ),
    "18 infinite translation": (".nii", nifti(srow_y_3=INF, qform_code=0), r"expected a finite, .* found .*inf"),
    "18 NaN in qform": (".nii", nifti(qoffset_x=NAN, sform_code=0), r"expected a finite, invertible affine in .*nan"),
    "18 NaN in quaternion": (".nii", nifti(quatern_b=NAN, sform_code=0), r"expected a (finite, .*nan|usable qform)"),
    "18 quaternion too long": (
        ".nii",
        nifti(quatern_b=3, sform_code=0),
        r"expected a usable qform in .*, found: w2 should",
    ),
    "19 zero affine": (
        ".nii",
        nifti(srow_x=0, srow_y=0, srow_z=0, qform_code=0),
        r"expected a finite, invertible affine in .*, found \[\[0",
    ),
    "19 parallel axes": (".nii", nifti(srow_x_1=1.5, srow_y_1=0, qform_code=0), r"found a shear of 100\.0%"),
    "20 shear of a tenth": (
        ".nii",
        nifti(**sheared(0.1)),
        r"expected orthogonal axes in .*, found a shear of 10\.0%; resam",
    ),
    "20 shear of a hundredth": (
        ".nii",
        nifti(**sheared(0.01)),
        r"expected orthogonal axes in .*, found a shear of 1\.0%",
    ),
    "21 spacing of zero": (
        ".nii",
        nifti(pixdim_1=0),
        r"expected voxel sizes above 0 mm in .*, found 0x1\.5x2; convert",
    ),
    "21 negative spacing": (".nii", nifti(pixdim_2=-1), r"expected voxel sizes above 0 mm in .*, found 1x-1x2"),
    "21 NaN spacing": (".nii", nifti(pixdim_3=NAN), r"expected voxel sizes above 0 mm in .*, found 1x1\.5xnan"),
    "22 forms apart": (
        ".nii",
        nifti(srow_x_3=4),
        r"expected qform and sform of .* to agree, found corners 7\.0 mm apart",
    ),
    "22 forms mirrored": (
        ".nii",
        nifti(srow_x_0=-1, srow_x_3=2),
        r"expected qform and sform of .* to agree, found corners 5\.0 mm apart; keep the right one",
    ),
    "23 no orientation": (
        ".nii",
        nifti(sform_code=0, qform_code=0),
        r"expected an orientation in .*, found neither sform nor qform; set one",
    ),
    "24 NaN slope": (".nii", nifti(scl_slope=NAN), r"expected a finite scaling in .*, found slope nan, intercept 0;"),
    "24 infinite intercept": (
        ".nii",
        nifti(scl_inter=INF),
        r"expected a finite scaling in .*, found slope 1, inter.* inf;",
    ),
    "24 slope beyond float32": (
        ".nii",
        nifti(scl_slope=3e38),
        r"expected finite voxels in .*, found 1\d\d of 120 NaN or inf",
    ),
    "25 negative offset": (
        ".nii",
        nifti(vox_offset=-1),
        r"expected the voxels of .* soon after its header, found offset -1",
    ),
    "25 offset in the header": (".nii", nifti(vox_offset=348), r"soon after its header, found offset 348; convert it"),
    "25 offset of zero": (".nii", nifti(vox_offset=0), r"soon after its header, found offset 0; convert it"),
    "25 NaN offset": (".nii", nifti(vox_offset=NAN), r"soon after its header, found offset nan; convert it"),
    "25 fraction as offset": (
        ".nii",
        nifti(vox_offset=352.5),
        r"soon after its header, found offset 352\.5; convert it",
    ),
    "25 offset past the end": (
        ".nii",
        nifti(vox_offset=10_000),
        r"expected 10,480 bytes of header and voxels .* found 832",
    ),
    "25 offset past all ends": (
        ".nii",
        nifti(vox_offset=1e30),
        r"soon after its header, found offset 1e\+30; convert it",
    ),
    "26 extension too long": (
        ".nii",
        nifti(extension=b"\1\0\0\0" + struct.pack("<ii", 4096, 6) + bytes(8), vox_offset=368),
        r"expected header extensions within 16 bytes in .*, found one of 4096; its header is damaged",
    ),
    "26 extension of negative size": (
        ".nii",
        nifti(extension=b"\1\0\0\0" + struct.pack("<ii", -16, 6) + bytes(8), vox_offset=368),
        r"expected header extensions within 16 bytes in .*, found one of -16",
    ),
    "27 NaN voxels": (
        ".nii",
        nifti(with_voxel(NAN)),
        r"expected finite voxels in .*, found 2 of 120 NaN or infinite; repl",
    ),
    "27 infinite voxels": (".nii.gz", gzip.compress(nifti(with_voxel(-INF))), r"found 2 of 120 NaN or infinite"),
    "29 micrometres as mm": (
        ".nii",
        nifti(srow_x_0=1000, qform_code=0),
        r"expected voxels of 0\.01 to 100 mm in .*, found 1000x1\.5x2 mm; check its units",
    ),
    "29 metres as mm": (
        ".nii",
        nifti(srow_z_2=0.002, qform_code=0),
        r"expected voxels of 0\.01 to 100 mm .*x0\.002 mm",
    ),
    "29 units of micrometres": (
        ".nii",
        nifti(xyzt_units=3),
        r"expected millimetres in .*, found micrometres; convert it",
    ),
    "29 units unknown to the format": (
        ".nii",
        nifti(xyzt_units=7),
        r"expected millimetres in .*, found the unknown unit 7",
    ),
    "30 header of a pair": (
        ".hdr",
        nifti(magic=b"ni1"),
        r"expected a NIfTI file \(\.nii, \.nii\.gz\) at .*, found something",
    ),
    "31 CIFTI": (
        ".nii",
        header_of(Nifti2Header, dim_0=6, dim_1=1, dim_2=1, dim_3=1, dim_5=10, dim_6=10).binaryblock + bytes(404),
        r"expected a 3D image in .*, found 6D 1x1x1x1x10x10",
    ),
}
