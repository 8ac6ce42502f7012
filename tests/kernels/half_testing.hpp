// Numbers of 16 bits, one by one, as plainly as can be.
#pragma once

#include <bit>
#include <cmath>
#include <limits>
#include <random>

#include "kernels/half.hpp"
#include "kernels/kernel_testing.hpp"

namespace stella::testing {

// The bits of the nearest bf16, ties to even; a NaN stays one.
inline std::uint16_t nearest_bf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if (std::isnan(value)) return static_cast<std::uint16_t>(bits >> 16 | 0x40);
  return static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// Written for clarity.
inline float value_of(Fp16 half) {
  const int exponent = half.bits >> 10 & 31;
  const float fraction = static_cast<float>(half.bits & 1023) / 1024;
  if (exponent == 31 && fraction != 0) return std::numeric_limits<float>::quiet_NaN();
  const float magnitude = exponent == 31  ? std::numeric_limits<float>::infinity()
                          : exponent == 0 ? std::ldexp(fraction, -14)
                                          : std::ldexp(1 + fraction, exponent - 15);
  return half.bits >> 15 != 0 ? -magnitude : magnitude;
}

inline float value_of(Bf16 half) { return std::bit_cast<float>(static_cast<std::uint32_t>(half.bits) << 16); }

// Any finite number, subnormal ones among them.
template <class Half>
Half finite_half(Random& random) {
  for (;;) {
    const Half half{static_cast<std::uint16_t>(random())};
    if (std::isfinite(value_of(half))) return half;
  }
}

}  // namespace stella::testing
