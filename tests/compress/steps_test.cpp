#include "compress/steps.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace stella {
namespace {

constexpr float kLargest = std::numeric_limits<float>::max();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

int step_above(float value) {
  int k = 0;
  steps_above({&value, 1}, &k);
  return k;
}
int step_nearest(float value) {
  int k = 0;
  steps_nearest({&value, 1}, &k);
  return k;
}

double step(int k) { return std::exp2(k / 8.0); }

TEST(Steps, TheOneAboveAValueIsTheSmallestThatIsNotBelowIt) {
  for (float value = 1e-37f; value < 1e36f; value *= 1.0137f) {
    const int k = step_above(value);
    EXPECT_GE(step(k) * (1 + 1e-15), value);
    EXPECT_LT(step(k - 1), value);
  }
  EXPECT_EQ(step_above(1), 0);
  EXPECT_EQ(step_above(std::nextafter(1.0f, 2.0f)), 1);
  EXPECT_EQ(step_above(0.5f), -8);
}

TEST(Steps, TheNearestIsHalfAnEighthOfAnOctaveAwayAtMost) {
  for (float value = 1e-37f; value < 1e36f; value *= 1.0137f) {
    EXPECT_LE(std::fabs(std::log2(double{value}) - step_nearest(value) / 8.0), 1 / 16.0 + 1e-12);
  }
}

TEST(Steps, TheSmallestAndTheLargestValuesHaveOne) {
  for (const auto find : {step_above, step_nearest}) {
    EXPECT_EQ(find(std::numeric_limits<float>::denorm_min()), kLeastStep);
    EXPECT_EQ(find(kLargest), kMostStep);
    EXPECT_EQ(find(kInfinity), kMostStep);
    EXPECT_EQ(find(0), kNoStep);
  }
  EXPECT_TRUE(std::isfinite(static_cast<float>(127 * step(kMostStep))));
}

TEST(Steps, ManyValuesAtOnceAreTheSameAsOneByOne) {
  std::vector<float> values = {0, kInfinity, kLargest, 1};
  for (float value = 1e-40f; value < 1e36f; value *= 1.37f) values.push_back(value);
  std::vector<int> above(values.size()), nearest(values.size());
  steps_above(values, above.data());
  steps_nearest(values, nearest.data());
  for (std::size_t i = 0; i < values.size(); ++i) {
    EXPECT_EQ(above[i], step_above(values[i]));
    EXPECT_EQ(nearest[i], step_nearest(values[i]));
  }
}

TEST(Steps, AScaleHoldsThirtyOneOctavesBelowTheLargestStep) {
  for (const int largest : {kMostStep, 17, 8, 7, 1, 0, -1, -7, -8, -9, kLeastStep + 300}) {
    const StepScale scale = StepScale::for_largest(largest);
    EXPECT_GE(scale.byte_of(largest), 248);
    const auto table = scale.table();
    for (int k = largest; k > largest - 8 * 31 && k >= kLeastStep; --k) {
      ASSERT_GT(scale.byte_of(k), 0);
      EXPECT_EQ(table[scale.byte_of(k)], static_cast<float>(step(k))) << k;
    }
    EXPECT_EQ(scale.byte_of(largest - 8 * 32), 0);
    EXPECT_EQ(scale.byte_of(kNoStep), 0);
    EXPECT_EQ(table[0], 0);
  }
}

}  // namespace
}  // namespace stella
