// Adam's bias corrections for blocks that are at different steps.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace stella {

// Powers of the betas by repeated double multiplication, never pow, whose last bits differ between C
// libraries. Kept in tables that grow with the steps asked for, and stop where the correction is 1 from then
// on: after about 160 steps for beta 0.9, 17,000 for beta 0.999. A step can come from a file, and a beta so
// close to 1 that this takes for ever from a script: no table is longer than kLongestTable, and later powers
// are by squaring.
class BiasCorrections {
 public:
  static constexpr std::size_t kLongestTable = std::size_t{1} << 20;

  BiasCorrections(double beta1, double beta2) : beta1_(beta1), beta2_(beta2) {}

  // Of other betas from now on; the table of one that stays is kept.
  void set_betas(double beta1, double beta2);

  // Makes the tables hold for steps 1 to t: entry t - 1, or the last one where a table is shorter, because it
  // is 1. Returns false if one would have to be longer than kLongestTable for that: then only at() has them.
  bool reach(std::uint32_t t);
  std::span<const float> bias1() const { return beta1_.table; }          // [t - 1] 1 - beta1^t
  std::span<const float> root_of_bias2() const { return beta2_.table; }  // [t - 1] sqrt(1 - beta2^t)

  struct Pair {
    float bias1;
    float root_of_bias2;
  };
  // Of any t >= 1.
  Pair at(std::uint32_t t);

 private:
  struct Table {
    explicit Table(double beta) : value(beta) {}
    double value;      // the beta
    double power = 1;  // value ^ table.size()
    std::vector<float> table;
  };
  // The correction whose table it is, of 1 - beta^t.
  using Correct = double (*)(double);
  static bool reach(Table& own, std::uint32_t t, Correct correct);
  static float at(Table& own, std::uint32_t t, Correct correct);

  Table beta1_;
  Table beta2_;
};

}  // namespace stella
