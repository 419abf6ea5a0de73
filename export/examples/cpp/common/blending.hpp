/// Logits of tiles put together to class indices.
#pragma once

#include <cstdint>
#include <vector>

#include "tiling.hpp"

namespace segkit {

/// Class indices (X, Y, Z), z fastest; 0 outside the head.
using Indices = std::vector<std::uint8_t>;

/// Puts tiles together: where they overlap, their logits are weighed and added; else each voxel is told by its owner.
///
/// Of the sums, only the planes across the plan's axis that a later tile can still reach are kept. They need no
/// normaliser: dividing all classes of a voxel by one number does not change which is largest.
class Joined {
public:
    Joined(const NetworkInput& input, const Plan& plan, const Manifest& manifest);
    /// Take the logits (K, *patch) of the next tile.
    void add(const Tile& tile, const float* logits);
    /// Write the planes that are left, and give all indices away.
    Indices finish();

private:
    void stitch(const Tile& tile, const float* logits);
    void blend(const Tile& tile, const float* logits);
    void finish_before(std::ptrdiff_t plane);
    void set(const Size& at, const float* logits, std::size_t step);
    float* plane_sums(std::ptrdiff_t plane) {
        return &sums_[static_cast<std::size_t>(plane % depth_ * across_) * classes_];
    }

    const NetworkInput& input_;
    const Plan& plan_;
    std::size_t classes_;
    bool overlaps_;
    std::array<std::size_t, 3> axes_;  ///< the plan's axis first
    std::ptrdiff_t depth_, across_;    ///< planes that are kept, and voxels of the box in one
    std::ptrdiff_t next_;              ///< the first plane that is not done
    std::vector<float> weights_, sums_;
    Indices indices_;
};

}  // namespace segkit
