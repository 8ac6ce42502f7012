// Little-endian bytes in and out, bounds-checked. Every format of the project (docs/wire.md) is written and
// read with these two; received bytes are never cast to a struct.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace stella {

using Bytes = std::vector<std::byte>;

// Integers and IEEE floats that a format may hold.
template <class T>
concept WireScalar = (std::is_integral_v<T> && !std::is_same_v<T, bool>) || std::is_same_v<T, float> ||
                     std::is_same_v<T, double>;

static_assert(std::endian::native == std::endian::little,
              "the wire formats are little-endian, as is this code");

// Appends to a byte vector that it borrows. One thread at a time.
class ByteWriter {
 public:
  explicit ByteWriter(Bytes& out) : out_(out) {}

  template <WireScalar T>
  void put(T value) {
    raw(&value, sizeof value);
  }
  // Unsigned LEB128: 7 bits per byte, lowest first.
  void put_varint(std::uint64_t value);
  // u32 length, then the bytes.
  void put_string(std::string_view text);
  void put_bytes(std::span<const std::byte> bytes) { raw(bytes.data(), bytes.size()); }

 private:
  void raw(const void* data, std::size_t size) {
    const auto* bytes = static_cast<const std::byte*>(data);
    out_.insert(out_.end(), bytes, bytes + size);
  }
  Bytes& out_;
};

// Reads bytes that somebody else owns and that must outlive it. Each call throws Error(protocol) instead of
// reading past the end; `what` names the thing being read in that error. One thread at a time.
class ByteReader {
 public:
  ByteReader(std::span<const std::byte> bytes, std::string_view what) : rest_(bytes), what_(what) {}

  template <WireScalar T>
  T get() {
    T value;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }
  std::uint64_t get_varint();
  // At most `limit` bytes long.
  std::string get_string(std::size_t limit);
  // The next `size` bytes, still owned by the caller of the constructor.
  std::span<const std::byte> take(std::size_t size);

  std::size_t remaining() const { return rest_.size(); }
  std::span<const std::byte> rest() const { return rest_; }
  // Throws Error(protocol) if bytes are left over.
  void expect_end() const;

 private:
  std::span<const std::byte> rest_;
  std::string what_;
};

}  // namespace stella
