// Some blocks of a bucket's gradient, and nothing of the others.
#pragma once

#include <vector>

#include "base/aligned.hpp"
#include "base/ids.hpp"

namespace stella {

struct SparseGradient {
  std::vector<BlockId> blocks;  // strictly ascending
  AlignedArray<float> values;   // [blocks.size() * kBlock] fp32, in the order of `blocks`
};

}  // namespace stella
