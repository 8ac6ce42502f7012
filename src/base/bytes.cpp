#include "base/bytes.hpp"

#include "stella/error.hpp"

namespace stella {

void ByteWriter::put_varint(std::uint64_t value) {
  while (value >= 0x80) {
    put(static_cast<std::uint8_t>(value | 0x80));
    value >>= 7;
  }
  put(static_cast<std::uint8_t>(value));
}

void ByteWriter::put_string(std::string_view text) {
  put(static_cast<std::uint32_t>(text.size()));
  raw(text.data(), text.size());
}

std::uint64_t ByteReader::get_varint() {
  std::uint64_t value = 0;
  for (int shift = 0; shift < 64; shift += 7) {
    const auto byte = get<std::uint8_t>();
    const std::uint64_t low = byte & 0x7f;
    if (shift == 63 && low > 1) break;
    value |= low << shift;
    if ((byte & 0x80) == 0) return value;
  }
  throw Error(ErrorCode::protocol, what_ + ": a variable-length number does not fit 64 bits");
}

std::string ByteReader::get_string(std::size_t limit) {
  const auto size = get<std::uint32_t>();
  if (size > limit) {
    throw Error(ErrorCode::protocol, what_ + ": a text of " + std::to_string(size) +
                                         " bytes is longer than the limit of " + std::to_string(limit));
  }
  const auto bytes = take(size);
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::span<const std::byte> ByteReader::take(std::size_t size) {
  if (size > rest_.size()) {
    throw Error(ErrorCode::protocol, what_ + ": cut off; " + std::to_string(size) +
                                         " more bytes were expected, " + std::to_string(rest_.size()) +
                                         " are left");
  }
  const auto taken = rest_.first(size);
  rest_ = rest_.subspan(size);
  return taken;
}

void ByteReader::expect_end() const {
  if (!rest_.empty()) {
    throw Error(ErrorCode::protocol, what_ + ": " + std::to_string(rest_.size()) + " bytes too many");
  }
}

}  // namespace stella
