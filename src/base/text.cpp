#include "base/text.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>

namespace stella {
namespace {

constexpr std::string_view kReplacement = "\xef\xbf\xbd";  // U+FFFD

// How many bytes the character at the start of `text` has; 0 if there is none. No overlong forms, no halves
// of surrogate pairs, nothing beyond U+10FFFF: what Python takes.
std::size_t character(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<std::uint8_t>(text[i]); };
  const std::uint8_t lead = byte(0);
  if (lead < 0x80) return 1;
  const std::size_t size = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (lead < 0xc2 || lead > 0xf4 || text.size() < size) return 0;
  std::uint32_t code = lead & (0xffu >> (size + 1));
  for (std::size_t i = 1; i < size; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
    code = code << 6 | (byte(i) & 0x3f);
  }
  const bool overlong = (size == 3 && code < 0x800) || (size == 4 && code < 0x10000);
  const bool surrogate = code >= 0xd800 && code <= 0xdfff;
  return overlong || surrogate || code > 0x10ffff ? 0 : size;
}

}  // namespace

std::string to_text(std::chrono::milliseconds duration) {
  const auto whole = std::to_string(duration.count() / 1000);
  const auto rest = duration.count() % 1000;
  return (rest == 0 ? whole : whole + "." + std::to_string(1000 + rest).substr(1)) + " s";
}

std::string to_text(double number) {
  std::array<char, 32> digits;
  const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), number).ptr;
  return {digits.data(), end};
}

std::string valid_utf8(std::string_view text, std::size_t most) {
  std::string valid;
  while (!text.empty()) {
    const std::size_t size = character(text);
    const std::string_view next = size == 0 ? kReplacement : text.substr(0, size);
    if (next.size() > most - valid.size()) break;
    valid += next;
    text.remove_prefix(std::max<std::size_t>(size, 1));
  }
  return valid;
}

}  // namespace stella
