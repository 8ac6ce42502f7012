// fp32 to bfloat16 and back, rounding to the nearest, ties to even, as torch does. A bf16 number is kept as
// the upper half of the fp32 with its value.
#pragma once

#include <cstdint>
#include <span>

#include "base/ids.hpp"

namespace stella {

// to[i] = float(from[i]), exactly; any length.
void from_bf16(std::span<const std::uint16_t> from, float* to);

// Takes the named blocks out of `residual` as bf16: for block k of the list,
// sent[k] = bf16(residual block), at most the largest finite bf16 in magnitude; residual block -= sent[k].
// What rounding and that limit leave behind stays in the residual.
//   blocks    each inside `residual`, no block twice; their values finite
//   block     values of one block, a multiple of kBlock
//   sent      [blocks.size() * block]
void take_blocks_bf16(std::span<const BlockId> blocks, std::size_t block, float* residual,
                      std::uint16_t* sent);

}  // namespace stella
