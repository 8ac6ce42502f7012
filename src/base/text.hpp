// Text for people: in errors, in logs, in Python.
#pragma once

#include <chrono>
#include <cstddef>
#include <string>
#include <string_view>

namespace stella {

// "10 s", "0.250 s".
std::string to_text(std::chrono::milliseconds duration);

// As few digits as tell it from its neighbours: "0.1", "1e-12", "1e+13", "nan", "inf".
std::string to_text(double number);

// `text` as UTF-8 of at most `most` bytes: each byte that belongs to no character becomes U+FFFD, and what
// does not fit is cut between two characters.
std::string valid_utf8(std::string_view text, std::size_t most = std::string_view::npos);

}  // namespace stella
