#include "json.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "error.hpp"

namespace segkit {

namespace {

constexpr int most_depth = 64;

class Parser {
public:
    Parser(std::string_view content, const std::string& name) : content_(content), name_(name) {}

    Json document() {
        Json value = parse_value("", 0);
        skip_space();
        if (at_ != content_.size()) fail("the end");
        return value;
    }

private:
    [[noreturn]] void fail(const std::string& expected) const {
        refuse("expected ", expected, " in ", name_, " at byte ", at_, ", found something else");
    }

    char peek() const { return at_ < content_.size() ? content_[at_] : '\0'; }

    void skip_space() {
        while (at_ < content_.size() && std::string_view(" \t\n\r").find(content_[at_]) != std::string_view::npos)
            ++at_;
    }

    bool take(std::string_view word) {
        if (content_.substr(at_, word.size()) != word) return false;
        at_ += word.size();
        return true;
    }

    void require(std::string_view word) {
        skip_space();
        if (!take(word)) fail("'" + std::string(word) + "'");
    }

    Json parse_value(const std::string& place, int depth) {
        if (depth > most_depth) fail(text("at most ", most_depth, " levels"));
        skip_space();
        const std::string named = place.empty() ? name_ : name_ + ", " + place;
        switch (peek()) {
            case '{': return {parse_object(place, depth), named};
            case '[': return {parse_list(place, depth), named};
            case '"': return {parse_string(), named};
            default: break;
        }
        if (take("null")) return {nullptr, named};
        if (take("true")) return {true, named};
        if (take("false")) return {false, named};
        return {parse_number(), named};
    }

    Json::Object parse_object(const std::string& place, int depth) {
        Json::Object members;
        require("{");
        skip_space();
        if (take("}")) return members;
        do {
            skip_space();
            std::string key = parse_string();
            const auto same = [&](const JsonMember& member) { return member.key == key; };
            if (std::any_of(members.begin(), members.end(), same)) fail("each key once");
            require(":");
            Json value = parse_value(place.empty() ? key : place + "." + key, depth + 1);
            members.push_back({std::move(key), std::move(value)});
            skip_space();
        } while (take(","));
        require("}");
        return members;
    }

    Json::List parse_list(const std::string& place, int depth) {
        Json::List items;
        require("[");
        skip_space();
        if (take("]")) return items;
        do {
            items.push_back(parse_value(place + "[" + std::to_string(items.size()) + "]", depth + 1));
            skip_space();
        } while (take(","));
        require("]");
        return items;
    }

    std::string parse_string() {
        if (!take("\"")) fail("a string");
        std::string out;
        while (at_ < content_.size() && content_[at_] != '"') {
            const auto byte = static_cast<unsigned char>(content_[at_]);
            if (byte < 0x20) fail("a string without control characters");
            if (byte == '\\') {
                ++at_;
                parse_escape(out);
            } else {
                out += content_[at_++];
            }
        }
        if (!take("\"")) fail("the end of a string");
        return out;
    }

    void parse_escape(std::string& out) {
        constexpr std::string_view letters = "\"\\/bfnrt", meanings = "\"\\/\b\f\n\r\t";
        const char letter = peek();
        if (letter == 'u') {
            ++at_;
            append_utf8(out, parse_code_point());
            return;
        }
        const std::size_t index = letters.find(letter);
        if (letter == '\0' || index == std::string_view::npos) fail("a known escape");
        out += meanings[index];
        ++at_;
    }

    unsigned parse_hex() {
        unsigned value = 0;
        for (int digit = 0; digit < 4; ++digit, ++at_) {
            const char letter = peek() >= 'A' && peek() <= 'F' ? static_cast<char>(peek() + 'a' - 'A') : peek();
            const std::size_t found = std::string_view("0123456789abcdef").find(letter);
            if (letter == '\0' || found == std::string_view::npos) fail("four hex digits");
            value = value * 16 + static_cast<unsigned>(found);
        }
        return value;
    }

    unsigned parse_code_point() {
        const unsigned first = parse_hex();
        if (first < 0xD800 || first > 0xDFFF) return first;
        if (first > 0xDBFF || !take("\\u")) fail("a pair of surrogates");
        const unsigned second = parse_hex();
        if (second < 0xDC00 || second > 0xDFFF) fail("a pair of surrogates");
        return 0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00);
    }

    static void append_utf8(std::string& out, unsigned code) {
        if (code < 0x80) {
            out += static_cast<char>(code);
            return;
        }
        const int tails = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
        const unsigned lead = tails == 1 ? 0xC0 : tails == 2 ? 0xE0 : 0xF0;
        out += static_cast<char>(lead | (code >> (6 * tails)));
        for (int tail = tails - 1; tail >= 0; --tail) out += static_cast<char>(0x80 | ((code >> (6 * tail)) & 0x3F));
    }

    double parse_number() {
        const std::size_t begin = at_;
        const auto digits = [&] {
            const std::size_t first = at_;
            while (peek() >= '0' && peek() <= '9') ++at_;
            if (at_ == first) fail("a value");
        };
        take("-");
        if (!take("0")) digits();
        if (take(".")) digits();
        if (take("e") || take("E")) {
            if (!take("-")) take("+");
            digits();
        }
        const double value = std::strtod(std::string(content_.substr(begin, at_ - begin)).c_str(), nullptr);
        if (!std::isfinite(value)) fail("a number that fits 64 bits");
        return value;
    }

    std::string_view content_;
    std::string name_;
    std::size_t at_ = 0;
};

template <typename Kind>
const Kind& as(const Json::Value& value, const char* kind, const std::string& place) {
    if (const Kind* found = std::get_if<Kind>(&value)) return *found;
    refuse("expected ", kind, " in ", place, ", found another kind of value");
}

}  // namespace

Json::Json(Value value, std::string place) : value_(std::move(value)), place_(std::move(place)) {}

Json Json::parse(std::string_view content, const std::string& name) { return Parser(content, name).document(); }

bool Json::is_null() const { return std::holds_alternative<std::nullptr_t>(value_); }
bool Json::boolean() const { return as<bool>(value_, "true or false", place_); }
double Json::number() const { return as<double>(value_, "a number", place_); }
const std::string& Json::string() const { return as<std::string>(value_, "a string", place_); }
const Json::List& Json::list() const { return as<List>(value_, "a list", place_); }
const Json::Object& Json::object() const { return as<Object>(value_, "an object", place_); }

std::int64_t Json::integer() const {
    const double value = number();
    if (value != std::floor(value) || std::fabs(value) > 9e15)
        refuse("expected an integer in ", place_, ", found ", value);
    return static_cast<std::int64_t>(value);
}

const Json& Json::at(std::string_view key) const {
    if (const Json* found = find(key)) return *found;
    refuse("expected '", key, "' in ", place_, ", found none");
}

const Json* Json::find(std::string_view key) const {
    for (const JsonMember& member : object())
        if (member.key == key) return &member.value;
    return nullptr;
}

void Json::require_only(std::initializer_list<std::string_view> known) const {
    for (const JsonMember& member : object())
        if (std::find(known.begin(), known.end(), member.key) == known.end())
            refuse("expected only fields that this program knows in ", place_, ", found '", member.key, "'");
}

std::vector<double> Json::three_numbers() const {
    std::vector<double> out;
    for (const Json& item : list()) out.push_back(item.number());
    if (out.size() != 3) refuse("expected three numbers in ", place_, ", found ", out.size());
    return out;
}

}  // namespace segkit
