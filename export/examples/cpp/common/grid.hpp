/// Grids: how large a volume is, where it lies in the patient, and how its axes are turned to RAS.
#pragma once

#include <array>
#include <cstddef>
#include <string>

#include "error.hpp"

namespace segkit {

/// A size or a place (x, y, z) in voxels.
using Size = std::array<std::ptrdiff_t, 3>;
/// The upper three rows of an affine: voxel indices to RAS millimetres.
using Affine = std::array<std::array<double, 4>, 3>;

/// A volume's voxels in the order of a file (x fastest), seen along its nearest RAS axes. Nothing is copied.
struct Canonical {
    Size size;
    Affine affine;
    Size stride;            ///< steps along each RAS axis in the file's order; negative where that axis is flipped
    std::ptrdiff_t origin;  ///< place of RAS voxel (0, 0, 0) in the file's order

    std::ptrdiff_t place(std::ptrdiff_t x, std::ptrdiff_t y, std::ptrdiff_t z) const {
        return origin + x * stride[0] + y * stride[1] + z * stride[2];
    }
};

/// Turn a grid to its nearest RAS axes.
Canonical to_canonical(const Size& size, const Affine& affine);

/// Length of each column of an affine, in mm.
std::array<double, 3> spacing_mm(const Affine& affine);

/// How far apart two affines put a corner of a volume, along the axis where it is furthest, in mm.
double corners_apart_mm(const Affine& first, const Affine& second, const Size& size);

/// Three values as people write them: "64x64x32".
template <typename Three>
std::string by(const Three& values) {
    return text(values[0], "x", values[1], "x", values[2]);
}

}  // namespace segkit
