// SGD on the blocks that were sent; everything else stays as it is. StellaTrain (SIGCOMM 2024) §3.1; the
// formulas are those of torch.optim.SGD.
#pragma once

#include <span>

#include "base/ids.hpp"

namespace stella {

struct SgdStep {
  float lr;
  float momentum;      // only read where there is a momentum buffer
  float weight_decay;  // added to the gradient as weight_decay * weight
  bool nesterov;       // only read where there is a momentum buffer
  bool maximize;
};

// For every listed block, with g = its gradient (negated if maximize) + weight_decay * w:
//   without momentum_buffer   w -= lr * g
//   with it                   m = momentum * m + take * g;  w -= lr * (nesterov ? g + momentum * m : m)
// where a block with take = 1 and m = 0 is torch's first step (m = g), and later ones have take = 1 -
// dampening.
//   blocks           ascending ids, each inside `weights`
//   gradient         [blocks.size() * kBlock], compact, in the order of `blocks`
//   take             [blocks.size()], or empty without momentum_buffer
//   weights, momentum_buffer  [all blocks * kBlock]; momentum_buffer may be null
// Multiply and add round separately: same bits on every target.
void sparse_sgd(std::span<const BlockId> blocks, const float* gradient, const SgdStep& step,
                std::span<const float> take, float* weights, float* momentum_buffer);

}  // namespace stella
