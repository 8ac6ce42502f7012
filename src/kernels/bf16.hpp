// fp32 to bfloat16 and back, rounding to the nearest, ties to even. Bit-equal to torch's conversion; a NaN
// becomes 0x7fc0. A bf16 number is kept as the upper half of the fp32 with its value.
#pragma once

#include <cstdint>
#include <span>

#include "base/ids.hpp"

namespace stella {

// to[i] = bf16(from[i]); any length. Finite values beyond the largest bf16 become infinite.
void to_bf16(std::span<const float> from, std::uint16_t* to);

// to[i] = float(from[i]), exactly; any length.
void from_bf16(std::span<const std::uint16_t> from, float* to);

// Takes the named blocks out of `residual` as bf16: for block k of the list,
// sent[k] = bf16(residual block), at most the largest finite bf16 in magnitude; residual block -= sent[k].
// What rounding and that limit leave behind stays in the residual.
//   blocks    each inside `residual`, no block twice; their values finite
//   residual  whole blocks of kBlock
//   sent      [blocks.size() * kBlock]
void take_blocks_bf16(std::span<const BlockId> blocks, float* residual, std::uint16_t* sent);

}  // namespace stella
