// Adam and AdamW on the blocks that were sent; everything else stays as it is. StellaTrain (SIGCOMM 2024)
// §3.1; the formulas are those of torch.optim.Adam and AdamW.
#pragma once

#include <span>

#include "base/ids.hpp"

namespace stella {

// The numbers that all blocks share, rounded once to fp32 from the settings' doubles.
struct AdamStep {
  float shrink;        // AdamW: 1 - lr * weight_decay, multiplies the weights first; Adam: 1
  float weight_decay;  // Adam: added to the gradient as weight_decay * weight; AdamW: 0
  float beta1;
  float one_minus_beta1;
  float beta2;
  float one_minus_beta2;
  float eps;
  bool maximize;
};

// Bias corrections of each listed block, from its own number of steps t (this one included).
struct BlockCorrections {
  std::span<const float> step_size;      // lr / (1 - beta1^t)
  std::span<const float> root_of_bias2;  // sqrt(1 - beta2^t)
};

// Arrays of [all blocks * kBlock], changed at the listed blocks.
struct AdamArrays {
  float* weights;
  float* exp_avg;
  float* exp_avg_sq;
  float* max_exp_avg_sq;  // null unless amsgrad
};

// For every listed block, with w = weights * shrink and g = its gradient (negated if maximize) + weight_decay
// * w:
//   m = m + (1 - beta1) * (g - m)                 (torch's lerp: g - beta1 * (g - m) where 1 - beta1 >= 0.5)
//   v = beta2 * v + ((1 - beta2) * g) * g
//   w -= (step_size * m) / (sqrt(v) / root_of_bias2 + eps)      amsgrad: the largest v so far in place of v
//   blocks    ascending ids, each inside the arrays
//   gradient  [blocks.size() * kBlock], compact, in the order of `blocks`
// Multiply and add round separately, division and square root are exact: same bits on every target.
void sparse_adam(std::span<const BlockId> blocks, const float* gradient, const AdamStep& step,
                 const BlockCorrections& corrections, const AdamArrays& arrays);

}  // namespace stella
