#include "optim/bias_corrections.hpp"

#include <cassert>
#include <cmath>

namespace stella {

double BiasCorrections::bias1(std::uint32_t t) {
  assert(t >= 1);
  while (bias1_.size() < t && (bias1_.empty() || bias1_.back() != 1)) {
    power1_ *= beta1_;
    bias1_.push_back(1 - power1_);
  }
  return t <= bias1_.size() ? bias1_[t - 1] : 1;
}

float BiasCorrections::root_of_bias2(std::uint32_t t) {
  assert(t >= 1);
  while (root_of_bias2_.size() < t && (root_of_bias2_.empty() || root_of_bias2_.back() != 1)) {
    power2_ *= beta2_;
    root_of_bias2_.push_back(static_cast<float>(std::sqrt(1 - power2_)));
  }
  return t <= root_of_bias2_.size() ? root_of_bias2_[t - 1] : 1;
}

}  // namespace stella
