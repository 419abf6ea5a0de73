/// Where the voxels of a NIfTI file lie in the patient, and what is refused about it.
#include <cmath>

#include "nifti.hpp"

namespace segkit {

namespace {

constexpr double forms_tolerance_mm = 1.0;
constexpr double shear_tolerance = 1e-3;
constexpr double least_spacing_mm = 0.01, most_spacing_mm = 100;

Affine sform(const NiftiHeader& header) {
    Affine out;
    for (int r = 0; r < 3; ++r)
        for (int c = 0; c < 4; ++c) out[r][c] = header.srow[r][c];
    return out;
}

/// The affine of the quaternion (NIfTI-1, method 2).
Affine qform(const NiftiHeader& header, const std::filesystem::path& path) {
    const double b = header.quatern_b, c = header.quatern_c, d = header.quatern_d, sign = header.pixdim[0];
    if (sign != 1 && sign != -1) refuse("expected a usable qform in ", path, ", found qfac (pixdim[0]) ", sign);
    const double rest = 1 - (b * b + c * c + d * d);
    constexpr double rounding = 3 * 1.1920929e-7;  // of the float32 that they are stored in
    if (rest <= -rounding) refuse("expected a usable qform in ", path, ", found a quaternion that is too long");
    const double a = std::fabs(rest) < rounding ? 0 : std::sqrt(rest);
    const double s = 2 / (a * a + b * b + c * c + d * d);
    const double x = header.pixdim[1], y = header.pixdim[2], z = header.pixdim[3] * sign;
    return {{{x * (1 - s * (c * c + d * d)), y * s * (b * c - a * d), z * s * (b * d + a * c), header.qoffset_x},
             {x * s * (b * c + a * d), y * (1 - s * (b * b + d * d)), z * s * (c * d - a * b), header.qoffset_y},
             {x * s * (b * d - a * c), y * s * (c * d + a * b), z * (1 - s * (b * b + c * c)), header.qoffset_z}}};
}

void require_rigid(const Affine& affine, const std::filesystem::path& path) {
    const auto spacing = spacing_mm(affine);
    for (int c = 0; c < 4; ++c)
        for (int r = 0; r < 3; ++r)
            if (!std::isfinite(affine[r][c]) || (c < 3 && spacing[c] < 1e-6))
                refuse("expected a finite, invertible affine in ", path, ", found another");
    for (const double side : spacing)
        if (side < least_spacing_mm || side > most_spacing_mm)
            refuse("expected voxels of ", least_spacing_mm, " to ", most_spacing_mm, " mm in ", path, ", found ",
                   by(spacing), " mm");
    for (int one = 0; one < 3; ++one)
        for (int other = 0; other < one; ++other) {
            double product = 0;
            for (int r = 0; r < 3; ++r) product += affine[r][one] * affine[r][other];
            const double shear = std::fabs(product) / (spacing[one] * spacing[other]);
            if (shear > shear_tolerance)
                refuse("expected orthogonal axes in ", path, ", found a shear of ", 100 * shear, " %");
        }
}

}  // namespace

Affine read_affine(const NiftiHeader& header, const Size& size, const std::filesystem::path& path) {
    for (int axis = 1; axis <= 3; ++axis)
        if (!(std::isfinite(header.pixdim[axis]) && header.pixdim[axis] > 0))
            refuse("expected voxel sizes above 0 mm in ", path, ", found ", header.pixdim[axis]);
    const int unit = header.xyzt_units & 7;
    if (unit != 0 && unit != 2) refuse("expected millimetres in ", path, ", found the unit ", unit);
    const int s = header.sform_code, q = header.qform_code;
    if (s <= 0 && q <= 0) refuse("expected an orientation in ", path, ", found neither sform nor qform");
    const Affine affine = s > 0 ? sform(header) : qform(header, path);
    require_rigid(affine, path);
    if (s == q) {  // of one space, so they must say the same; else the sform leads to another space by intent
        const double apart_mm = corners_apart_mm(affine, qform(header, path), size);
        if (!(apart_mm <= forms_tolerance_mm))
            refuse("expected qform and sform of ", path, " to agree, found corners ", apart_mm, " mm apart");
    }
    return affine;
}

}  // namespace segkit
