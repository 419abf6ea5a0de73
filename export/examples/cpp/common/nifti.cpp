#include "nifti.hpp"

#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <memory>
#include <type_traits>

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "expected a little-endian machine, as the files are");

namespace segkit {

namespace fs = std::filesystem;

namespace {

constexpr std::int64_t most_bytes = std::int64_t{4} << 30;
constexpr std::int64_t most_offset = 1 << 24;

bool ends_with(const std::string& name, const std::string& ending) {
    return name.size() >= ending.size() && name.compare(name.size() - ending.size(), ending.size(), ending) == 0;
}

/// The bytes of a file, inflated if it is zipped. Asking for a byte behind the last reaches the gzip checksum.
class Source {
public:
    explicit Source(const fs::path& path) : path_(path) {
        std::error_code error;
        if (!fs::is_regular_file(path, error)) refuse("expected an image at ", path, ", found no regular file");
        std::ifstream file(path, std::ios::binary);
        char magic[2] = {};
        if (!file.read(magic, 2)) refuse("expected an image in ", path, ", found an empty file or one out of reach");
        const bool zipped = magic[0] == '\x1f' && magic[1] == '\x8b';
        if (zipped != ends_with(path.filename(), ".gz"))
            refuse("expected the name of ", path, " to fit its content, found ",
                   zipped ? "gzip data in a file not named .gz" : "no gzip data in a file named .gz");
        file_.reset(gzopen(path.c_str(), "rb"));
        if (!file_) refuse("expected to read ", path, ", the system says: ", std::strerror(errno));
        gzbuffer(file_.get(), 1 << 18);
    }

    /// Read so many bytes, or fewer at the end.
    std::int64_t read(void* to, std::int64_t count) {
        std::int64_t done = 0;
        while (done < count) {
            const auto part = static_cast<unsigned>(std::min<std::int64_t>(count - done, 1 << 30));
            const int got = gzread(file_.get(), static_cast<char*>(to) + done, part);
            int code = Z_OK;
            const char* const message = gzerror(file_.get(), &code);
            if (code == Z_BUF_ERROR) refuse("expected a whole gzip stream in ", path_, ", found that it ends early");
            if (got < 0 || code != Z_OK) refuse("expected an intact file ", path_, ", found: ", message);
            if (got == 0) break;
            done += got;
        }
        return done;
    }

    void require(void* to, std::int64_t count, const char* what) {
        const std::int64_t got = read(to, count);
        if (got < count)
            refuse("expected ", count, " bytes of ", what, " in ", path_, ", found ", got, ": the file is truncated");
    }

    void require_end() {
        char more;
        if (read(&more, 1)) refuse("expected the end of ", path_, " behind its voxels, found more");
    }

private:
    struct Close {
        void operator()(gzFile file) const { gzclose(file); }
    };
    fs::path path_;
    std::unique_ptr<std::remove_pointer_t<gzFile>, Close> file_;
};

Size read_size(const NiftiHeader& header, const fs::path& path) {
    const int dimensions = header.dim[0];
    if (dimensions < 3 || dimensions > 7) refuse("expected three dimensions in ", path, ", found ", dimensions);
    for (int i = 1; i <= dimensions; ++i) {
        if (i <= 3 && header.dim[i] < 2)
            refuse("expected at least 2 voxels along each axis of ", path, ", found ", header.dim[i]);
        if (i > 3 && header.dim[i] != 1)
            refuse("expected a 3D image in ", path, ", found a further axis of ", header.dim[i]);
    }
    return {header.dim[1], header.dim[2], header.dim[3]};
}

NiftiHeader read_header(Source& source, const fs::path& path) {
    NiftiHeader header;
    source.require(&header, sizeof header, "header");
    if (header.sizeof_hdr != 348 || std::memcmp(header.magic, "n+1\0", 4) != 0)
        refuse("expected a little-endian NIfTI-1 file (.nii, .nii.gz) at ", path, ", found something else");
    return header;
}

/// Skip what lies between the header and the voxels; extensions must fit into it.
void skip_extensions(Source& source, const NiftiHeader& header, const fs::path& path) {
    const double offset = header.vox_offset;
    if (!(offset == std::floor(offset) && offset >= 352 && offset <= most_offset))
        refuse("expected the voxels of ", path, " soon after its header, found offset ", offset);
    std::vector<char> block(static_cast<std::size_t>(offset) - sizeof header);
    source.require(block.data(), static_cast<std::int64_t>(block.size()), "header extensions");
    for (std::size_t at = 4; block[0] && at + 8 <= block.size();) {
        std::int32_t size;
        std::memcpy(&size, &block[at], sizeof size);
        if (size < 8 || at + static_cast<std::size_t>(size) > block.size())
            refuse("expected header extensions that fit before the voxels of ", path, ", found one of ", size,
                   " bytes");
        at += static_cast<std::size_t>(size);
    }
}

template <typename Value>
Voxels read_values(Source& source, const NiftiHeader& header, std::ptrdiff_t count, const fs::path& path) {
    if (header.bitpix != 8 * static_cast<int>(sizeof(Value)))
        refuse("expected ", 8 * sizeof(Value), " bits per voxel in ", path, ", found ", header.bitpix);
    const auto bytes = static_cast<std::int64_t>(count) * static_cast<std::int64_t>(sizeof(Value));
    if (bytes > most_bytes) refuse("expected at most 4 GiB of voxels, the header of ", path, " says ", bytes, " bytes");
    std::vector<Value> values(static_cast<std::size_t>(count));
    source.require(values.data(), bytes, "voxels");
    source.require_end();
    const float slope = header.scl_slope, intercept = header.scl_inter;
    if (slope == 0 || (slope == 1 && intercept == 0)) return values;
    if (!std::isfinite(slope) || !std::isfinite(intercept))
        refuse("expected a finite scaling in ", path, ", found slope ", slope, ", intercept ", intercept);
    std::vector<float> scaled(values.size());
    std::transform(values.begin(), values.end(), scaled.begin(),
                   [=](Value value) { return static_cast<float>(value) * slope + intercept; });
    return scaled;
}

Voxels read_voxels(Source& source, const NiftiHeader& header, std::ptrdiff_t count, const fs::path& path) {
    switch (header.datatype) {
        case 2: return read_values<std::uint8_t>(source, header, count, path);
        case 4: return read_values<std::int16_t>(source, header, count, path);
        case 8: return read_values<std::int32_t>(source, header, count, path);
        case 16: return read_values<float>(source, header, count, path);
        case 64: return read_values<double>(source, header, count, path);
        case 256: return read_values<std::int8_t>(source, header, count, path);
        case 512: return read_values<std::uint16_t>(source, header, count, path);
        case 768: return read_values<std::uint32_t>(source, header, count, path);
        case 1024: return read_values<std::int64_t>(source, header, count, path);
        case 1280: return read_values<std::uint64_t>(source, header, count, path);
        default: refuse("expected numbers of at most 64 bits in ", path, ", found the datatype ", header.datatype);
    }
}

template <typename Value>
void require_usable(const std::vector<Value>& values, const fs::path& path) {
    if constexpr (std::is_floating_point_v<Value>)
        if (!std::all_of(values.begin(), values.end(), [](Value value) { return std::isfinite(value); }))
            refuse("expected finite voxels in ", path, ", found NaN or infinite ones");
    const auto [least, most] = std::minmax_element(values.begin(), values.end());
    if (*least == *most) refuse("expected an image in ", path, ", found one value only: ", +*least);
    constexpr double limit = 1e18;  // its square still fits into a float
    if (static_cast<double>(*least) < -limit || static_cast<double>(*most) > limit)
        refuse("expected intensities of at most ", limit, " in ", path, ", found ", +*least, " to ", +*most);
}

void write_all(const fs::path& path, const std::string& bytes) {
    const bool zipped = ends_with(path, ".gz");
    // Mode "T" writes without gzip; level 1 is the runtime's own.
    const auto fail = [&] {
        throw std::runtime_error(text("expected to write ", path, ", the system says: ", std::strerror(errno)));
    };
    const gzFile file = gzopen(path.c_str(), zipped ? "wb1" : "wbT");
    if (!file) fail();
    std::size_t done = 0;
    while (done < bytes.size()) {
        const auto part = static_cast<unsigned>(std::min<std::size_t>(bytes.size() - done, 1 << 30));
        if (gzwrite(file, bytes.data() + done, part) != static_cast<int>(part)) break;
        done += part;
    }
    if (gzclose(file) != Z_OK || done < bytes.size()) fail();
}

}  // namespace

Image read_nifti(const fs::path& path) {
    Source source(path);
    Image image;
    image.header = read_header(source, path);
    image.size = read_size(image.header, path);
    image.affine = read_affine(image.header, image.size, path);
    skip_extensions(source, image.header, path);
    const std::ptrdiff_t count = image.size[0] * image.size[1] * image.size[2];
    image.voxels = read_voxels(source, image.header, count, path);
    std::visit([&](const auto& values) { require_usable(values, path); }, image.voxels);
    return image;
}

void require_free_output(const fs::path& path, bool overwrite) {
    const std::string name = path.filename();
    if (!ends_with(name, ".nii") && !ends_with(name, ".nii.gz"))
        refuse("expected an output name that ends in .nii or .nii.gz, got ", path);
    if (fs::is_directory(path)) refuse("expected a file to write at ", path, ", found a folder");
    if (fs::exists(fs::symlink_status(path)) && !overwrite)
        refuse("expected no file at ", path, " yet, found one: add --overwrite");
    const fs::path folder = fs::absolute(path).parent_path();
    if (access(folder.c_str(), W_OK) != 0) refuse("expected a folder to write into at ", folder, ", found none");
}

void write_labels(const fs::path& path, const NiftiHeader& like, const std::vector<std::uint16_t>& labels, bool wide) {
    NiftiHeader header = like;
    header.datatype = wide ? 512 : 2;
    header.bitpix = wide ? 16 : 8;
    header.dim[0] = 3;
    std::fill(header.dim + 4, header.dim + 8, std::int16_t{1});
    std::fill(header.pixdim + 4, header.pixdim + 8, 1.0F);
    header.vox_offset = 352;  // extensions are not kept
    header.scl_slope = 1;
    header.scl_inter = 0;
    header.cal_min = header.cal_max = 0;
    header.intent_code = 1002;  // labels: viewers choose colours and do not interpolate
    header.intent_p1 = header.intent_p2 = header.intent_p3 = 0;
    std::memset(header.intent_name, 0, sizeof header.intent_name);
    std::string bytes(reinterpret_cast<const char*>(&header), sizeof header);
    bytes.append(4, '\0');
    bytes.reserve(bytes.size() + labels.size() * (wide ? 2 : 1));
    if (wide)
        bytes.append(reinterpret_cast<const char*>(labels.data()), 2 * labels.size());
    else
        for (const std::uint16_t label : labels) bytes += static_cast<char>(label);
    fs::path draft = path;
    draft.replace_filename(text(".", getpid(), ".", path.filename().string()));
    try {
        write_all(draft, bytes);
        fs::rename(draft, path);
    } catch (...) {
        std::error_code ignored;
        fs::remove(draft, ignored);
        throw;
    }
}

}  // namespace segkit
