// Numbers of a few bits in and out, from the lowest bit of a byte on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/bytes.hpp"

namespace stella {

// Appends to a byte vector that it borrows, which is whole only when this is gone: the last byte's other bits
// are 0. One thread at a time.
class BitWriter {
 public:
  explicit BitWriter(Bytes& out) : out_(out) {}
  ~BitWriter();
  BitWriter(const BitWriter&) = delete;
  BitWriter& operator=(const BitWriter&) = delete;

  // A number below 2^count, count at most 32.
  void put(std::uint32_t number, unsigned count);
  // So many zeros, and a one.
  void put_unary(std::size_t zeros);

 private:
  Bytes& out_;
  std::uint64_t bits_ = 0;  // not appended yet
  unsigned held_ = 0;       // so many, below 8 between two calls
};

// Reads bytes that somebody else owns and that must outlive it. Each call throws Error(protocol) instead of
// reading past the end; `what` names the thing being read in that error. One thread at a time.
class BitReader {
 public:
  // Begins at bit `at`.
  BitReader(std::span<const std::byte> bytes, std::uint64_t at, const char* what)
      : bytes_(bytes), at_(at), what_(what) {}

  // A number of `count` bits, at most 32.
  std::uint32_t get(unsigned count);
  // How many zeros come before the next one, which is read too. Throws Error(protocol) for more than `most`.
  std::size_t get_unary(std::size_t most);

  // Throws Error(protocol): a number was larger than it may be.
  [[noreturn]] void refuse_above(std::size_t most) const;

  // The bit that is read next.
  std::uint64_t at() const { return at_; }
  // Throws Error(protocol) unless all that is left are zeros, fewer than 8.
  void expect_end() const;

 private:
  static constexpr unsigned kSeen = 57;  // bits, wherever in a byte they begin
  std::uint64_t seen() const;            // the next kSeen of them, zeros behind the end
  void skip(std::uint64_t bits);

  std::span<const std::byte> bytes_;
  std::uint64_t at_;
  const char* what_;
};

}  // namespace stella
