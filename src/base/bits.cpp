#include "base/bits.hpp"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstring>
#include <string>

#include "stella/error.hpp"

namespace stella {

BitWriter::~BitWriter() {
  if (held_ > 0) out_.push_back(static_cast<std::byte>(bits_));
}

void BitWriter::put(std::uint32_t number, unsigned count) {
  assert(count <= 32 && std::uint64_t{number} >> count == 0);
  bits_ |= std::uint64_t{number} << held_;
  for (held_ += count; held_ >= 8; held_ -= 8, bits_ >>= 8) out_.push_back(static_cast<std::byte>(bits_));
}

void BitWriter::put_unary(std::size_t zeros) {
  for (; zeros > 31; zeros -= 31) put(0, 31);
  const auto rest = static_cast<unsigned>(zeros);
  put(std::uint32_t{1} << rest, rest + 1);
}

std::uint64_t BitReader::seen() const {
  const std::size_t byte = static_cast<std::size_t>(at_ / 8);
  std::uint64_t bits = 0;
  if (bytes_.size() - byte >= sizeof bits)  // a size known when compiled is many times as fast
    std::memcpy(&bits, bytes_.data() + byte, sizeof bits);
  else if (byte < bytes_.size())
    std::memcpy(&bits, bytes_.data() + byte, bytes_.size() - byte);
  return bits >> at_ % 8 & ((std::uint64_t{1} << kSeen) - 1);
}

void BitReader::skip(std::uint64_t bits) {
  if (bits > std::uint64_t{bytes_.size()} * 8 - at_)
    throw Error(ErrorCode::protocol, std::string(what_) + ": cut off in the middle of a number");
  at_ += bits;
}

std::uint32_t BitReader::get(unsigned count) {
  assert(count <= 32);
  const std::uint64_t number = seen() & ((std::uint64_t{1} << count) - 1);
  skip(count);
  return static_cast<std::uint32_t>(number);
}

std::size_t BitReader::get_unary(std::size_t most) {
  for (std::size_t zeros = 0; zeros <= most;) {
    const std::uint64_t next = seen();
    const auto more = static_cast<unsigned>(std::min<int>(std::countr_zero(next), kSeen));
    zeros += more;
    skip(more);
    if (more == kSeen) continue;
    if (zeros > most) break;
    skip(1);
    return zeros;
  }
  refuse_above(most);
}

void BitReader::refuse_above(std::size_t most) const {
  throw Error(ErrorCode::protocol, std::string(what_) + ": a number is above " + std::to_string(most));
}

void BitReader::expect_end() const {
  const std::uint64_t left = std::uint64_t{bytes_.size()} * 8 - at_;
  if (left >= 8 || seen() != 0) throw Error(ErrorCode::protocol, std::string(what_) + ": bits too many");
}

}  // namespace stella
