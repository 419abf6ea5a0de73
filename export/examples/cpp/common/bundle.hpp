/// Bundles: a folder that is read only if every byte of it is what it says it is (docs/bundle.md).
#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "engine.hpp"
#include "manifest.hpp"

namespace segkit {

/// A way to run a bundle that is proven.
struct Way {
    std::string file, precision;  ///< an ONNX file or a compiled engine
    Proof proof;
};

/// A bundle whose files were all checked. A signature is not looked at: `segkit bundle verify` does that.
class Bundle {
public:
    /// Check a folder: the list of hashes, each file against it, the manifest.
    /// @throws BadInput it is no bundle, or one that is altered, incomplete or of another schema.
    explicit Bundle(const std::filesystem::path& folder);

    const Manifest& manifest() const { return manifest_; }
    /// SHA-256 of manifest.json, which names the hashes of the models in turn.
    const std::string& id() const { return id_; }

    /// The content of a file; the bytes that were hashed are the bytes that are returned.
    /// @throws BadInput there is no such file, or it was altered meanwhile.
    std::string read(const std::string& file) const;

    /// The proven way to run it on a runtime; fp32 where that is among them, and the proof of its version.
    /// @throws BadInput none is proven.
    Way choose_way(const Runtime& runtime) const;

private:
    void require_same_files() const;
    void require_consistent() const;

    std::filesystem::path folder_;
    std::map<std::string, std::string> hashes_;
    std::string id_;
    Manifest manifest_;
};

}  // namespace segkit
