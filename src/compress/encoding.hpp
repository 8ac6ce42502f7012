// The body of a contribution on the wire: which blocks, and their values. Format: docs/encoding.md.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/bytes.hpp"
#include "base/ids.hpp"
#include "compress/listed_values.hpp"
#include "compress/signs.hpp"
#include "compress/sparse_gradient.hpp"
#include "kernels/block.hpp"

namespace stella {

// From fine to coarse: fp32 and bf16 numbers, codes of so many bits with a step for each block
// (kernels/quantize.hpp), or the signs of the largest values only (compress/signs.hpp).
enum class ValueCoding : std::uint8_t {
  fp32 = 0,
  bf16 = 1,
  int8 = 2,
  int4 = 3,
  int2 = 4,
  int1 = 5,
  signs = 6
};

// Of "fp32", "bf16", "int8", "int4", "int2", "int1" or "signs". Throws Error(invalid_argument).
ValueCoding coding_named(const std::string& wire);
// Of 1, 2, 4, 8 or 32 bits for a value, 0 of signs, and back: 16 of bf16.
ValueCoding coding_of_bits(unsigned bits);
unsigned bits_of(ValueCoding coding);

// A block at the end of a tensor that does not fill it. What lies behind is padding: +0 in every residual and
// in everything decoded, whatever was sent there.
struct ShortBlock {
  BlockId block = 0;
  std::size_t numel = 0;  // elements that it has, at least 1
};

// How a bucket's contributions are coded.
struct Coding {
  ValueCoding values = ValueCoding::fp32;
  std::size_t block = kBlock;                     // elements that have one index and one step: 16, 32 or 64
  std::span<const ShortBlock> short_blocks = {};  // ascending; all others are full
};

// Appends the named blocks of `residual` to `out` and takes what was sent out of the residual:
// residual -= decoded(sent). With fp32 they become exactly +0; with fewer bits the rounding error stays, and
// so does what exceeds the largest value that can be sent. What was in the residual is thus always sent or
// still there: exactly with fp32 and bf16, up to the rounding of that fp32 subtraction with codes.
//   blocks    strictly ascending, below residual.size() / coding.block
//   residual  [total blocks * coding.block] fp32, its padding +0 before and after
// Throws Error(nonfinite), naming the block, if a NaN or an infinity would have to be sent; nothing is
// changed then.
void encode_blocks(std::span<const BlockId> blocks, const Coding& coding, std::span<float> residual,
                   Bytes& out);

// The blocks in a body, whose values are read a piece at a time.
class EncodedBlocks {
 public:
  // Throws as decode_blocks(), but for values that are not finite. `body` must outlive it.
  EncodedBlocks(std::span<const std::byte> body, std::size_t total_blocks, std::size_t block,
                std::span<const ShortBlock> short_blocks);

  // Ids of blocks of `block` elements, strictly ascending.
  const std::vector<BlockId>& blocks() const { return blocks_; }
  std::vector<BlockId> take_blocks() && { return std::move(blocks_); }
  // Values of all of them.
  std::size_t size() const { return blocks_.size() * block_; }
  // The values from place `at` on, a multiple of 1024; so many of them, too, or all that are left. Throws
  // Error(protocol) if one is not finite.
  void read(std::size_t at, std::span<float> values) const;
  // Those that are told, all others being 0, if the body is a list (signs).
  std::optional<ListedValues> list() const;

 private:
  struct Short {
    std::size_t place = 0;  // in blocks_
    std::size_t numel = 0;
  };

  std::size_t block_;
  ValueCoding coding_ = ValueCoding::fp32;
  std::vector<BlockId> blocks_;
  std::vector<Short> short_;           // ascending
  std::array<float, 256> table_{};     // of codes: steps by their byte
  std::span<const std::byte> steps_;   // of codes
  std::span<const std::byte> values_;  // or codes
  std::optional<SignedChunks> signs_;
};

// The blocks in `body`, as blocks of kBlock whatever `block` is. Throws Error(protocol), before anything
// large is allocated, if `body` is not exactly one well-formed encoding for a bucket of `total_blocks` blocks
// of `block` elements with finite values.
//   total_blocks  times block / kBlock at most 2^32, the number of ids
//   block         16, 32 or 64
//   short_blocks  as in Coding
SparseGradient decode_blocks(std::span<const std::byte> body, std::size_t total_blocks,
                             std::size_t block = kBlock, std::span<const ShortBlock> short_blocks = {});

}  // namespace stella
