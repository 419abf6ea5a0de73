/// The self-check: a patch of the bundle, and the labels that its network must give it here too.
#pragma once

#include "bundle.hpp"

namespace segkit {

/// Run the bundle's patch and hold the labels against those in the bundle.
/// @throws BadInput the files of the self-check are not what they should be.
/// @throws std::runtime_error too many labels differ.
void run_selfcheck(const Bundle& bundle, Engine& engine, const Proof& proof);

/// IEEE half precision to single.
float from_half(std::uint16_t half);

}  // namespace segkit
