/// Errors of requests and files, and how their text is put together.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace segkit {

/// A bad request or a bad file. The program says it in one line and ends with exit code 2.
class BadInput : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

/// Write values one after the other, as `std::ostream` does.
template <typename... Parts>
std::string text(const Parts&... parts) {
    std::ostringstream out;
    (out << ... << parts);
    return out.str();
}

/// Throw `BadInput` with a message of these parts.
template <typename... Parts>
[[noreturn]] void refuse(const Parts&... parts) {
    throw BadInput(text(parts...));
}

}  // namespace segkit
