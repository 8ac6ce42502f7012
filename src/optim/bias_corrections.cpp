#include "optim/bias_corrections.hpp"

#include <algorithm>
#include <cassert>
#include <cmath>

namespace stella {
namespace {

// beta^t where the tables end: products too, but few.
double power(double beta, std::uint32_t t) {
  double result = 1;
  for (; t != 0; t >>= 1, beta *= beta) {
    if ((t & 1) != 0) result *= beta;
  }
  return result;
}

// How far a table goes for t.
std::size_t wanted(std::uint32_t t) { return std::min<std::size_t>(t, BiasCorrections::kLongestTable); }

}  // namespace

double BiasCorrections::bias1(std::uint32_t t) {
  assert(t >= 1);
  while (bias1_.size() < wanted(t) && (bias1_.empty() || bias1_.back() != 1)) {
    power1_ *= beta1_;
    bias1_.push_back(1 - power1_);
  }
  if (t <= bias1_.size()) return bias1_[t - 1];
  return bias1_.back() == 1 ? 1 : 1 - power(beta1_, t);
}

float BiasCorrections::root_of_bias2(std::uint32_t t) {
  assert(t >= 1);
  while (root_of_bias2_.size() < wanted(t) && (root_of_bias2_.empty() || root_of_bias2_.back() != 1)) {
    power2_ *= beta2_;
    root_of_bias2_.push_back(static_cast<float>(std::sqrt(1 - power2_)));
  }
  if (t <= root_of_bias2_.size()) return root_of_bias2_[t - 1];
  return root_of_bias2_.back() == 1 ? 1 : static_cast<float>(std::sqrt(1 - power(beta2_, t)));
}

}  // namespace stella
