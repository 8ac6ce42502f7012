// What SGD's kernels take; the formulas are those of torch.optim.SGD.
#pragma once

namespace stella {

struct SgdStep {
  float lr;
  float momentum;      // only read where there is a momentum buffer
  float weight_decay;  // added to the gradient as weight_decay * weight
  bool nesterov;       // only read where there is a momentum buffer
  bool maximize;
};

// For every element, with g = its gradient (negated if maximize) + weight_decay * w:
//   without momentum_buffer   w -= lr * g
//   with it                   m = momentum * m + take * g;  w -= lr * (nesterov ? g + momentum * m : m)
// where take = 1 and m = 0 is torch's first step (m = g), and later ones have take = 1 - dampening.
// Multiply and add round separately: same bits on every target.

}  // namespace stella
