// SGD on the blocks that were sent; everything else stays as it is. StellaTrain (SIGCOMM 2024) §3.1.
#pragma once

#include <cstdint>
#include <span>

#include "base/ids.hpp"
#include "kernels/sgd_step.hpp"

namespace stella {

struct BlockMomentum {
  float* buffer;         // [all blocks * kBlock]
  std::uint32_t* steps;  // [all blocks]; one more for each listed block; 2^32 - 1 stays
  float later_take;      // `take` of a block but at its first step, where that is 1
};

// Steps the listed blocks (kernels/sgd_step.hpp) and, with momentum, counts that.
//   blocks           ascending ids, each inside `weights`
//   gradient         [blocks.size() * kBlock], compact, in the order of `blocks`
//   weights          [all blocks * kBlock]
//   momentum         null, or what makes it SGD with momentum
// Threads: disjoint blocks may be stepped in parallel.
void sparse_sgd(std::span<const BlockId> blocks, const float* gradient, const SgdStep& step, float* weights,
                const BlockMomentum* momentum);

}  // namespace stella
