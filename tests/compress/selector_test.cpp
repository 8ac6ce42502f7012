// What every selector promises (compress/selector.hpp).
#include "compress/selector.hpp"

#include <algorithm>
#include <limits>
#include <numeric>
#include <set>

#include "compress/gradients.hpp"
#include "stella/error.hpp"

namespace stella {
namespace {

using namespace testing;

constexpr float kInf = std::numeric_limits<float>::infinity();

class EverySelector : public ::testing::TestWithParam<const char*> {
 protected:
  std::vector<BlockId> select(std::span<const float> scores, std::size_t budget) {
    selector->select(scores, budget, chosen);
    return chosen;
  }
  void expect_a_valid_choice(std::span<const float> scores, std::size_t budget) {
    const auto blocks = select(scores, budget);
    EXPECT_LE(blocks.size(), budget);
    EXPECT_EQ(std::adjacent_find(blocks.begin(), blocks.end(), std::greater_equal<>()), blocks.end());
    for (const BlockId block : blocks) {
      ASSERT_LT(block, scores.size());
      EXPECT_GT(scores[block], 0) << "block " << block;
    }
  }

  Random random{seed()};
  std::unique_ptr<Selector> selector = make_selector(GetParam(), seed());
  std::vector<BlockId> chosen = {12345};  // what was there before must not matter
};

TEST_P(EverySelector, ChoosesAscendingBlocksWithinTheBudgetAndNeverAZero) {
  for (std::size_t size : {0, 1, 2, 3, 17, 64, 1000, 70001}) {
    auto scores = scores_of(normal(random, size * kBlock));
    for (float& score : scores) score *= static_cast<float>(random() % 2);
    for (std::size_t budget : {std::size_t{0}, std::size_t{1}, size / 100 + 1, size / 2, size, size + 5}) {
      for (int call = 0; call < 3; ++call) expect_a_valid_choice(scores, budget);
    }
  }
}

TEST_P(EverySelector, ChoosesNothingWhereThereIsNothing) {
  for (int call = 0; call < 3; ++call) EXPECT_TRUE(select(std::vector<float>(100, 0.0f), 10).empty());
}

TEST_P(EverySelector, ChoosesEverythingThatIsNotZeroWhenTheBudgetAllowsIt) {
  auto scores = scores_of(normal(random, 500 * kBlock));
  std::size_t positive = 0;
  for (float& score : scores) positive += (score *= static_cast<float>(random() % 2)) > 0;
  EXPECT_EQ(select(scores, 500).size(), positive);
}

TEST_P(EverySelector, InfiniteScoresNeitherCrashNorBlockTheOthers) {
  auto scores = scores_of(normal(random, 1000 * kBlock));
  for (std::size_t infinite : {1, 10, 999, 1000}) {
    std::fill_n(scores.begin(), infinite, kInf);
    for (int call = 0; call < 3; ++call) {
      expect_a_valid_choice(scores, 10);
      EXPECT_FALSE(select(scores, 10).empty());
    }
  }
}

TEST_P(EverySelector, TheSmallestAndTheLargestNumbersAreScores) {
  const std::vector<float> scores = {std::numeric_limits<float>::denorm_min(), 0, -0.0f,
                                     std::numeric_limits<float>::max(), std::numeric_limits<float>::min()};
  for (int call = 0; call < 3; ++call) {
    expect_a_valid_choice(scores, 2);
    EXPECT_FALSE(select(scores, 2).empty());
  }
  make_selector(GetParam(), 1)->select(scores, 5, chosen);
  EXPECT_EQ(chosen, (std::vector<BlockId>{0, 3, 4}));
}

TEST_P(EverySelector, ChangesOfSizeAndBudgetBetweenCallsAreFine) {
  for (int call = 0; call < 200; ++call) {
    const auto scores =
        scores_of(normal(random, (random() % 300) * kBlock, std::ldexp(1.0f, call % 40 - 20)));
    expect_a_valid_choice(scores, random() % 310);
  }
}

TEST_P(EverySelector, EqualScoresGetEqualTurns) {
  const std::size_t size = 1000;
  const std::size_t budget = 90;
  const std::vector<float> scores(size, 2.5f);
  std::vector<int> turns(size);
  for (int call = 0; call < 200; ++call) {
    for (const BlockId block : select(scores, budget)) ++turns[block];
  }
  // 18 turns each on average; at random the spread is about 4.
  EXPECT_EQ(std::accumulate(turns.begin(), turns.end(), 0), 18000);
  EXPECT_GE(*std::min_element(turns.begin(), turns.end()), 3);
  EXPECT_LE(*std::max_element(turns.begin(), turns.end()), 37);
}

// Of independent gradients, then of equal scores, then of independent ones again.
TEST_P(EverySelector, OneThatIsGivenTheStateOfAnotherGoesOnLikeIt) {
  const auto scores = [](int call) {
    Random gradients(seed() + static_cast<std::uint64_t>(call));
    if (call / 3 % 2 == 1) return std::vector<float>(1000, 2.5f);
    return scores_of(normal(gradients, 1000 * kBlock));
  };
  for (int calls = 0; calls < 12; ++calls) {
    selector->select(scores(calls), 90, chosen);
    const auto resumed = make_selector(GetParam(), seed());
    resumed->set_state(selector->state());
    const auto reference = make_selector(GetParam(), seed());
    for (int call = 0; call <= calls; ++call) reference->select(scores(call), 90, chosen);
    for (int call = calls + 1; call < calls + 6; ++call) {
      std::vector<BlockId> expected;
      reference->select(scores(call), 90, expected);
      resumed->select(scores(call), 90, chosen);
      EXPECT_EQ(chosen, expected) << "call " << call << " after " << calls;
    }
  }
}

TEST_P(EverySelector, AnyStateIsSound) {
  const std::vector<float> equal(1000, 2.5f);
  for (const std::uint64_t first : {std::uint64_t{0}, std::uint64_t{12345}, ~std::uint64_t{0}}) {
    for (const std::uint64_t bits : {0x0u, 0x1u, 0x7f800000u, 0x7fc00000u, 0xbf800000u, 0xffffffffu}) {
      selector->set_state({first, std::uint64_t{1} + bits});
      for (int call = 0; call < 3; ++call) {
        expect_a_valid_choice(scores_of(normal(random, 1000 * kBlock)), 90);
        expect_a_valid_choice(equal, 90);
        EXPECT_FALSE(select(equal, 90).empty());
      }
    }
  }
}

// The reference scans from element 0 and stops at k.
TEST_P(EverySelector, NoPlaceInTheBucketIsFavouredOnIndependentGradients) {
  const std::size_t size = 2000;
  const int calls = 400;
  std::vector<double> turns(4);  // by quarter of the bucket
  for (int call = 0; call < calls; ++call) {
    for (const BlockId block : select(scores_of(normal(random, size * kBlock)), 100)) {
      turns[block * 4 / size] += 1;
    }
  }
  const double mean = (turns[0] + turns[1] + turns[2] + turns[3]) / 4;
  EXPECT_GT(mean, 0.9 * calls * 25);
  for (const double quarter : turns) EXPECT_NEAR(quarter / mean, 1, 0.05);
}

INSTANTIATE_TEST_SUITE_P(Contract, EverySelector, ::testing::Values("blocks", "threshold", "random"),
                         [](const auto& test) { return std::string(test.param); });

TEST(MakeSelector, AnUnknownNameIsRefusedNamingTheSupportedOnes) {
  try {
    make_selector("topk", 1);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::invalid_argument);
    for (const char* name : {"topk", "blocks", "threshold", "random"}) {
      EXPECT_NE(std::string(error.what()).find(name), std::string::npos) << name;
    }
  }
}

TEST(RandomSelector, EverySetOfThatSizeIsReached) {
  auto selector = make_selector("random", seed());
  std::set<std::vector<BlockId>> seen;
  std::vector<BlockId> chosen;
  for (int call = 0; call < 500; ++call) {
    selector->select(std::vector<float>(5, 1.0f), 2, chosen);
    EXPECT_EQ(chosen.size(), 2u);
    seen.insert(chosen);
  }
  EXPECT_EQ(seen.size(), 10u);
}

}  // namespace
}  // namespace stella
