// The body of a contribution on the wire: which blocks, and their values. Format: docs/encoding.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/bytes.hpp"
#include "base/ids.hpp"
#include "compress/sparse_gradient.hpp"

namespace stella {

enum class ValueCoding : std::uint8_t { fp32 = 0, bf16 = 1 };

// Appends the named blocks of `residual` to `out` and takes what was sent out of the residual:
// residual -= decoded(sent). With fp32 they become exactly +0; with bf16 the rounding error stays, and so
// does what exceeds the largest finite bf16. What was in the residual is thus always sent or still there.
//   blocks    strictly ascending, below residual.size() / kBlock
//   residual  [total blocks * kBlock] fp32
// Throws Error(nonfinite), naming the block, if a NaN or an infinity would have to be sent; nothing is
// changed then.
void encode_blocks(std::span<const BlockId> blocks, ValueCoding coding, std::span<float> residual,
                   Bytes& out);

// The blocks in `body`. Throws Error(protocol), before anything large is allocated, if `body` is not exactly
// one well-formed encoding for a bucket of `total_blocks` with finite values.
SparseGradient decode_blocks(std::span<const std::byte> body, std::size_t total_blocks);

}  // namespace stella
