#include "control/round_size.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace stella {
namespace {

constexpr std::size_t kLeast = 16, kMost = 1000;

RoundSize after(RoundSize now, double step, double round) {
  return next_size(now, {step, round}, kLeast, kMost);
}

// Seconds of a round over a link that carries so many bits a second.
double seconds(const RoundSize& size, double bits_per_second) {
  const double bits = size.bits == 0 ? 0.14 : size.bits;
  return 0.01 + static_cast<double>(size.blocks) * 64 * bits / bits_per_second;
}

TEST(RoundSize, OneThatTakesLongerThanAStepGetsSmallerByHalfAtMost) {
  EXPECT_EQ(after({400, 0}, 1, 1.6), (RoundSize{200, 0}));
  EXPECT_EQ(after({400, 0}, 1, 100), (RoundSize{200, 0}));
  EXPECT_EQ(after({20, 0}, 1, 100), (RoundSize{kLeast, 0}));
}

TEST(RoundSize, OneThatIsOverEarlyGetsLargerByTwiceAtMost) {
  EXPECT_EQ(after({400, 1}, 1, 0.64), (RoundSize{500, 1}));
  EXPECT_EQ(after({400, 1}, 1, 0.001), (RoundSize{800, 1}));
  EXPECT_EQ(after({800, 1}, 1, 0.001), (RoundSize{kMost, 1}));
}

TEST(RoundSize, BitsGrowOnlyWhenTheFragmentsAreTheWholeModel) {
  EXPECT_EQ(after({900, 0}, 1, 0.01).bits, 0u);
  EXPECT_EQ(after({kMost, 0}, 1, 0.09), (RoundSize{kMost, 1}));
  EXPECT_EQ(after({kMost, 0}, 1, 0.11), (RoundSize{kMost, 0}));
  EXPECT_EQ(after({900, 1}, 1, 0.01).bits, 1u);
  EXPECT_EQ(after({kMost, 1}, 1, 0.3), (RoundSize{kMost, 2}));
  EXPECT_EQ(after({kMost, 1}, 1, 0.4), (RoundSize{kMost, 1}));  // twice the bits would be nearly a step
  EXPECT_EQ(after({kMost, 8}, 1, 0.15), (RoundSize{kMost, 32}));
  EXPECT_EQ(after({kMost, 32}, 1, 0.01), (RoundSize{kMost, 32}));
}

TEST(RoundSize, BitsShrinkBeforeFragmentsDo) {
  EXPECT_EQ(after({kMost, 32}, 1, 1.5), (RoundSize{kMost, 8}));
  EXPECT_EQ(after({kMost, 2}, 1, 1.5), (RoundSize{kMost, 1}));
  EXPECT_EQ(after({kMost, 1}, 1, 1.6), (RoundSize{kMost, 0}));
  EXPECT_EQ(after({kMost, 0}, 1, 1.6), (RoundSize{500, 0}));
}

TEST(RoundSize, WithNonsenseEverythingStays) {
  const double nan = std::nan(""), infinity = std::numeric_limits<double>::infinity();
  for (const double step : {0.0, -1.0, nan, infinity})
    EXPECT_EQ(after({400, 2}, step, 1), (RoundSize{400, 2}));
  for (const double round : {0.0, -1.0, nan, infinity})
    EXPECT_EQ(after({400, 2}, 1, round), (RoundSize{400, 2}));
}

// Links from one that takes a hundredth of the model in a step to one that takes it whole in fp32.
TEST(RoundSize, SettlesWhereARoundTakesAboutAStepOrNothingLargerFits) {
  for (double link = 160; link < 1e8; link *= 3) {
    RoundSize size{kLeast, 0};
    for (int round = 0; round < 50; ++round) size = after(size, 1, seconds(size, link));
    const RoundSize settled = size;
    for (int round = 0; round < 10; ++round) {
      const double share = seconds(size, link);
      EXPECT_TRUE(share <= 1.05 || size == (RoundSize{kLeast, 0}))
          << link << ": " << size.blocks << " " << size.bits;
      if (size.blocks < kMost) {
        EXPECT_TRUE(share > 0.7) << link;
      }
      size = after(size, 1, share);
    }
    EXPECT_EQ(size.bits, settled.bits) << link;
  }
}

}  // namespace
}  // namespace stella
