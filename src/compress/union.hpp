// Where the blocks of several lists go when the lists become one.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/ids.hpp"

namespace stella {

struct BlockUnion {
  std::vector<BlockId> blocks;                        // every block of any list once, ascending
  std::vector<std::vector<std::uint32_t>> positions;  // positions[j][k]: the place of lists[j][k] in `blocks`
};

// `lists` are strictly ascending. Cost: the sum of their lengths times the logarithm of their number.
BlockUnion union_of(std::span<const std::span<const BlockId>> lists);

}  // namespace stella
