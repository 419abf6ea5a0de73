/// The door for whoever embeds segkit: a bundle that stays loaded; files in, labels out.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "bundle.hpp"
#include "nifti.hpp"

namespace segkit {

struct Options {
    bool allow_untrained = false;  ///< take a bundle whose weights were never trained
    int threads = 0;               ///< CPU threads, or 0 for the runtime's own choice
};

/// A segmented head, on the grid of the first modality's file.
struct Segmentation {
    NiftiHeader header;                 ///< of that file
    std::vector<std::uint16_t> labels;  ///< a label code a voxel, in the order of that file
    std::vector<std::int64_t> counts;   ///< voxels of each class
    double voxel_ml;                    ///< volume of one voxel
    bool wide;                          ///< whether some code of the bundle needs 16 bits
    int tiles;                          ///< patches that were run

    /// Write the labels as NIfTI: the whole file or none.
    void save(const std::filesystem::path& path) const { write_labels(path, header, labels, wide); }
};

/// Called with the number of patches done and the number of patches.
using Progress = std::function<void(int done, int total)>;

/// A network made ready to run.
class Segmenter {
public:
    /// Check a bundle and load its network. Where the runtime is of another version than the proven one, the bundle's
    /// own patch is run first and must get its own labels.
    /// @throws BadInput the bundle is altered, untrained or not proven for this runtime.
    /// @throws std::exception the runtime refuses, or fails the self-check.
    explicit Segmenter(const std::filesystem::path& folder, const Options& options = {});

    /// Segment one head: one file for each modality of the bundle, by name.
    /// @throws BadInput a modality is missing or one too many, a file is bad, or the grids disagree.
    Segmentation segment(const std::map<std::string, std::filesystem::path>& images,
                         const Progress& progress = nullptr);

    const Bundle& bundle() const { return bundle_; }
    const Way& way() const { return way_; }
    bool selfchecked() const { return selfchecked_; }
    /// What a reader of the labels should know.
    const std::vector<std::string>& warnings() const { return warnings_; }

private:
    std::vector<Image> read_images(const std::map<std::string, std::filesystem::path>& images) const;

    Bundle bundle_;
    Way way_;
    std::unique_ptr<Engine> engine_;
    bool selfchecked_ = false;
    std::vector<std::string> warnings_;
};

}  // namespace segkit
