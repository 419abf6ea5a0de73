#include "bundle.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <set>

#include "error.hpp"
#include "sha256.hpp"

namespace segkit {

namespace fs = std::filesystem;

namespace {

constexpr const char *manifest_name = "manifest.json", *sums_name = "SHA256SUMS", *signature_name = "SHA256SUMS.sig";
constexpr std::size_t most_files = 64;
constexpr std::uintmax_t most_text_bytes = 4 << 20, most_bundle_bytes = std::uintmax_t{8} << 30;
constexpr const char* again = "copy the bundle again from its source";

std::string read_file(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    std::string content;
    if (file) content.assign(fs::file_size(path), '\0');
    if (!file || !file.read(content.data(), static_cast<std::streamsize>(content.size())))
        refuse("expected to read ", path, ", the system says: ", std::strerror(errno));
    return content;
}

std::string hash_file(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) refuse("expected to read ", path, ", the system says: ", std::strerror(errno));
    Sha256 hash;
    std::string part(1 << 16, '\0');
    while (file.read(part.data(), static_cast<std::streamsize>(part.size())) || file.gcount())
        hash.update({part.data(), static_cast<std::size_t>(file.gcount())});
    if (file.bad()) refuse("expected to read ", path, ", the system says: ", std::strerror(errno));
    return hash.hex();
}

/// One of the small files that are read before anything vouches for them.
std::string read_text(const fs::path& folder, const char* name) {
    const fs::path path = folder / name;
    if (!fs::is_regular_file(fs::symlink_status(path))) refuse("expected '", name, "' in ", folder, ", found none");
    if (fs::file_size(path) > most_text_bytes) refuse("expected at most 4 MiB in ", path, ", found more");
    return read_file(path);
}

bool is_plain_part(const std::string& part) {
    const auto letter = [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
    };
    const auto inner = [&](char c) { return letter(c) || c == '.' || c == '+' || c == '-'; };
    return !part.empty() && part.size() < 100 && letter(part[0]) && part.back() != '.' &&
           std::all_of(part.begin(), part.end(), inner);
}

/// Letters, digits and . _ + - in at most two folders: nothing that leads out of the bundle.
bool is_plain(const std::string& name) {
    std::istringstream rest(name + "/");
    std::string part;
    int parts = 0;
    while (std::getline(rest, part, '/'))
        if (!is_plain_part(part) || ++parts > 3) return false;
    return true;
}

std::map<std::string, std::string> parse_sums(const std::string& content) {
    std::map<std::string, std::string> out;
    std::istringstream lines(content);
    for (std::string line; std::getline(lines, line);) {
        const std::string hash = line.substr(0, 64), name = line.size() > 66 ? line.substr(66) : "";
        const bool good = hash.size() == 64 && hash.find_first_not_of("0123456789abcdef") == std::string::npos &&
                          line.compare(64, 2, "  ") == 0 && is_plain(name);
        if (!good || !out.emplace(name, hash).second || out.size() > most_files)
            refuse("expected a hash and a new, plain file name on each of at most ", most_files, " lines of ",
                   sums_name, ", found others: ", again);
    }
    return out;
}

void require_hash(const std::string& name, const std::string& found, const std::string& expected) {
    if (found != expected)
        refuse("expected '", name, "' with SHA-256 ", expected.substr(0, 12), "..., found ", found.substr(0, 12),
               "...: the bundle was altered or damaged, ", again);
}

}  // namespace

Bundle::Bundle(const fs::path& folder) : folder_(folder) {
    if (!fs::is_directory(folder))
        refuse("expected a bundle, a folder with a ", manifest_name, ", at ", folder, ", found none");
    hashes_ = parse_sums(read_text(folder, sums_name));
    if (!hashes_.count(manifest_name)) refuse("expected '", manifest_name, "' in ", sums_name, ", found none");
    require_same_files();
    for (const auto& [name, hash] : hashes_) require_hash(name, hash_file(folder / name), hash);
    id_ = hashes_.at(manifest_name);
    const std::string manifest = read_text(folder, manifest_name);
    require_hash(manifest_name, sha256(manifest), id_);
    manifest_ = parse_manifest(manifest);
    require_consistent();
}

void Bundle::require_same_files() const {
    std::size_t listed = 0;
    std::uintmax_t bytes = 0;
    for (const fs::directory_entry& entry : fs::recursive_directory_iterator(folder_)) {
        const fs::file_status status = entry.symlink_status();
        if (fs::is_directory(status)) continue;
        const std::string name = entry.path().lexically_relative(folder_).generic_string();
        if (!fs::is_regular_file(status) || entry.hard_link_count() > 1)
            refuse("expected files of its own in ", folder_, ", found that '", name, "' is a link or no file: ", again);
        if (hashes_.count(name))
            ++listed;
        else if (name != sums_name && name != signature_name)
            refuse("expected only the files that ", sums_name, " lists in ", folder_, ", found '", name, "'");
        bytes += entry.file_size();
    }
    for (const auto& [name, hash] : hashes_)
        if (!fs::exists(folder_ / name)) refuse("expected '", name, "' in ", folder_, ", it is missing: ", again);
    if (listed != hashes_.size())
        refuse("expected the files that ", sums_name, " lists in ", folder_, ", found others");
    if (bytes > most_bundle_bytes) refuse("expected at most 8 GiB in ", folder_, ", found more");
}

void Bundle::require_consistent() const {
    std::set<std::string> named;
    for (const Model& model : manifest_.models) {
        if (!hashes_.count(model.file) || !named.insert(model.file).second)
            refuse("expected the model '", model.file, "' once in the bundle, found it missing or twice");
        require_hash(model.file, hashes_.at(model.file), model.sha256);
    }
    if (!named.count("model.onnx")) refuse("expected model.onnx among the models of the bundle, found none");
    for (const CompiledEngine& engine : manifest_.engines)
        if (!hashes_.count(engine.file) || !named.count(engine.model))
            refuse("expected the engine '", engine.file, "' and its model in the bundle, found one missing");
}

std::string Bundle::read(const std::string& file) const {
    const auto known = hashes_.find(file);
    if (known == hashes_.end()) refuse("expected '", file, "' in the bundle ", folder_, ", found none");
    std::string content = read_file(folder_ / file);
    require_hash(file, sha256(content), known->second);
    return content;
}

Way Bundle::choose_way(const Runtime& runtime) const {
    std::vector<Way> ways;
    for (const Proof& proof : manifest_.proofs) {
        if (proof.runtime != runtime.name || proof.device.rfind(runtime.device, 0) != 0) continue;
        if (!runtime.compiled) ways.push_back({proof.model, proof.precision, proof});
        for (const CompiledEngine& engine : manifest_.engines) {
            const bool same = engine.runtime == proof.runtime && engine.precision == proof.precision &&
                              engine.model == proof.model && engine.onnx_sha256 == hashes_.at(engine.model);
            if (runtime.compiled && same && engine.proven && engine.version == runtime.version)
                ways.push_back({engine.file, engine.precision, proof});
        }
    }
    // ONNX files in fp32 only: in another precision a runtime may compute otherwise than it was asked to.
    const auto unfit = [&](const Way& way) { return !runtime.compiled && way.precision != "fp32"; };
    ways.erase(std::remove_if(ways.begin(), ways.end(), unfit), ways.end());
    if (ways.empty())
        refuse("expected a bundle that is proven for ", runtime.name, " ", runtime.version, " on ", runtime.device,
               ", found '", manifest_.name, "', which is not: export it again with that runtime installed");
    const auto better = [&](const Way& a, const Way& b) {
        const auto rank = [&](const Way& way) {
            return std::pair(way.precision != "fp32", way.proof.version != runtime.version);
        };
        return rank(a) < rank(b);
    };
    return *std::min_element(ways.begin(), ways.end(), better);
}

}  // namespace segkit
