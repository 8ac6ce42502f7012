#include "compress/block_selector.hpp"

#include <algorithm>
#include <functional>
#include <limits>
#include <numeric>

#include "compress/gradients.hpp"

namespace stella {
namespace {

using namespace testing;

std::vector<float> chosen_scores(std::span<const float> scores, std::size_t budget) {
  BlockSelector selector(seed());
  std::vector<BlockId> chosen;
  selector.select(scores, budget, chosen);
  std::vector<float> values;
  for (const BlockId block : chosen) values.push_back(scores[block]);
  std::sort(values.begin(), values.end(), std::greater<>());
  return values;
}

// The `budget` largest positive scores by sorting all.
std::vector<float> largest(std::vector<float> scores, std::size_t budget) {
  std::sort(scores.begin(), scores.end(), std::greater<>());
  scores.resize(std::min(budget, scores.size()));
  scores.erase(std::find(scores.begin(), scores.end(), 0.0f), scores.end());
  return scores;
}

TEST(BlockSelector, ChoosesExactlyTheLargestScores) {
  Random random(seed());
  for (std::size_t size : {1, 2, 10, 333, 5000}) {
    const std::vector<std::vector<float>> kinds = {scores_of(normal(random, size * kBlock)),
                                                   scores_of(heavy_tailed(random, size * kBlock, 2)),
                                                   scores_of(embedding(random, size, kBlock, 0.1))};
    for (const auto& scores : kinds) {
      for (std::size_t budget : {std::size_t{1}, size / 100, size / 10, size / 2, size - 1, size}) {
        EXPECT_EQ(chosen_scores(scores, budget), largest(scores, budget)) << budget << " of " << size;
      }
    }
  }
}

// The threshold that one call leaves for the next only saves time.
TEST(BlockSelector, WhatItSawBeforeDoesNotChangeTheChoice) {
  Random random(seed());
  BlockSelector selector(seed());
  std::vector<BlockId> chosen;
  for (int call = 0; call < 300; ++call) {
    auto scores = scores_of(normal(random, 2000 * kBlock));
    const float scale = std::exp2(static_cast<float>(static_cast<int>(random() % 41) - 20));
    for (float& score : scores) score *= scale;
    if (call % 10 == 0) std::fill(scores.begin() + 30, scores.end(), 0.0f);
    const std::size_t budget = 1 + random() % 400;
    selector.select(scores, budget, chosen);
    std::vector<float> values;
    for (const BlockId block : chosen) values.push_back(scores[block]);
    std::sort(values.begin(), values.end(), std::greater<>());
    ASSERT_EQ(values, largest(scores, budget)) << "call " << call;
    ASSERT_TRUE(std::is_sorted(chosen.begin(), chosen.end()));
  }
  EXPECT_GT(selector.misses(), 50u);  // so both ways were taken
  EXPECT_LT(selector.misses(), 250u);
}

// Where scores are equal, too: what is carried on is in the state, and nothing else counts.
TEST(BlockSelector, OneThatResumesChoosesTheSameBlocks) {
  Random random(seed());
  BlockSelector selector(seed());
  std::vector<BlockId> chosen, again;
  for (int call = 0; call < 3000; ++call) {
    std::vector<float> scores(1 + random() % 40);
    for (float& score : scores) score = static_cast<float>(random() % (call % 7 == 0 ? 2 : 6));
    const std::size_t budget = 1 + random() % scores.size();
    BlockSelector resumed(1);
    resumed.set_state(selector.state());
    selector.select(scores, budget, chosen);
    resumed.select(scores, budget, again);
    ASSERT_EQ(chosen, again) << "call " << call;
    ASSERT_EQ(selector.state(), resumed.state()) << "call " << call;
  }
}

TEST(BlockSelector, OnDriftingGradientsTheThresholdIsSeldomTooHigh) {
  Random random(seed());
  BlockSelector selector(seed());
  std::vector<BlockId> chosen;
  std::vector<float> residual(20000 * kBlock), scores(20000);
  float scale = 1;
  for (int call = 0; call < 100; ++call, scale *= 0.97f) {
    accumulate_score(normal(random, residual.size(), scale), 1, residual.data(), scores.data());
    selector.select(scores, 200, chosen);
    ASSERT_EQ(chosen.size(), 200u);
    for (const BlockId block : chosen) std::fill_n(residual.data() + block * kBlock, kBlock, 0.0f);
  }
  EXPECT_LE(selector.misses(), 2u);
}

// By more than lies between the budget and one and a half of it.
TEST(BlockSelector, WhereScoresSinkFastTheThresholdSinksAhead) {
  for (const auto& [even, odd] : {std::pair{0.7f, 0.7f}, std::pair{0.5f, 2.0f}}) {  // or sink and rise
    Random random(seed());
    BlockSelector selector(seed());
    std::vector<BlockId> chosen;
    float scale = 1;
    for (int call = 0; call < 100; ++call, scale *= call % 2 ? odd : even) {
      auto scores = scores_of(normal(random, 5000 * kBlock));
      for (float& score : scores) score *= scale;
      selector.select(scores, 200, chosen);
      ASSERT_EQ(chosen.size(), 200u);
    }
    EXPECT_LE(selector.misses(), 2u) << even << ", " << odd;
  }
}

TEST(BlockSelector, ScoresThatDifferInTheLastBitOnlyAreToldApart) {
  std::vector<float> scores(1000);
  float score = 1;
  for (float& one : scores) one = score = std::nextafter(score, 2.0f);
  std::shuffle(scores.begin(), scores.end(), Random(seed()));
  EXPECT_EQ(chosen_scores(scores, 100), largest(scores, 100));
}

TEST(BlockSelector, ScoresOfEveryMagnitudeAreCompared) {
  std::vector<float> scores;
  for (float score = std::numeric_limits<float>::denorm_min(); score <= std::numeric_limits<float>::max();
       score *= 2) {
    scores.push_back(score);
  }
  scores.push_back(0);
  std::shuffle(scores.begin(), scores.end(), Random(seed()));
  for (std::size_t budget = 1; budget <= scores.size(); ++budget) {
    EXPECT_EQ(chosen_scores(scores, budget), largest(scores, budget));
  }
}

TEST(BlockSelector, EqualScoresAreServedRoundRobin) {
  BlockSelector selector(seed());
  const std::vector<float> scores(10, 1.0f);
  std::vector<int> turns(10);
  std::vector<BlockId> chosen;
  for (int call = 1; call <= 50; ++call) {
    selector.select(scores, 3, chosen);
    for (const BlockId block : chosen) ++turns[block];
    EXPECT_EQ(std::accumulate(turns.begin(), turns.end(), 0), 3 * call);
    EXPECT_LE(*std::max_element(turns.begin(), turns.end()) - *std::min_element(turns.begin(), turns.end()),
              1);
  }
}

TEST(BlockSelector, TiesTakeTurnsOnlyForTheSeatsThatLargerScoresLeave) {
  BlockSelector selector(seed());
  const std::vector<float> scores = {1, 9, 1, 1, 8, 0, 1};
  std::vector<int> turns(scores.size());
  std::vector<BlockId> chosen;
  for (int call = 0; call < 8; ++call) {
    selector.select(scores, 3, chosen);
    ASSERT_EQ(chosen.size(), 3u);
    for (const BlockId block : chosen) ++turns[block];
  }
  EXPECT_EQ(turns, (std::vector<int>{2, 8, 2, 2, 8, 0, 2}));
}

TEST(BlockSelector, TheSeedDecidesWhoseTurnIsFirst) {
  const std::vector<float> scores(1000, 1.0f);
  std::vector<BlockId> first, again, other;
  BlockSelector(1).select(scores, 10, first);
  BlockSelector(1).select(scores, 10, again);
  BlockSelector(501).select(scores, 10, other);
  EXPECT_EQ(first, again);
  EXPECT_NE(first, other);
}

}  // namespace
}  // namespace stella
