#include "optim/bias_corrections.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace stella {
namespace {

TEST(BiasCorrections, AreOneMinusThePowersOfTheBetas) {
  BiasCorrections corrections(0.9, 0.999);
  for (std::uint32_t t : {1, 2, 3, 100, 1000, 20000, 7}) {
    EXPECT_NEAR(corrections.at(t).bias1, 1 - std::pow(0.9, t), 1e-7);
    EXPECT_NEAR(corrections.at(t).root_of_bias2, std::sqrt(1 - std::pow(0.999, t)), 1e-7);
  }
}

TEST(BiasCorrections, ThePowersAreRepeatedProducts) {
  BiasCorrections corrections(0.9, 0.999);
  EXPECT_EQ(corrections.at(3).bias1, static_cast<float>(1 - 0.9 * 0.9 * 0.9));
  EXPECT_EQ(corrections.at(3).root_of_bias2, static_cast<float>(std::sqrt(1 - 0.999 * 0.999 * 0.999)));
}

TEST(BiasCorrections, TheTablesStopWhereTheCorrectionIsOne) {
  BiasCorrections corrections(0.9, 0.999);
  const std::uint32_t forever = std::numeric_limits<std::uint32_t>::max();
  EXPECT_TRUE(corrections.reach(forever));
  EXPECT_EQ(corrections.bias1().back(), 1);
  EXPECT_EQ(corrections.root_of_bias2().back(), 1);
  EXPECT_LT(corrections.bias1().size(), 200u);
  EXPECT_LT(corrections.root_of_bias2().size(), 20'000u);
  EXPECT_EQ(corrections.at(forever).bias1, 1);
  EXPECT_EQ(corrections.at(forever).root_of_bias2, 1);
}

TEST(BiasCorrections, TheTablesHoldForTheStepsThatTheyReach) {
  BiasCorrections corrections(0.9, 0.999), others(0.9, 0.999);
  for (const std::uint32_t t : {5u, 3u, 300u}) {
    EXPECT_TRUE(corrections.reach(t));
    EXPECT_LE(corrections.root_of_bias2().size(), std::max(t, 5u));
    for (std::uint32_t each = 1; each <= t; ++each) {
      const auto entry = std::min<std::size_t>(each, corrections.bias1().size()) - 1;
      EXPECT_EQ(corrections.bias1()[entry], others.at(each).bias1);
      EXPECT_EQ(corrections.root_of_bias2()[each - 1], others.at(each).root_of_bias2);
    }
  }
}

TEST(BiasCorrections, OfNewBetasOnlyTheTableOfTheOneThatChangedIsMadeAnew) {
  for (const auto& [beta1, beta2] : {std::pair{0.5, 0.999}, std::pair{0.9, 0.75}}) {
    BiasCorrections corrections(0.9, 0.999), fresh(beta1, beta2);
    corrections.reach(300);
    corrections.set_betas(beta1, beta2);
    EXPECT_EQ(corrections.bias1().empty(), beta1 != 0.9);
    EXPECT_EQ(corrections.root_of_bias2().empty(), beta2 != 0.999);
    corrections.reach(300);
    fresh.reach(300);
    EXPECT_TRUE(std::ranges::equal(corrections.bias1(), fresh.bias1()));
    EXPECT_TRUE(std::ranges::equal(corrections.root_of_bias2(), fresh.root_of_bias2()));
  }
}

TEST(BiasCorrections, ABetaNextToOneTakesNoMoreMemoryHoweverLateTheStep) {
  const std::uint32_t longest = BiasCorrections::kLongestTable;
  for (const double beta : {1 - 1e-6, 1 - 1e-9, std::nextafter(1.0, 0.0)}) {
    BiasCorrections corrections(beta, beta);
    for (std::uint32_t t : {longest - 1, longest, longest + 1, std::numeric_limits<std::uint32_t>::max()}) {
      const double exact = -std::expm1(t * std::log(beta));
      EXPECT_NEAR(corrections.at(t).bias1, exact, 1e-6 * exact) << beta << " at " << t;
      EXPECT_EQ(corrections.reach(t), t <= longest);
      EXPECT_NEAR(corrections.at(t).root_of_bias2, std::sqrt(exact), 1e-6 * std::sqrt(exact));
    }
    EXPECT_EQ(corrections.bias1().size(), longest);
    EXPECT_EQ(corrections.root_of_bias2().size(), longest);
  }
}

TEST(BiasCorrections, ABetaOfZeroNeedsNoCorrection) {
  BiasCorrections corrections(0, 0);
  EXPECT_EQ(corrections.at(1).bias1, 1);
  EXPECT_EQ(corrections.at(5).root_of_bias2, 1);
}

}  // namespace
}  // namespace stella
