/// From images as read to what a network takes. Nothing is stored: a patch is normalised as it is cut out.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "grid.hpp"
#include "manifest.hpp"
#include "nifti.hpp"

namespace segkit {

/// The images of one head, all on one grid, along RAS axes.
class NetworkInput {
public:
    /// @param images in the order of the manifest's modalities.
    /// @throws BadInput the grids disagree, or the voxel sizes are not those of the manifest.
    NetworkInput(std::vector<Image> images, const Manifest& manifest);

    const Size& size() const { return views_[0].size; }
    /// The first image, whose grid the labels are written on, seen along RAS axes.
    const Canonical& view() const { return views_[0]; }
    const NiftiHeader& header() const { return images_[0].header; }

    /// Whether a voxel (x, y, z) is not zero in some image; elsewhere there is background.
    bool inside(std::ptrdiff_t x, std::ptrdiff_t y, std::ptrdiff_t z) const {
        return mask_[static_cast<std::size_t>((x * size()[1] + y) * size()[2] + z)] != 0;
    }

    /// Cut out a patch (C, X, Y, Z), normalised, the mask last if it is a channel. Beyond the volume the last voxel of
    /// each axis is repeated.
    void fill_patch(const Size& start, const Size& patch, float* out) const;

private:
    struct Scaling {
        double mean, factor;
    };

    std::vector<Image> images_;
    std::vector<Canonical> views_;
    std::vector<Scaling> scalings_;
    std::vector<std::uint8_t> mask_;
    Background background_;
    bool zscore_;
};

}  // namespace segkit
