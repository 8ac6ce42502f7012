// Adam and AdamW on the blocks that were sent; everything else stays as it is. StellaTrain (SIGCOMM 2024)
// §3.1.
#pragma once

#include <span>

#include "base/ids.hpp"
#include "kernels/adam_step.hpp"

namespace stella {

// Bias corrections of each listed block, from its own number of steps t (this one included).
struct BlockCorrections {
  std::span<const float> step_size;      // lr / (1 - beta1^t)
  std::span<const float> root_of_bias2;  // sqrt(1 - beta2^t)
};

// Steps every listed block (kernels/adam_step.hpp).
//   blocks    ascending ids, each inside the arrays
//   gradient  [blocks.size() * kBlock], compact, in the order of `blocks`
//   arrays    of [all blocks * kBlock]
void sparse_adam(std::span<const BlockId> blocks, const float* gradient, const AdamStep& step,
                 const BlockCorrections& corrections, const AdamArrays& arrays);

}  // namespace stella
