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

TEST(BiasCorrections, ABetaNextToOneTakesNoMoreMemoryHoweverLateTheStep) {
  const std::uint32_t longest = BiasCorrections::kLongestTable;
  for (const double beta : {1 - 1e-6, 1 - 1e-9, std::nextafter(1.0, 0.0)}) {
    BiasCorrections corrections(beta, beta);
    for (std::uint32_t t : {longest - 1, longest, longest + 1, std::numeric_limits<std::uint32_t>::max()}) {
      const double exact = -std::expm1(t * std::log(beta));
      EXPECT_NEAR(corrections.bias1(t), exact, 1e-6 * exact) << beta << " at " << t;
      EXPECT_NEAR(corrections.root_of_bias2(t), std::sqrt(exact), 1e-6 * std::sqrt(exact));
    }
    EXPECT_LE(corrections.size(), 2 * BiasCorrections::kLongestTable);
  }
}

TEST(BiasCorrections, ABetaOfZeroNeedsNoCorrection) {
  BiasCorrections corrections(0, 0);
  EXPECT_EQ(corrections.bias1(1), 1);
  EXPECT_EQ(corrections.root_of_bias2(5), 1);
}

}  // namespace
}  // namespace stella
