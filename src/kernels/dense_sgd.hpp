// SGD on every element in one pass over memory: 12 bytes for each with fp32 gradients, 20 with momentum. For
// optimizers whose state is kept on the CPU whole.
#pragma once

#include <span>

#include "kernels/half.hpp"
#include "kernels/sgd_step.hpp"

namespace stella {

// What all elements of one step share beside SgdStep.
struct DenseSgdScales {
  float gradient_scale;  // multiplies the gradient first: 1, or a loss scale's inverse
  float take;            // only read where there is a momentum buffer
};

struct SgdArrays {
  float* weights;
  float* momentum_buffer;  // may be null
};

// Steps elements 0 to gradient.size() - 1 of `arrays` (kernels/sgd_step.hpp).
//   gradient      fp32, bf16 or fp16, any length and alignment, only read
//   bf16_weights  null, or where the new weights go too, rounded to nearest (ties to even): what a GPU
//                 computes with while `arrays.weights` are the fp32 master
// Non-finite gradients give non-finite weights, as in torch. Threads: disjoint ranges may run in parallel.
void dense_sgd(std::span<const float> gradient, const SgdStep& step, const DenseSgdScales& scales,
               const SgdArrays& arrays, Bf16* bf16_weights);
void dense_sgd(std::span<const Bf16> gradient, const SgdStep& step, const DenseSgdScales& scales,
               const SgdArrays& arrays, Bf16* bf16_weights);
void dense_sgd(std::span<const Fp16> gradient, const SgdStep& step, const DenseSgdScales& scales,
               const SgdArrays& arrays, Bf16* bf16_weights);

}  // namespace stella
