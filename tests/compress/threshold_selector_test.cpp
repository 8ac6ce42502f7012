#include "compress/threshold_selector.hpp"

#include "compress/gradients.hpp"

namespace stella {
namespace {

using namespace testing;

class ThresholdSelectorTest : public ::testing::Test {
 protected:
  std::size_t chosen_of(std::span<const float> gradient, std::size_t budget) {
    selector.select(scores_of(gradient), budget, chosen);
    return chosen.size();
  }

  Random random{seed()};
  ThresholdSelector selector{seed()};
  std::vector<BlockId> chosen;
};

constexpr std::size_t kBlocks = 20000;
constexpr std::size_t kNumel = kBlocks * kBlock;
constexpr std::size_t kBudget = 200;

TEST_F(ThresholdSelectorTest, FillsTheBudgetFromTheFirstCallAndStaysThere) {
  for (int call = 0; call < 20; ++call) {
    EXPECT_GE(chosen_of(normal(random, kNumel), kBudget), kBudget * 3 / 4) << "call " << call;
  }
}

TEST_F(ThresholdSelectorTest, FollowsDriftingGradients) {
  float scale = 1;
  double total = 0;
  for (int call = 0; call < 60; ++call) {
    scale *= call < 30 ? 0.97f : 1.04f;
    const auto count = chosen_of(normal(random, kNumel, scale), kBudget);
    EXPECT_GE(count, kBudget / 4) << "call " << call;
    total += static_cast<double>(count);
  }
  EXPECT_GE(total / 60, 0.8 * kBudget);
}

// The reference sends the first k elements for ever once its threshold is 0.
TEST_F(ThresholdSelectorTest, RecoversAtOnceFromAThresholdOfZero) {
  chosen_of(embedding(random, kBlocks, kBlock, 0.001), kBudget);  // fewer than the budget: the threshold is 0
  const auto gradient = heavy_tailed(random, kNumel, 3);
  EXPECT_GE(chosen_of(gradient, kBudget), kBudget * 3 / 4);
  double energy = 0;
  for (const BlockId block : chosen) energy += energies_of(gradient)[block];
  EXPECT_GT(energy / static_cast<double>(chosen.size()), 3 * 3 * kBlock);  // well above an average block
}

TEST_F(ThresholdSelectorTest, RecoversAtOnceFromASuddenChangeOfScale) {
  for (const std::size_t budget : {kBudget, std::size_t{2}, std::size_t{1}}) {
    for (const float scale : {1.0f, 1e4f, 1e-4f, 1e15f, 1e-15f, 1e-17f}) {
      EXPECT_GE(chosen_of(normal(random, kNumel, scale), budget), (budget * 3 + 3) / 4)
          << scale << ", " << budget;
    }
  }
}

TEST_F(ThresholdSelectorTest, RecoversAtOnceFromAnInfiniteThresholdOfAFile) {
  const std::uint64_t infinity = 0x7f800000;
  for (const std::size_t budget : {1, 2, 200}) {
    selector.set_state({0, infinity + 1});
    EXPECT_GE(chosen_of(normal(random, kNumel), budget), (budget * 3 + 3) / 4);
  }
}

TEST_F(ThresholdSelectorTest, FollowsAChangeOfBudget) {
  for (const std::size_t budget : {200, 2000, 20, 10000, 1}) {
    const auto count = chosen_of(normal(random, kNumel), budget);
    EXPECT_GE(count, budget * 3 / 4);
    EXPECT_LE(count, budget);
  }
}

TEST_F(ThresholdSelectorTest, OfAnEmbeddingOnlyTouchedRowsAreSent) {
  for (int call = 0; call < 20; ++call) {
    const auto gradient = embedding(random, 1000, 4 * kBlock, 0.02);
    chosen_of(gradient, kBudget);
    EXPECT_FALSE(chosen.empty());
    const auto energies = energies_of(gradient);
    for (const BlockId block : chosen) EXPECT_GT(energies[block], 0);
  }
}

}  // namespace
}  // namespace stella
