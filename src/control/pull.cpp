#include "control/pull.hpp"

#include <algorithm>

namespace stella {
namespace {

// Of told values that go on: models that learn have 0.54 and more, functions that swing 0.4 and less.
constexpr float kGoesOn = 0.45f;
constexpr float kGain = 0.5f;
constexpr std::size_t kSample = 256;  // values: fewer say little

}  // namespace

void Pull::told(std::size_t values, std::size_t onwards) {
  values_ += values;
  onwards_ += onwards;
}

void Pull::round_over() {
  if (values_ < kSample) return;
  const float part = static_cast<float>(onwards_) / static_cast<float>(values_);
  share_ = std::clamp(share_ * (1 + kGain * (part - kGoesOn)), kLeast, kMost);
  values_ = onwards_ = 0;
}

Shares Pull::shares() const {
  const float less = 1 - share_ / kMost;
  return {share_, less * less};
}

}  // namespace stella
