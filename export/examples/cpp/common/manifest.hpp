/// What a bundle says of itself, schema 4 (docs/bundle.md): the part that whoever segments with it needs.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "grid.hpp"

namespace segkit {

/// A class; its index is its place in the list.
struct Label {
    int code;
    std::string name;
};

/// The voxel sizes along the RAS axes that a network was trained for.
struct Spacing {
    std::vector<double> least_mm, most_mm;
};

/// An ONNX file of the bundle.
struct Model {
    std::string file, precision, sha256;
};

/// One runtime that was held against torch.
struct Proof {
    std::string runtime, version, device, precision, model;
    double least_label_agreement;
};

/// A compiled engine.
struct CompiledEngine {
    std::string file, runtime, version, precision, model, onnx_sha256;
    std::vector<std::int64_t> least_shape, most_shape;
    bool proven;
};

/// Files of the patch that a runtime can be tried on where it is.
struct SelfCheck {
    std::string image, labels;
};

enum class Background { mask, zero, below };

struct Manifest {
    std::string name, intended_use;
    std::vector<std::string> modalities;
    std::optional<Spacing> spacing;
    bool resamples;  ///< whether the Python runtime resamples images of other voxel sizes; this program refuses them
    bool zscore;     ///< "zscore-nonzero"; else intensities are taken as they are
    Background background;
    Size patch;
    double overlap;
    bool gaussian;
    std::vector<Label> labels;
    bool trained;
    std::vector<Model> models;
    std::vector<Proof> proofs;  ///< those that held, by a runtime that computes in that precision itself
    std::vector<CompiledEngine> engines;
    std::optional<SelfCheck> selfcheck;

    int channels() const { return static_cast<int>(modalities.size()) + (background == Background::mask ? 1 : 0); }
};

/// Read a manifest.
/// @throws BadInput it is of another schema, has a field that is not known here, or asks for a step of preprocessing
///     that this program does not have: registration or bias correction.
Manifest parse_manifest(std::string_view content);

}  // namespace segkit
