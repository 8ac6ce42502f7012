#include "control/pull.hpp"

#include <gtest/gtest.h>

namespace stella {
namespace {

void told(Pull& pull, std::size_t values, std::size_t onwards) {
  pull.told(values, onwards);
  pull.round_over();
}

float after(int rounds, std::size_t onwards_of_1000, Pull pull = {}) {
  for (int round = 0; round < rounds; ++round) told(pull, 1000, onwards_of_1000);
  return pull.shares().hidden;
}

TEST(Pull, IsTheMostAtFirstAndWhileWhatIsToldGoesOn) {
  EXPECT_EQ(Pull().shares().hidden, Pull::kMost);
  EXPECT_EQ(after(100, 600), Pull::kMost);
  EXPECT_EQ(after(100, 1000), Pull::kMost);
}

TEST(Pull, FallsWhileWhatIsToldGoesBack) {
  EXPECT_LT(after(1, 300), Pull::kMost);
  EXPECT_LT(after(10, 300), Pull::kMost / 2);
  EXPECT_EQ(after(100, 200), Pull::kLeast);
  EXPECT_EQ(after(100, 0), Pull::kLeast);
}

TEST(Pull, ShowsWhatIsHiddenTheMoreTheLessItHides) {
  EXPECT_EQ(Pull().shares().shown, 0);
  Pull pull;
  for (float before = 0; pull.shares().hidden > Pull::kLeast; before = pull.shares().shown) {
    told(pull, 1000, 0);
    EXPECT_GT(pull.shares().shown, before);
  }
  EXPECT_GT(pull.shares().shown, 0.99f);
}

TEST(Pull, ComesBack) {
  Pull pull;
  for (int round = 0; round < 1000; ++round) told(pull, 1000, 0);
  EXPECT_EQ(after(200, 600, pull), Pull::kMost);
}

// Else layers would hide the more, the earlier in the model they lie.
TEST(Pull, IsTheSameForAllPartsOfARound) {
  Pull pull;
  for (int part = 0; part < 1000; ++part) {
    pull.told(1000, part % 2 == 0 ? 700 : 300);
    EXPECT_EQ(pull.shares().hidden, Pull::kMost);
  }
  pull.round_over();
  EXPECT_EQ(pull.shares().hidden, Pull::kMost);  // 50 % in all
}

TEST(Pull, WaitsUntilAFewHundredValuesWereTold) {
  Pull pull;
  for (int round = 0; round < 255; ++round) told(pull, 1, 0);
  EXPECT_EQ(pull.shares().hidden, Pull::kMost);
  told(pull, 1, 0);
  EXPECT_LT(pull.shares().hidden, Pull::kMost);
  const float share = pull.shares().hidden;
  for (int round = 0; round < 1000; ++round) told(pull, 0, 0);
  EXPECT_EQ(pull.shares().hidden, share);
}

}  // namespace
}  // namespace stella
