#include "blending.hpp"

#include <algorithm>

namespace segkit {

Joined::Joined(const NetworkInput& input, const Plan& plan, const Manifest& manifest)
    : input_(input),
      plan_(plan),
      classes_(manifest.labels.size()),
      overlaps_(manifest.overlap > 0),
      axes_{static_cast<std::size_t>(plan.axis), plan.axis == 0 ? 1U : 0U, plan.axis == 2 ? 1U : 2U},
      depth_(0),
      across_(1),
      next_(plan.box.first[axes_[0]]),
      indices_(static_cast<std::size_t>(input.size()[0] * input.size()[1] * input.size()[2])) {
    if (!overlaps_ || plan.tiles.empty()) return;
    weights_ = tile_weights(plan.patch, manifest.gaussian);
    depth_ = std::min(plan.patch[axes_[0]], plan.box.last[axes_[0]] - plan.box.first[axes_[0]]);
    for (const std::size_t axis : {axes_[1], axes_[2]}) across_ *= plan.box.last[axis] - plan.box.first[axis];
    sums_.assign(static_cast<std::size_t>(depth_ * across_) * classes_, 0.0F);
}

void Joined::add(const Tile& tile, const float* logits) {
    if (overlaps_)
        blend(tile, logits);
    else
        stitch(tile, logits);
}

Indices Joined::finish() {
    if (!sums_.empty()) finish_before(plan_.box.last[axes_[0]]);
    return std::move(indices_);
}

/// Write the class with the largest of the logits, which lie `step` apart.
void Joined::set(const Size& at, const float* logits, std::size_t step) {
    if (!input_.inside(at[0], at[1], at[2])) return;
    std::size_t best = 0;
    for (std::size_t k = 1; k < classes_; ++k)
        if (logits[k * step] > logits[best * step]) best = k;
    indices_[static_cast<std::size_t>((at[0] * input_.size()[1] + at[1]) * input_.size()[2] + at[2])] =
        static_cast<std::uint8_t>(best);
}

void Joined::stitch(const Tile& tile, const float* logits) {
    const Size& patch = plan_.patch;
    const auto step = static_cast<std::size_t>(patch[0] * patch[1] * patch[2]);
    Size last;
    for (std::size_t a = 0; a < 3; ++a) last[a] = std::min(tile.own.last[a], input_.size()[a]);
    for (std::ptrdiff_t x = tile.own.first[0]; x < last[0]; ++x)
        for (std::ptrdiff_t y = tile.own.first[1]; y < last[1]; ++y)
            for (std::ptrdiff_t z = tile.own.first[2]; z < last[2]; ++z) {
                const std::ptrdiff_t row = (x - tile.start[0]) * patch[1] + y - tile.start[1];
                set({x, y, z}, logits + row * patch[2] + z - tile.start[2], step);
            }
}

void Joined::blend(const Tile& tile, const float* logits) {
    const auto [p, q, r] = axes_;  // across planes, then within one
    const Box& box = plan_.box;
    const Size steps{plan_.patch[1] * plan_.patch[2], plan_.patch[2], 1};
    const std::ptrdiff_t class_step = plan_.patch[0] * steps[0];
    finish_before(tile.start[p]);
    Size first, last;
    for (std::size_t a = 0; a < 3; ++a) {
        first[a] = std::max(box.first[a], tile.start[a]);
        last[a] = std::min(box.last[a], tile.start[a] + plan_.patch[a]);
    }
    const std::ptrdiff_t width = box.last[r] - box.first[r], step = steps[r];
    for (std::ptrdiff_t i = first[p]; i < last[p]; ++i)
        for (std::size_t k = 0; k < classes_; ++k)
            for (std::ptrdiff_t j = first[q]; j < last[q]; ++j) {
                const std::ptrdiff_t from =
                    (i - tile.start[p]) * steps[p] + (j - tile.start[q]) * steps[q] + (first[r] - tile.start[r]) * step;
                float* sum = plane_sums(i) + static_cast<std::ptrdiff_t>(k) * across_ + (j - box.first[q]) * width +
                             (first[r] - box.first[r]);
                const float* logit = logits + static_cast<std::ptrdiff_t>(k) * class_step + from;
                const float* weight = weights_.data() + from;
                for (std::ptrdiff_t l = 0; l < last[r] - first[r]; ++l) sum[l] += logit[l * step] * weight[l * step];
            }
}

void Joined::finish_before(std::ptrdiff_t plane) {
    const auto [p, q, r] = axes_;
    const Box& box = plan_.box;
    for (; next_ < std::min(plane, box.last[p]); ++next_) {
        float* const sums = plane_sums(next_);
        const float* sum = sums;
        Size at;
        at[p] = next_;
        for (at[q] = box.first[q]; at[q] < box.last[q]; ++at[q])
            for (at[r] = box.first[r]; at[r] < box.last[r]; ++at[r]) set(at, sum++, static_cast<std::size_t>(across_));
        std::fill(sums, sums + across_ * static_cast<std::ptrdiff_t>(classes_), 0.0F);
    }
    next_ = std::max(next_, plane);
}

}  // namespace segkit
