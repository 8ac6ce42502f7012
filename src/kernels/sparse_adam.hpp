// Adam and AdamW on the blocks that were sent; everything else stays as it is. StellaTrain (SIGCOMM 2024)
// §3.1.
#pragma once

#include <cstdint>
#include <span>

#include "base/ids.hpp"
#include "kernels/adam_step.hpp"

namespace stella {

// What corrects each block for its own number of steps t, this one included.
struct BlockCorrections {
  std::uint32_t* steps;                  // [all blocks]; one more for each listed block; 2^32 - 1 stays
  std::span<const float> bias1;          // [t - 1] 1 - beta1^t; behind its end the last one holds
  std::span<const float> root_of_bias2;  // [t - 1] sqrt(1 - beta2^t), likewise; neither is empty
  float lr;                              // its quotient with bias1 is the step size, in fp32
};

// Steps every listed block (kernels/adam_step.hpp) and counts that. Counts and corrections are read where the
// block is: it waits for memory anyway, and a pass of their own took a fifth of the time.
//   blocks    ascending ids, each inside the arrays
//   gradient  [blocks.size() * kBlock], compact, in the order of `blocks`
//   arrays    of [all blocks * kBlock]
// Threads: disjoint blocks may be stepped in parallel.
void sparse_adam(std::span<const BlockId> blocks, const float* gradient, const AdamStep& step,
                 const BlockCorrections& corrections, const AdamArrays& arrays);

}  // namespace stella
