// Adam and AdamW on every element in one pass over memory: 28 bytes for each with fp32 gradients. For
// optimizers whose state is kept on the CPU whole: ES-MoE (ICML 2024) §3.3.
#pragma once

#include <span>

#include "kernels/adam_step.hpp"
#include "kernels/half.hpp"

namespace stella {

// What all elements of one step share beside AdamStep.
struct DenseCorrections {
  float step_size;       // lr / (1 - beta1^t)
  float root_of_bias2;   // sqrt(1 - beta2^t)
  float gradient_scale;  // multiplies the gradient first: 1, or a loss scale's inverse
};

// Steps elements 0 to gradient.size() - 1 of `arrays` (kernels/adam_step.hpp).
//   gradient      fp32, bf16 or fp16, any length and alignment, only read
//   bf16_weights  null, or where the new weights go too, rounded to nearest (ties to even): what a GPU
//                 computes with while `arrays.weights` are the fp32 master
// Non-finite gradients give non-finite weights, as in torch. Threads: disjoint ranges may run in parallel.
void dense_adam(std::span<const float> gradient, const AdamStep& step, const DenseCorrections& corrections,
                const AdamArrays& arrays, Bf16* bf16_weights);
void dense_adam(std::span<const Bf16> gradient, const AdamStep& step, const DenseCorrections& corrections,
                const AdamArrays& arrays, Bf16* bf16_weights);
void dense_adam(std::span<const Fp16> gradient, const AdamStep& step, const DenseCorrections& corrections,
                const AdamArrays& arrays, Bf16* bf16_weights);

}  // namespace stella
