#include "compress/steps.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>

namespace stella {
namespace {

constexpr int kPerOctave = 8;
constexpr int kLargestByte = 255;

constexpr int kMantissaBits = 23;
constexpr std::uint32_t kMantissa = (std::uint32_t{1} << kMantissaBits) - 1;

// 2^(j / 8)
constexpr std::array<double, kPerOctave> kRoots = {
    1.0,
    1.0905077326652577,
    1.1892071150027210,
    1.2968395546510096,
    1.4142135623730951,
    1.5422108254079407,
    1.6817928305074290,
    1.8340080864093424,
};
// 2^((j + 1/2) / 8), between them
constexpr std::array<double, kPerOctave> kMiddles = {
    1.0442737824274138, 1.1387886347566916, 1.2418578120734840, 1.3542555469368927,
    1.4768261459394993, 1.6104903319492543, 1.7562521603732995, 1.9152065613971474,
};

// As mantissas of fp32, rounded down: one is above such a limit if and only if it is above the number itself.
constexpr std::array<std::uint32_t, kPerOctave> mantissas(const std::array<double, kPerOctave>& numbers) {
  std::array<std::uint32_t, kPerOctave> result{};
  for (std::size_t j = 0; j < kPerOctave; ++j) {
    result[j] = static_cast<std::uint32_t>((numbers[j] - 1) * (std::uint32_t{1} << kMantissaBits));
  }
  return result;
}
constexpr auto kRootLimits = mantissas(kRoots);
constexpr auto kMiddleLimits = mantissas(kMiddles);

int clamped(int k) { return std::clamp(k, kLeastStep, kMostStep); }

// 8 * the exponent of `value`, and one for each limit that its mantissa is above; without a branch on the
// data.
int step_past(const std::array<std::uint32_t, kPerOctave>& limits, float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  int k = kPerOctave * (static_cast<int>(bits >> kMantissaBits) - 127);  // clamped for what is not normal
  for (const std::uint32_t limit : limits) k += (bits & kMantissa) > limit;
  return clamped(k);
}

}  // namespace

int step_above(float value) { return step_past(kRootLimits, value); }

int step_nearest(float value) { return step_past(kMiddleLimits, value); }

StepScale StepScale::for_largest(int k) {
  return {static_cast<std::int8_t>((k + kPerOctave - 1) >> 3)};  // rounded up, also below 0
}

std::uint8_t StepScale::byte_of(int k) const {
  return static_cast<std::uint8_t>(std::max(0, kLargestByte + k - kPerOctave * exponent));
}

std::array<float, 256> StepScale::table() const {
  std::array<float, 256> steps{};
  for (int byte = 1; byte <= kLargestByte; ++byte) {
    const int k = kPerOctave * exponent + byte - kLargestByte;
    const int octave = k >> 3;
    steps[static_cast<std::size_t>(byte)] =
        static_cast<float>(std::ldexp(kRoots[static_cast<std::size_t>(k - kPerOctave * octave)], octave));
  }
  return steps;
}

}  // namespace stella
