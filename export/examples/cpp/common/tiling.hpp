/// How a volume is cut into patches and put together again.
#pragma once

#include <cstdint>
#include <vector>

#include "grid.hpp"
#include "preprocess.hpp"

namespace segkit {

/// Voxels from `first` to one before `last` along each axis.
struct Box {
    Size first, last;
};

/// Where a patch lies.
struct Tile {
    Size start;
    Box own;  ///< the voxels that are nearer to its middle than to that of another tile
};

/// How the head is covered by tiles.
struct Plan {
    Size patch;
    std::vector<Tile> tiles;  ///< in order of `axis`
    Box box;                  ///< the smallest that holds the head
    int axis;                 ///< along which the fewest voxels are in work at once
};

/// Starts of the tiles that cover voxels `first` to `last` (excluded) of an axis, spread evenly.
std::vector<std::ptrdiff_t> tile_starts(std::ptrdiff_t first, std::ptrdiff_t last, std::ptrdiff_t size,
                                        std::ptrdiff_t patch, double overlap);

/// Cover every voxel inside the head with tiles; those that have nothing to say of it are left out.
Plan plan_tiles(const NetworkInput& input, const Size& patch, double overlap);

/// Weights of a tile's voxels, z fastest: they fall off from its centre, or are all 1.
std::vector<float> tile_weights(const Size& patch, bool gaussian);

}  // namespace segkit
