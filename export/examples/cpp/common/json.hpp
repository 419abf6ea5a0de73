/// A small JSON reader (RFC 8259), strict: no comments, no key twice, nothing behind the value.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace segkit {

struct JsonMember;

/// One value. Each accessor throws `BadInput` where the value is of another kind, and names its place.
class Json {
public:
    using List = std::vector<Json>;
    using Object = std::vector<JsonMember>;
    using Value = std::variant<std::nullptr_t, bool, double, std::string, List, Object>;

    Json(Value value, std::string place);

    /// Read a whole document; `name` is its file, for messages.
    static Json parse(std::string_view content, const std::string& name);

    bool is_null() const;
    bool boolean() const;
    double number() const;
    std::int64_t integer() const;
    const std::string& string() const;
    const List& list() const;
    const Object& object() const;

    /// The member of an object; throws `BadInput` where it is missing.
    const Json& at(std::string_view key) const;
    /// The member of an object, or nullptr.
    const Json* find(std::string_view key) const;
    /// Refuse an object with a member that is none of these: it means something that this reader does not know.
    void require_only(std::initializer_list<std::string_view> known) const;
    /// A list of three numbers.
    std::vector<double> three_numbers() const;
    /// Where it stands, for messages: "manifest.json, inference.patch".
    const std::string& place() const { return place_; }

private:
    Value value_;
    std::string place_;
};

/// A key and its value.
struct JsonMember {
    std::string key;
    Json value;
};

}  // namespace segkit
