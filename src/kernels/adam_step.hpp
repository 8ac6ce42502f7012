// What Adam's kernels take; the formulas are those of torch.optim.Adam and AdamW.
#pragma once

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

// Arrays of a bucket, fp32, changed where a step is made.
struct AdamArrays {
  float* weights;
  float* exp_avg;
  float* exp_avg_sq;
  float* max_exp_avg_sq;  // null unless amsgrad
};

// For every element, with w = weights * shrink and g = its gradient (negated if maximize) + weight_decay * w:
//   m = m + (1 - beta1) * (g - m)                 (torch's lerp: g - beta1 * (g - m) where 1 - beta1 >= 0.5)
//   v = beta2 * v + ((1 - beta2) * g) * g
//   w -= (step_size * m) / (sqrt(v) / root_of_bias2 + eps)      amsgrad: the largest v so far in place of v
// with step_size = lr / (1 - beta1^t), a quotient in fp32, and root_of_bias2 = sqrt(1 - beta2^t) at step t.
// Multiply and add round separately, division and square root are exact: same bits on every target.

}  // namespace stella
