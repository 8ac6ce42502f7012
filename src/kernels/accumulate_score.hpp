// Error feedback and the score of every block in one pass over memory. StellaTrain (SIGCOMM 2024) §3.2.
#pragma once

#include <span>

#include "kernels/half.hpp"

namespace stella {

// sum[i] = residual[i] + weight * gradient[i], then scores[b] = the sum of sum[i]^2 over block b.
//   gradient  [blocks * kBlock] fp32, bf16 or fp16, any alignment, only read; `residual` with weight 0 makes
//             a scored copy
//   residual  [blocks * kBlock] fp32, only read
//   sum       [blocks * kBlock] fp32: `residual` itself, or apart from everything else; then written past
//             the caches if it starts on a cache line
//   scores    [blocks] fp32, at least 0; NaN where an element of `sum` is, infinite where one exceeds about
//             1e19, 0 where all are below about 1e-23
//
// The paper adds up magnitudes. Squares cost the same, and the blocks of the largest scores then hold as
// much of the gradient's energy as so many blocks can, whatever its distribution.
//
// Multiplication and addition round separately, and the order of a block's sum is pinned, so that every
// target gives the same bits: x = sum^2 of the block, t[j] = (x[j] + x[j+8]) + (x[j+4] + x[j+12]) for j < 4,
// then score = (t[0] + t[2]) + (t[1] + t[3]). Threads: disjoint ranges may run in parallel.
void accumulate_score(std::span<const float> gradient, float weight, const float* residual, float* sum,
                      float* scores);
void accumulate_score(std::span<const Bf16> gradient, float weight, const float* residual, float* sum,
                      float* scores);
void accumulate_score(std::span<const Fp16> gradient, float weight, const float* residual, float* sum,
                      float* scores);

}  // namespace stella
