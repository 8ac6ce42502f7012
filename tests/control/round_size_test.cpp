#include "control/round_size.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

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
  EXPECT_EQ(after({kMost, 0}, 1, 1.6), (RoundSize{500, 0}));
}

// As checkpoints of other runs may hold.
TEST(RoundSize, BitsThatItDoesNotChooseBecomeSigns) {
  for (const unsigned bits : {1u, 2u, 4u, 32u}) EXPECT_EQ(after({400, bits}, 1, 0.01), (RoundSize{400, 0}));
}

// A link that cannot be measured by so few bytes, and is too slow for more.
TEST(RoundSizes, TryCodesThatWereTooMuchEverMoreRarely) {
  RoundSizes sizes;
  RoundSize size{kMost, 0};
  std::vector<int> tried;
  for (int round = 0; round < 200; ++round) {
    if (size.bits == 8) tried.push_back(round);
    size = sizes.next(size, {1, size.bits == 8 ? 3.0 : 0.0001}, kLeast, kMost);
  }
  EXPECT_EQ(tried, (std::vector<int>{1, 19, 53, 119}));
}

TEST(RoundSizes, KeepCodesWhileTheyFit) {
  RoundSizes sizes;
  RoundSize size{kMost, 0};
  for (int round = 0; round < 200; ++round) {
    size = sizes.next(size, {1, size.bits == 8 ? 0.5 : 0.001}, kLeast, kMost);
    EXPECT_EQ(size, (RoundSize{kMost, 8}));
  }
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
