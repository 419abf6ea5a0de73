#include "tiling.hpp"

#include <algorithm>
#include <cmath>

namespace segkit {

std::vector<std::ptrdiff_t> tile_starts(std::ptrdiff_t first, std::ptrdiff_t last, std::ptrdiff_t size,
                                        std::ptrdiff_t patch, double overlap) {
    const std::ptrdiff_t extent = last - first;
    if (extent <= patch) return {std::min(std::max<std::ptrdiff_t>(0, (first + last - patch) / 2), size - patch)};
    const auto step = std::max(1.0, std::floor(static_cast<double>(patch) * (1 - overlap)));
    const auto spare = static_cast<double>(extent - patch);
    const double steps = std::ceil(spare / step);
    std::vector<std::ptrdiff_t> out;
    for (double i = 0; i <= steps; ++i)  // halves go to the even voxel, in Python too
        out.push_back(first + static_cast<std::ptrdiff_t>(std::nearbyint(i * spare / steps)));
    return out;
}

namespace {

/// A tile along one axis: its start, and the voxels that it owns.
struct Interval {
    std::ptrdiff_t start, first, last;
};

std::vector<Interval> intervals(const std::vector<std::ptrdiff_t>& starts, std::ptrdiff_t patch) {
    std::vector<Interval> out;
    for (std::size_t i = 0; i < starts.size(); ++i) {
        const auto middle = [&](std::size_t left) { return (starts[left] + starts[left + 1] + patch) / 2; };
        out.push_back(
            {starts[i], i == 0 ? starts[i] : middle(i - 1), i + 1 == starts.size() ? starts[i] + patch : middle(i)});
    }
    return out;
}

Box find_box(const NetworkInput& input) {
    const Size& size = input.size();
    Box box{size, {0, 0, 0}};
    for (std::ptrdiff_t x = 0; x < size[0]; ++x)
        for (std::ptrdiff_t y = 0; y < size[1]; ++y)
            for (std::ptrdiff_t z = 0; z < size[2]; ++z) {
                if (!input.inside(x, y, z)) continue;
                const Size at{x, y, z};
                for (std::size_t axis = 0; axis < 3; ++axis) {
                    box.first[axis] = std::min(box.first[axis], at[axis]);
                    box.last[axis] = std::max(box.last[axis], at[axis] + 1);
                }
            }
    return box;
}

bool holds_any(const NetworkInput& input, const Box& box) {
    Size end;
    for (std::size_t axis = 0; axis < 3; ++axis) end[axis] = std::min(box.last[axis], input.size()[axis]);
    for (std::ptrdiff_t x = box.first[0]; x < end[0]; ++x)
        for (std::ptrdiff_t y = box.first[1]; y < end[1]; ++y)
            for (std::ptrdiff_t z = box.first[2]; z < end[2]; ++z)
                if (input.inside(x, y, z)) return true;
    return false;
}

/// The axis along which a slab of one patch's depth is the smallest.
int slab_axis(const Box& box, const Size& patch) {
    Size extent;
    for (std::size_t a = 0; a < 3; ++a) extent[a] = box.last[a] - box.first[a];
    const auto slab = [&](std::size_t a) {
        return std::min(patch[a], extent[a]) * extent[(a + 1) % 3] * extent[(a + 2) % 3];
    };
    std::size_t best = 0;
    for (std::size_t a = 1; a < 3; ++a)
        if (slab(a) < slab(best)) best = a;
    return static_cast<int>(best);
}

}  // namespace

Plan plan_tiles(const NetworkInput& input, const Size& patch, double overlap) {
    const Box box = find_box(input);
    if (box.last[0] == 0) return {patch, {}, box, 0};
    Plan plan{patch, {}, box, slab_axis(box, patch)};
    std::array<std::vector<Interval>, 3> lines;
    for (std::size_t a = 0; a < 3; ++a) {
        const std::ptrdiff_t size = std::max(input.size()[a], patch[a]);
        lines[a] = intervals(tile_starts(box.first[a], box.last[a], size, patch[a], overlap), patch[a]);
    }
    const auto slowest = static_cast<std::size_t>(plan.axis);
    const std::size_t middle = slowest == 0 ? 1 : 0, fastest = slowest == 2 ? 1 : 2;
    for (const Interval& one : lines[slowest])
        for (const Interval& two : lines[middle])
            for (const Interval& three : lines[fastest]) {
                Tile tile;
                Box whole;
                const auto set = [&](std::size_t axis, const Interval& line) {
                    tile.start[axis] = whole.first[axis] = line.start;
                    whole.last[axis] = line.start + patch[axis];
                    tile.own.first[axis] = line.first;
                    tile.own.last[axis] = line.last;
                };
                set(slowest, one), set(middle, two), set(fastest, three);
                if (holds_any(input, overlap == 0 ? tile.own : whole)) plan.tiles.push_back(tile);
            }
    return plan;
}

std::vector<float> tile_weights(const Size& patch, bool gaussian) {
    const auto count = static_cast<std::size_t>(patch[0] * patch[1] * patch[2]);
    if (!gaussian) return std::vector<float>(count, 1.0F);
    std::array<std::vector<double>, 3> sides;
    for (std::size_t axis = 0; axis < 3; ++axis) {
        const auto n = static_cast<double>(patch[axis]);
        for (double i = 0; i < n; ++i) {
            const double apart = (i - (n - 1) / 2) / (n * (1.0 / 8));
            sides[axis].push_back(std::exp(-0.5 * (apart * apart)));
        }
    }
    std::vector<double> whole;
    whole.reserve(count);
    for (const double x : sides[0])
        for (const double y : sides[1])
            for (const double z : sides[2]) whole.push_back(x * y * z);
    const double peak = *std::max_element(whole.begin(), whole.end());
    std::vector<float> out(count);
    std::transform(whole.begin(), whole.end(), out.begin(),
                   [=](double weight) { return static_cast<float>(std::max(weight / peak, 1e-4)); });
    return out;
}

}  // namespace segkit
