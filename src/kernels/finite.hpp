// Whether numbers are numbers.
#pragma once

#include <cstddef>
#include <span>

#include "base/ids.hpp"

namespace stella {

// The place of the first NaN or infinity in `values`, or values.size(). Any length, any alignment.
std::size_t find_nonfinite(std::span<const float> values);

// The place in `blocks` of the first block of `values` that holds a NaN or an infinity, or blocks.size().
//   blocks  ids of blocks of `block` values, a multiple of kBlock
std::size_t find_nonfinite_block(std::span<const BlockId> blocks, std::size_t block, const float* values);

}  // namespace stella
