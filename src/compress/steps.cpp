#include "compress/steps.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <utility>

namespace stella {
namespace {

constexpr int kPerOctave = 8;
constexpr int kLargestByte = 255;

constexpr int kMantissaBits = 23;
constexpr std::int32_t kMantissa = (std::int32_t{1} << kMantissaBits) - 1;

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
constexpr std::array<std::int32_t, kPerOctave> mantissas(const std::array<double, kPerOctave>& numbers) {
  std::array<std::int32_t, kPerOctave> result{};
  for (std::size_t j = 0; j < kPerOctave; ++j) {
    result[j] = static_cast<std::int32_t>((numbers[j] - 1) * (1 << kMantissaBits));
  }
  return result;
}
constexpr auto kRootLimits = mantissas(kRoots);
constexpr auto kMiddleLimits = mantissas(kMiddles);

// The steps of the scale 2^0. A power of two times one is exact in double, so it is rounded once, to fp32.
constexpr std::array<double, 256> kSteps = [] {
  std::array<double, 256> steps{};
  for (int byte = 1; byte <= kLargestByte; ++byte) {
    const int below = kLargestByte - byte;                      // eighths of an octave under 1
    const int octaves = (below + kPerOctave - 1) / kPerOctave;  // rounded up
    double& step = steps[static_cast<std::size_t>(byte)];
    step = kRoots[static_cast<std::size_t>(kPerOctave * octaves - below)];
    for (int i = 0; i < octaves; ++i) step /= 2;
  }
  return steps;
}();

// 8 * the exponent of a value, and one for each limit that its mantissa is above: plain arithmetic without a
// branch or a table, which the compiler does on several values at once.
template <const std::array<std::int32_t, kPerOctave>& limits>
void steps_past(std::span<const float> values, int* k) {
  for (std::size_t i = 0; i < values.size(); ++i) {
    const auto bits = std::bit_cast<std::int32_t>(values[i]);
    const std::int32_t mantissa = bits & kMantissa;
    int step = kPerOctave * ((bits >> kMantissaBits) - 127);  // clamped for what is not normal
    [&]<std::size_t... j>(std::index_sequence<j...>) {
      step += (static_cast<int>(mantissa > limits[j]) + ...);
    }
    (std::make_index_sequence<kPerOctave>());
    step = step < kLeastStep ? kLeastStep : step;
    step = step > kMostStep ? kMostStep : step;
    k[i] = bits == 0 ? kNoStep : step;
  }
}

}  // namespace

void steps_above(std::span<const float> values, int* k) { steps_past<kRootLimits>(values, k); }

void steps_nearest(std::span<const float> values, int* k) { steps_past<kMiddleLimits>(values, k); }

StepScale StepScale::for_largest(int k) {
  return {static_cast<std::int8_t>((k + kPerOctave - 1) >> 3)};  // rounded up, also below 0
}

std::uint8_t StepScale::byte_of(int k) const {
  return static_cast<std::uint8_t>(std::max(0, kLargestByte + k - kPerOctave * exponent));
}

std::array<float, 256> StepScale::table() const {
  const double scale = std::ldexp(1.0, exponent);
  std::array<float, 256> steps;
  std::transform(kSteps.begin(), kSteps.end(), steps.begin(),
                 [scale](double step) { return static_cast<float>(step * scale); });
  return steps;
}

}  // namespace stella
