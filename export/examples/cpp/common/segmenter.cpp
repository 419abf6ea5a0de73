#include "segmenter.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "blending.hpp"
#include "error.hpp"
#include "preprocess.hpp"
#include "selfcheck.hpp"

namespace segkit {

namespace fs = std::filesystem;

namespace {

/// Logits of a patch, looked at: a NaN would otherwise become a label without a word.
const float* run_checked(Engine& engine, const std::vector<float>& patch, std::size_t logits) {
    const float* const out = engine.run(patch.data());
    if (!std::all_of(out, out + logits, [](float value) { return std::isfinite(value); }))
        refuse("expected finite logits, found NaN or infinite ones: check the intensities of the images");
    return out;
}

Indices segment_volume(Engine& engine, const NetworkInput& input, const Plan& plan, const Manifest& manifest,
                       const Progress& progress) {
    const auto voxels = static_cast<std::size_t>(plan.patch[0] * plan.patch[1] * plan.patch[2]);
    std::vector<float> cut(static_cast<std::size_t>(manifest.channels()) * voxels);
    Joined joined(input, plan, manifest);
    int done = 0;
    for (const Tile& tile : plan.tiles) {
        input.fill_patch(tile.start, plan.patch, cut.data());
        joined.add(tile, run_checked(engine, cut, manifest.labels.size() * voxels));
        if (progress) progress(++done, static_cast<int>(plan.tiles.size()));
    }
    return joined.finish();
}

/// Turn class indices along RAS axes into label codes in the order of the file.
Segmentation to_labels(const Indices& indices, const NetworkInput& input, const Manifest& manifest) {
    Segmentation out{input.header(), std::vector<std::uint16_t>(indices.size()), {}, 0, false, 0};
    out.counts.assign(manifest.labels.size(), 0);
    const Canonical& view = input.view();
    std::size_t at = 0;
    for (std::ptrdiff_t x = 0; x < view.size[0]; ++x)
        for (std::ptrdiff_t y = 0; y < view.size[1]; ++y)
            for (std::ptrdiff_t z = 0; z < view.size[2]; ++z) {
                const std::uint8_t index = indices[at++];
                ++out.counts[index];
                out.labels[static_cast<std::size_t>(view.place(x, y, z))] =
                    static_cast<std::uint16_t>(manifest.labels[index].code);
            }
    const auto side_mm = spacing_mm(view.affine);  // the axes are at right angles: shear was refused
    out.voxel_ml = side_mm[0] * side_mm[1] * side_mm[2] / 1000;
    out.wide = std::any_of(manifest.labels.begin(), manifest.labels.end(),
                           [](const Label& label) { return label.code > 255; });
    return out;
}

Shape5 shape_of(std::size_t channels, const Size& patch) {
    return {1, static_cast<std::int64_t>(channels), patch[0], patch[1], patch[2]};
}

}  // namespace

Segmenter::Segmenter(const fs::path& folder, const Options& options) : bundle_(folder) {
    const Manifest& manifest = bundle_.manifest();
    if (!manifest.trained) {
        if (!options.allow_untrained)
            refuse("expected trained weights in ", folder, ", found untrained ones: add --allow-untrained for a trial");
        warnings_.push_back("the weights are untrained: these labels mean nothing");
    }
    const Runtime here = runtime();
    way_ = bundle_.choose_way(here);
    engine_ = open_engine({way_.file, bundle_.read(way_.file), way_.precision,
                           shape_of(static_cast<std::size_t>(manifest.channels()), manifest.patch),
                           shape_of(manifest.labels.size(), manifest.patch)},
                          options.threads);
    if (way_.proof.version == here.version) return;
    if (manifest.selfcheck) run_selfcheck(bundle_, *engine_, way_.proof);
    selfchecked_ = manifest.selfcheck.has_value();
    warnings_.push_back(
        text("proven with ", here.name, " ", way_.proof.version, ", run with ", here.version,
             selfchecked_ ? ": the self-check passed" : ": export the bundle again to prove this version"));
}

Segmentation Segmenter::segment(const std::map<std::string, fs::path>& images, const Progress& progress) {
    const Manifest& manifest = bundle_.manifest();
    const NetworkInput input(read_images(images), manifest);
    const Plan plan = plan_tiles(input, manifest.patch, manifest.overlap);
    Segmentation out = to_labels(segment_volume(*engine_, input, plan, manifest, progress), input, manifest);
    out.tiles = static_cast<int>(plan.tiles.size());
    return out;
}

std::vector<Image> Segmenter::read_images(const std::map<std::string, fs::path>& images) const {
    const std::vector<std::string>& wanted = bundle_.manifest().modalities;
    std::string names;
    for (const std::string& name : wanted) names += (names.empty() ? "" : ", ") + name;
    for (const auto& [name, path] : images)
        if (std::find(wanted.begin(), wanted.end(), name) == wanted.end())
            refuse("expected the modalities ", names, ", found '", name, "' too many");
    std::vector<Image> out;
    std::vector<fs::path> seen;
    for (const std::string& name : wanted) {
        const auto found = images.find(name);
        if (found == images.end()) refuse("expected the modalities ", names, ", found no ", name);
        out.push_back(read_nifti(found->second));
        const fs::path real = fs::canonical(found->second);
        if (std::find(seen.begin(), seen.end(), real) != seen.end())
            refuse("expected one file per modality, found ", found->second, " twice");
        seen.push_back(real);
    }
    return out;
}

}  // namespace segkit
