// Blocks as the places and signs of their largest values: one value for each block, on average. Format:
// docs/encoding.md, "Signs".
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/bytes.hpp"
#include "base/ids.hpp"

namespace stella {

// Values that share a step: those of as many blocks, one behind the other, or at the end of fewer.
inline constexpr std::size_t kSignChunk = 1024;

// Appends the signs of the largest values of the named blocks, as many as there are blocks in each chunk, and
// takes them out of `residual`: each as its chunk's step, the mean magnitude of those told. Zeros are never
// told. A chunk whose step is too small beside the largest one stays as it is. Returns false, and does
// nothing, if a value is not finite.
//   blocks    strictly ascending, below residual.size() / block
//   block     values of one: 16, 32 or 64
bool send_signs(std::span<const BlockId> blocks, std::size_t block, std::span<float> residual, Bytes& out);

// What send_signs() appended, of so many blocks.
class SignedChunks {
 public:
  // Reads all that is left. Throws Error(protocol) for bytes that do not say what is told of so many blocks.
  // The bytes must outlive this.
  SignedChunks(ByteReader& reader, std::size_t blocks, std::size_t block);

  // That they take at least.
  static std::size_t least_bytes(std::size_t blocks, std::size_t block);

  // Values of chunk `chunk`, kSignChunk or at the end fewer: all of them. Any thread.
  void read(std::size_t chunk, std::span<float> values) const;

  // Values that are told.
  std::size_t count() const { return told_.size(); }
  // Calls tell(place, value) for each of them, places ascending. Any thread.
  template <class Tell>
  void for_each(Tell tell) const {
    for (std::size_t chunk = 0; chunk < steps_.size(); ++chunk) for_each_of(chunk, chunk * kSignChunk, tell);
  }

 private:
  // What is told of one value: its place in its chunk, twice, and 1 if it is negative.
  using Told = std::uint16_t;

  template <class Tell>
  void for_each_of(std::size_t chunk, std::size_t first, Tell tell) const {
    const float step = table_[std::to_integer<std::size_t>(steps_[chunk])];
    const std::size_t begin = chunk == 0 ? 0 : ends_[chunk - 1];
    for (const Told one : std::span(told_).subspan(begin, ends_[chunk] - begin))
      tell(first + one / 2, one % 2 != 0 ? -step : step);
  }

  std::array<float, 256> table_;      // steps by their byte
  std::span<const std::byte> steps_;  // of chunks
  std::vector<Told> told_;
  std::vector<std::size_t> ends_;  // of the chunks, in told_
};

}  // namespace stella
