// SGD on the blocks that were sent; everything else stays as it is. StellaTrain (SIGCOMM 2024) §3.1.
#pragma once

#include <span>

#include "base/ids.hpp"
#include "kernels/sgd_step.hpp"

namespace stella {

// Steps the listed blocks (kernels/sgd_step.hpp).
//   blocks           ascending ids, each inside `weights`
//   gradient         [blocks.size() * kBlock], compact, in the order of `blocks`
//   take             [blocks.size()], one for each block, or empty without momentum_buffer
//   weights, momentum_buffer  [all blocks * kBlock]; momentum_buffer may be null
void sparse_sgd(std::span<const BlockId> blocks, const float* gradient, const SgdStep& step,
                std::span<const float> take, float* weights, float* momentum_buffer);

}  // namespace stella
