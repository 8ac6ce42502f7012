#include "optim/bias_corrections.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace stella {
namespace {

TEST(BiasCorrections, AreOneMinusThePowersOfTheBetas) {
  BiasCorrections corrections(0.9, 0.999);
  for (std::uint32_t t : {1, 2, 3, 100, 1000, 20000, 7}) {
    EXPECT_NEAR(corrections.bias1(t), 1 - std::pow(0.9, t), 1e-14);
    EXPECT_NEAR(corrections.root_of_bias2(t), std::sqrt(1 - std::pow(0.999, t)), 1e-7);
  }
}

TEST(BiasCorrections, ThePowersAreRepeatedProducts) {
  BiasCorrections corrections(0.9, 0.999);
  EXPECT_EQ(corrections.bias1(3), 1 - 0.9 * 0.9 * 0.9);
  EXPECT_EQ(corrections.root_of_bias2(3), static_cast<float>(std::sqrt(1 - 0.999 * 0.999 * 0.999)));
}

TEST(BiasCorrections, TheTablesStopWhereTheCorrectionIsOne) {
  BiasCorrections corrections(0.9, 0.999);
  const std::uint32_t forever = std::numeric_limits<std::uint32_t>::max();
  EXPECT_EQ(corrections.bias1(forever), 1);
  EXPECT_EQ(corrections.root_of_bias2(forever), 1);
  EXPECT_LT(corrections.size(), 20000u);
}

TEST(BiasCorrections, ABetaOfZeroNeedsNoCorrection) {
  BiasCorrections corrections(0, 0);
  EXPECT_EQ(corrections.bias1(1), 1);
  EXPECT_EQ(corrections.root_of_bias2(5), 1);
}

}  // namespace
}  // namespace stella
