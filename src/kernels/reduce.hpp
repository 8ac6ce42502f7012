// The loops of a merge: sums of contributions, their mean, and what is left of it. Same bits on every target.
#pragma once

#include <cstdint>
#include <span>

namespace stella {

// sum[i] += values[i]; any length. The two do not overlap.
void add(std::span<const float> values, float* sum);

// from[i] -= values[i]; any length. The two do not overlap.
void subtract(std::span<const float> values, float* from);

// Adds block k of `values` to block positions[k] of `sum`.
//   values     [positions.size() * kBlock] fp32
//   positions  in blocks; each inside `sum`, in any order
//   sum        does not overlap `values`
void scatter_add(std::span<const float> values, std::span<const std::uint32_t> positions, float* sum);

// values[i] /= divisor, by true division; any length.
void divide(std::span<float> values, float divisor);

}  // namespace stella
