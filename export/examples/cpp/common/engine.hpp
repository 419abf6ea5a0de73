/// What an engine is: something that turns patches into logits. Each runtime has one file that fills this in.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>

namespace segkit {

using Shape5 = std::array<std::int64_t, 5>;

/// A file of a bundle, and what must come in and out of it.
struct Network {
    std::string file;       ///< its name in the bundle, for messages
    std::string content;    ///< its bytes, hashed
    std::string precision;  ///< what it is to compute in, for example "fp32"
    Shape5 input;           ///< (1, C, X, Y, Z)
    Shape5 logits;          ///< (1, K, X, Y, Z)
};

/// A network made ready to run.
class Engine {
public:
    virtual ~Engine() = default;
    /// Map a patch of `Network::input` floats to `Network::logits` floats, which stay good until the next call.
    virtual const float* run(const float* patch) = 0;
};

/// The runtime that this program was linked with.
struct Runtime {
    std::string name;     ///< as in the proofs of a manifest, for example "openvino"
    std::string version;  ///< as in the proofs, for example "2026.4.1"
    std::string device;   ///< "cpu" or "cuda"
    bool compiled;        ///< whether it takes the bundle's compiled engines; else it takes ONNX files
};

/// Which runtime this is.
Runtime runtime();

/// Make a network ready to run.
/// @param threads CPU threads, or 0 for the runtime's own choice.
/// @throws std::exception where the runtime refuses, or computes in another precision.
std::unique_ptr<Engine> open_engine(const Network& network, int threads);

}  // namespace segkit
