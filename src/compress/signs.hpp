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
// told. A chunk whose step is too small beside the largest one stays as it is.
//   blocks    strictly ascending, below residual.size() / block
//   block     values of one: 16, 32 or 64
//   residual  finite in the named blocks
void send_signs(std::span<const BlockId> blocks, std::size_t block, std::span<float> residual, Bytes& out);

// What send_signs() appended, of so many blocks, read a chunk at a time.
class SignedChunks {
 public:
  // Reads all that is left. Throws Error(protocol) for what send_signs() does not append. The bytes must
  // outlive this.
  SignedChunks(ByteReader& reader, std::size_t blocks, std::size_t block);

  // That they take at least.
  static std::size_t least_bytes(std::size_t blocks, std::size_t block);

  // Values of chunk `chunk`, kSignChunk or at the end fewer: all of them. Any thread.
  void read(std::size_t chunk, std::span<float> values) const;

 private:
  std::size_t block_;
  std::array<float, 256> table_;      // steps by their byte
  std::span<const std::byte> steps_;  // of chunks
  std::span<const std::byte> codes_;
  std::vector<std::uint64_t> chunk_bit_;  // of codes_, where each chunk's begin
};

}  // namespace stella
