#include "preprocess.hpp"

#include <algorithm>
#include <cmath>
#include <type_traits>

namespace segkit {

namespace {

constexpr double grid_tolerance_mm = 1e-2;
constexpr double spacing_tolerance_mm = 5e-3;  // headers round voxel sizes: 0.977 for 0.9765625

void require_same_grid(const Canonical& first, const Canonical& other, const std::string& first_name,
                       const std::string& name) {
    if (other.size != first.size)
        refuse("expected ", name, " on the grid of ", first_name, " ", by(first.size), ", found ", by(other.size));
    const double apart_mm = corners_apart_mm(first.affine, other.affine, first.size);
    if (!(apart_mm <= grid_tolerance_mm))
        refuse("expected ", name, " on the grid of ", first_name, ", found their corners ", apart_mm, " mm apart");
}

void require_spacing(const Canonical& view, const Spacing& spacing, bool resamples) {
    const auto found = spacing_mm(view.affine);
    for (int axis = 0; axis < 3; ++axis)
        if (!(found[axis] >= spacing.least_mm[axis] - spacing_tolerance_mm &&
              found[axis] <= spacing.most_mm[axis] + spacing_tolerance_mm))
            refuse(
                "expected voxels of ", by(spacing.least_mm), " to ", by(spacing.most_mm), " mm along RAS axes, found ",
                by(found), " mm: ",
                resamples ? "resample the images first, or run it with segkit segment" : "resample the images first");
}

struct Moments {
    double mean, deviation;
};

/// Moments of the voxels that are not zero, of at most 16 bits: their sums are exact.
template <typename Value>
Moments exact_moments(const std::vector<Value>& values) {
    __extension__ using Wide = __int128;  // of 2^31 voxels, count times squares takes 94 bits
    std::int64_t count = 0, total = 0, squares = 0;
    for (const std::int64_t value : values) {
        count += value != 0;
        total += value;
        squares += value * value;
    }
    count = std::max<std::int64_t>(count, 1);
    const Wide spread = static_cast<Wide>(count) * squares - static_cast<Wide>(total) * total;
    const auto n = static_cast<double>(count);
    return {static_cast<double>(total) / n, std::sqrt(static_cast<double>(spread)) / n};
}

/// Moments of the voxels that are not zero, gathered plane by plane and merged (Chan et al. 1983,
/// doi:10.1080/00031305.1983.10483115).
template <typename Value>
Moments merged_moments(const std::vector<Value>& values, std::size_t plane) {
    double count = 0, mean = 0, squares = 0;
    for (std::size_t begin = 0; begin < values.size(); begin += plane) {
        double own_count = 0, sum = 0, own_squares = 0;
        for (std::size_t i = begin; i < begin + plane; ++i) {
            own_count += values[i] != 0;
            sum += static_cast<double>(values[i]);
        }
        if (own_count == 0) continue;
        const double own_mean = sum / own_count;
        for (std::size_t i = begin; i < begin + plane; ++i) {
            const double apart = values[i] != 0 ? static_cast<double>(values[i]) - own_mean : 0;
            own_squares += apart * apart;
        }
        const double both = count + own_count;
        squares += own_squares + (own_mean - mean) * (own_mean - mean) * count * own_count / both;
        mean += (own_mean - mean) * own_count / both;
        count = both;
    }
    return {mean, std::sqrt(squares / std::max(count, 1.0))};
}

template <typename Value>
Moments find_moments(const std::vector<Value>& values, const Size& size) {
    if constexpr (std::is_integral_v<Value> && sizeof(Value) <= 2)
        return exact_moments(values);
    else
        return merged_moments(values, static_cast<std::size_t>(size[0] * size[1]));
}

/// What `inside` is in, for the voxels of one image.
template <typename Value>
void add_to_mask(const std::vector<Value>& values, const Canonical& view, std::vector<std::uint8_t>& mask) {
    std::size_t at = 0;
    for (std::ptrdiff_t x = 0; x < view.size[0]; ++x)
        for (std::ptrdiff_t y = 0; y < view.size[1]; ++y)
            for (std::ptrdiff_t z = 0; z < view.size[2]; ++z)
                mask[at++] |= values[static_cast<std::size_t>(view.place(x, y, z))] != 0;
}

/// Call `set` for each voxel of a patch, z fastest, with the voxel of the volume that is there.
template <typename Set>
void for_each_voxel(const Size& start, const Size& patch, const Size& size, Set set) {
    for (std::ptrdiff_t i = 0; i < patch[0]; ++i)
        for (std::ptrdiff_t j = 0; j < patch[1]; ++j) {
            const std::ptrdiff_t x = std::min(start[0] + i, size[0] - 1), y = std::min(start[1] + j, size[1] - 1);
            for (std::ptrdiff_t k = 0; k < patch[2]; ++k) set(x, y, std::min(start[2] + k, size[2] - 1));
        }
}

}  // namespace

NetworkInput::NetworkInput(std::vector<Image> images, const Manifest& manifest)
    : images_(std::move(images)), background_(manifest.background), zscore_(manifest.zscore) {
    for (const Image& image : images_) views_.push_back(to_canonical(image.size, image.affine));
    for (std::size_t i = 1; i < images_.size(); ++i)
        require_same_grid(views_[0], views_[i], manifest.modalities[0], manifest.modalities[i]);
    if (manifest.spacing) require_spacing(views_[0], *manifest.spacing, manifest.resamples);
    mask_.assign(static_cast<std::size_t>(size()[0] * size()[1] * size()[2]), 0);
    for (std::size_t i = 0; i < images_.size(); ++i) {
        std::visit(
            [&](const auto& values) {
                add_to_mask(values, views_[i], mask_);
                if (!zscore_) return;
                const auto [mean, deviation] = find_moments(values, images_[i].size);
                // Of equal voxels, only the rounding of their mean would be left to divide by.
                scalings_.push_back({mean, deviation > 1e-12 * std::fabs(mean) ? 1 / deviation : 1.0});
            },
            images_[i].voxels);
    }
}

void NetworkInput::fill_patch(const Size& start, const Size& patch, float* out) const {
    for (std::size_t i = 0; i < images_.size(); ++i)
        std::visit(
            [&](const auto& values) {
                const Canonical& view = views_[i];
                const bool keep_zero = background_ != Background::below;
                const Scaling scaling = zscore_ ? scalings_[i] : Scaling{0, 1};
                for_each_voxel(start, patch, size(), [&](auto x, auto y, auto z) {
                    const auto value = values[static_cast<std::size_t>(view.place(x, y, z))];
                    if (!zscore_ || (value == 0 && keep_zero))
                        *out++ = static_cast<float>(value);
                    else
                        *out++ = static_cast<float>((static_cast<double>(value) - scaling.mean) * scaling.factor);
                });
            },
            images_[i].voxels);
    if (background_ == Background::mask)
        for_each_voxel(start, patch, size(), [&](auto x, auto y, auto z) { *out++ = inside(x, y, z) ? 1.0F : 0.0F; });
}

}  // namespace segkit
