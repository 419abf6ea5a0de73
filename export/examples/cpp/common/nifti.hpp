/// NIfTI-1 files, read strictly to the last byte and written in one step.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <variant>
#include <vector>

#include "grid.hpp"

namespace segkit {

/// The header as it lies in the file, little-endian.
struct NiftiHeader {
    std::int32_t sizeof_hdr;
    char data_type[10], db_name[18];
    std::int32_t extents;
    std::int16_t session_error;
    char regular, dim_info;
    std::int16_t dim[8];
    float intent_p1, intent_p2, intent_p3;
    std::int16_t intent_code, datatype, bitpix, slice_start;
    float pixdim[8], vox_offset, scl_slope, scl_inter;
    std::int16_t slice_end;
    char slice_code;
    std::uint8_t xyzt_units;
    float cal_max, cal_min, slice_duration, toffset;
    std::int32_t glmax, glmin;
    char descrip[80], aux_file[24];
    std::int16_t qform_code, sform_code;
    float quatern_b, quatern_c, quatern_d, qoffset_x, qoffset_y, qoffset_z;
    float srow[3][4];
    char intent_name[16], magic[4];
};
static_assert(sizeof(NiftiHeader) == 348, "expected no padding in the header");

/// The voxels of a volume in the order of the file (x fastest), as stored; float where the header scales them.
using Voxels =
    std::variant<std::vector<std::uint8_t>, std::vector<std::int8_t>, std::vector<std::int16_t>,
                 std::vector<std::uint16_t>, std::vector<std::int32_t>, std::vector<std::uint32_t>,
                 std::vector<std::int64_t>, std::vector<std::uint64_t>, std::vector<float>, std::vector<double>>;

/// A 3D image.
struct Image {
    NiftiHeader header;
    Size size;
    Affine affine;
    Voxels voxels;
};

/// Read a `.nii` or `.nii.gz` file.
/// @throws BadInput it is missing, truncated, damaged, no little-endian NIfTI-1, not 3D, longer than its header says,
///     holds one value only, or its affine or voxels are not finite and usable.
Image read_nifti(const std::filesystem::path& path);

/// Check the geometry of a header: spacing, units, sform and qform.
/// @returns the sform, or the qform where there is no sform.
Affine read_affine(const NiftiHeader& header, const Size& size, const std::filesystem::path& path);

/// Refuse a name that does not end in .nii or .nii.gz, or a file that is there and may not be replaced.
void require_free_output(const std::filesystem::path& path, bool overwrite);

/// Write labels, in the order of the file, with the header of the image they belong to: the whole file or none.
/// @param labels one code a voxel; they are stored in 8 bits if `wide` is false, else in 16.
void write_labels(const std::filesystem::path& path, const NiftiHeader& like, const std::vector<std::uint16_t>& labels,
                  bool wide);

}  // namespace segkit
