// The steps of quantized blocks as one byte each. Format: docs/encoding.md, "Codes".
#pragma once

#include <array>
#include <cstdint>
#include <span>

namespace stella {

// A step is 2^(k / 8) for an integer k: eight for each factor of two. All arithmetic is on integers and on a
// table, so every machine finds the same k and the same fp32.

// What steps may be: 127 of the largest are still finite, and the smallest is above the denormals.
inline constexpr int kLeastStep = -8 * 126;
inline constexpr int kMostStep = 8 * 120;

// Of a value of 0: no step.
inline constexpr int kNoStep = -(1 << 20);

// For each value the smallest k with 2^(k / 8) at least that, and the k that is nearest on the logarithmic
// scale; between kLeastStep and kMostStep, or kNoStep. Values are at least 0, or infinite.
//   k  [values.size()]
void steps_above(std::span<const float> values, int* k);
void steps_nearest(std::span<const float> values, int* k);

// Bytes stand for the steps of one payload, from 2^exponent downwards: 0 is no step, b is
// 2^(exponent + (b - 255) / 8). So a payload holds blocks whose steps differ by up to 2^31.75.
struct StepScale {
  std::int8_t exponent = 0;

  // The lowest scale that has 2^(k / 8), the largest step of a payload.
  static StepScale for_largest(int k);

  // The byte of 2^(k / 8); 0 of kNoStep and where it is too small for this scale.
  std::uint8_t byte_of(int k) const;

  // The step of every byte. All are finite; a level times a step of a peer's scale may not be.
  std::array<float, 256> table() const;
};

}  // namespace stella
