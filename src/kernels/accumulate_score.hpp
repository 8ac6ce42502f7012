// Error feedback and the score of every block in one pass over memory. StellaTrain (SIGCOMM 2024) §3.2.
#pragma once

#include <cstddef>
#include <span>

#include "kernels/half.hpp"

namespace stella {

// residual[i] += weight * gradient[i], then scores[b] = the sum of residual[i]^2 over block b. Stops in front
// of the first block whose residual would no longer be finite: neither that block nor any behind it is
// touched. Returns the number of blocks that were done.
//   gradient  [blocks * kBlock] fp32, bf16 or fp16, any alignment, only read; `residual` with weight 0 only
//             scores
//   residual  [blocks * kBlock] fp32, any alignment
//   scores    [blocks] fp32, at least 0; infinite where an element of the residual exceeds about 1e19, 0
//             where all are below about 1e-23
//
// The paper adds up magnitudes. Squares cost the same, and the blocks of the largest scores then hold as
// much of the gradient's energy as so many blocks can, whatever its distribution.
//
// Multiplication and addition round separately, and the order of a block's sum is pinned, so that every
// target gives the same bits: x = sum^2 of the block, t[j] = (x[j] + x[j+8]) + (x[j+4] + x[j+12]) for j < 4,
// then score = (t[0] + t[2]) + (t[1] + t[3]). Threads: disjoint ranges may run in parallel.
std::size_t accumulate_score(std::span<const float> gradient, float weight, float* residual, float* scores);
std::size_t accumulate_score(std::span<const Bf16> gradient, float weight, float* residual, float* scores);
std::size_t accumulate_score(std::span<const Fp16> gradient, float weight, float* residual, float* scores);

}  // namespace stella
