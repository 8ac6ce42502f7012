// The words of the exchange, as types. Sizes are those of the wire format (docs/wire.md).
#pragma once

#include <cstdint>

namespace stella {

using Rank = std::uint32_t;  // a member's place in its view, 0 .. world_size - 1; the order of every merge
using Iteration = std::uint64_t;  // 1, 2, 3, ...: one per optimizer.step(); 0 means "before the first"
using BucketId = std::uint32_t;   // a bucket's place in the model, 0 first (nearest the input)
using BlockId = std::uint32_t;    // a block's place in its bucket

}  // namespace stella
