// Adam's bias corrections for blocks that are at different steps.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace stella {

// Powers of the betas by repeated double multiplication, never pow, whose last bits differ between C
// libraries. Kept in tables that grow with the steps asked for, and stop where the correction is 1 from then
// on: after about 350 steps for beta 0.9, 17,000 for beta 0.999. A step can come from a file, and a beta so
// close to 1 that this takes for ever from a script: no table is longer than kLongestTable, and later powers
// are by squaring.
class BiasCorrections {
 public:
  static constexpr std::size_t kLongestTable = std::size_t{1} << 20;

  BiasCorrections(double beta1, double beta2) : beta1_(beta1), beta2_(beta2) {}

  double beta1() const { return beta1_; }
  double beta2() const { return beta2_; }

  // 1 - beta1^t, for t >= 1.
  double bias1(std::uint32_t t);
  // sqrt(1 - beta2^t) in fp32, for t >= 1.
  float root_of_bias2(std::uint32_t t);

  // Entries in both tables.
  std::size_t size() const { return bias1_.size() + root_of_bias2_.size(); }

 private:
  double beta1_;
  double beta2_;
  double power1_ = 1;                 // beta1 ^ bias1_.size()
  double power2_ = 1;                 // beta2 ^ root_of_bias2_.size()
  std::vector<double> bias1_;         // [t - 1]
  std::vector<float> root_of_bias2_;  // [t - 1]
};

}  // namespace stella
