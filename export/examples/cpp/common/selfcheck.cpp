#include "selfcheck.hpp"

#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string_view>
#include <vector>

#include "error.hpp"

namespace segkit {

namespace {

/// How many times as many labels may differ as on whole volumes: one patch may be nothing but borders.
constexpr double one_patch = 10;

/// The values in an .npy file (format 1.0) of known type and shape; its header is compared as text.
template <typename Value>
std::vector<Value> read_npy(const std::string& content, const std::string& file, const char* type,
                            const std::string& shape, std::size_t count) {
    const std::string expected = text("{'descr': '", type, "', 'fortran_order': False, 'shape': (", shape, "), }");
    constexpr std::size_t before = 10;  // magic, version, length of the header
    std::size_t start = before;
    if (content.size() >= before)
        start += static_cast<unsigned char>(content[8]) + 256U * static_cast<unsigned char>(content[9]);
    const bool good = content.compare(0, 8, std::string_view("\x93NUMPY\x01\x00", 8)) == 0 &&
                      content.compare(before, expected.size(), expected) == 0 &&
                      content.size() == start + count * sizeof(Value);
    if (!good) refuse("expected ", expected, " as .npy in '", file, "', found something else");
    std::vector<Value> out(count);
    std::memcpy(out.data(), content.data() + start, count * sizeof(Value));
    return out;
}

}  // namespace

float from_half(std::uint16_t half) {
    const int exponent = half >> 10 & 31;
    const float fraction = static_cast<float>(half & 1023);
    float value = exponent == 31  ? (fraction != 0 ? NAN : INFINITY)
                  : exponent == 0 ? std::ldexp(fraction, -24)
                                  : std::ldexp(fraction + 1024, exponent - 25);
    return half >> 15 ? -value : value;
}

void run_selfcheck(const Bundle& bundle, Engine& engine, const Proof& proof) {
    const Manifest& manifest = bundle.manifest();
    const Size& side = manifest.patch;
    const std::string shape = text(side[0], ", ", side[1], ", ", side[2]);
    const auto voxels = static_cast<std::size_t>(side[0] * side[1] * side[2]);
    const auto channels = static_cast<std::size_t>(manifest.channels());
    const std::string &image_file = manifest.selfcheck->image, &label_file = manifest.selfcheck->labels;
    const auto halves = read_npy<std::uint16_t>(bundle.read(image_file), image_file, "<f2", text(channels, ", ", shape),
                                                channels * voxels);
    const auto labels = read_npy<std::uint8_t>(bundle.read(label_file), label_file, "|u1", shape, voxels);
    std::vector<float> image;
    image.reserve(halves.size());
    for (const std::uint16_t half : halves) image.push_back(from_half(half));
    const float* const logits = engine.run(image.data());
    std::size_t same = 0;
    for (std::size_t i = 0; i < voxels; ++i) {
        std::size_t best = 0;
        for (std::size_t k = 1; k < manifest.labels.size(); ++k)
            if (!(logits[k * voxels + i] <= logits[best * voxels + i])) best = k;
        same += best == labels[i];
    }
    const double agreement = static_cast<double>(same) / static_cast<double>(voxels);
    if (!(agreement >= 1 - one_patch * (1 - proof.least_label_agreement)))
        throw std::runtime_error(text("expected the labels that the network gave the self-check, found them on ",
                                      100 * agreement, " % of its voxels only"));
}

}  // namespace segkit
