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
  return 0.001 + static_cast<double>(size.blocks) * 64 * bits / bits_per_second;
}

TEST(RoundSize, OneThatTakesLongerThanAStepGetsSmallerByHalfAtMost) {
  EXPECT_EQ(after({400, 0}, 1, 1.6), (RoundSize{200, 0}));
  EXPECT_EQ(after({400, 0}, 1, 100), (RoundSize{200, 0}));
  EXPECT_EQ(after({20, 0}, 1, 100), (RoundSize{kLeast, 0}));
}

TEST(RoundSize, OneThatIsOverEarlyGetsLargerByTwiceAtMost) {
  EXPECT_EQ(after({400, 0}, 1, 0.64), (RoundSize{500, 0}));
  EXPECT_EQ(after({400, 0}, 1, 0.001), (RoundSize{800, 0}));
  EXPECT_EQ(after({800, 0}, 1, 0.001), (RoundSize{kMost, 0}));
}

TEST(RoundSize, ALinkThatCarriesHalfOfTheModelInEightBitsDoes) {
  EXPECT_EQ(after({900, 0}, 1, 0.001).bits, 0u);
  EXPECT_EQ(after({kMost, 0}, 1, 0.012), (RoundSize{kMost, 8}));
  EXPECT_EQ(after({kMost, 0}, 1, 0.013), (RoundSize{kMost, 0}));
  EXPECT_EQ(after({kMost, 8}, 1, 0.001), (RoundSize{kMost, 8}));
  EXPECT_EQ(after({kMost, 8}, 1, 0.99), (RoundSize{kMost, 8}));
}

TEST(RoundSize, CodesBecomeSignsBeforeFragmentsShrink) {
  EXPECT_EQ(after({kMost, 8}, 1, 1.5), (RoundSize{kMost, 0}));
  EXPECT_EQ(after({400, 32}, 1, 1.5), (RoundSize{400, 0}));
  EXPECT_EQ(after({kMost, 0}, 1, 1.6), (RoundSize{500, 0}));
}

TEST(RoundSize, WithNonsenseEverythingStays) {
  const double nan = std::nan(""), infinity = std::numeric_limits<double>::infinity();
  for (const double step : {0.0, -1.0, nan, infinity})
    EXPECT_EQ(after({400, 8}, step, 1), (RoundSize{400, 8}));
  for (const double round : {0.0, -1.0, nan, infinity})
    EXPECT_EQ(after({400, 8}, 1, round), (RoundSize{400, 8}));
}

// Links from one that takes a hundredth of the model in a step as signs to one that takes it whole in 8 bits.
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
