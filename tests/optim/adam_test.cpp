#include "optim/adam.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "optim/sparse_gradients.hpp"

namespace stella {
namespace {

using namespace testing;

std::vector<float> ones() { return std::vector<float>(kBlock, 1.0f); }

TEST(Adam, EveryBlockIsCorrectedForItsOwnNumberOfSteps) {
  const GroupSettings settings{.kind = OptimizerKind::adam, .lr = 0.125, .eps = 0};
  SparseAdam optimizer(settings, 2);
  std::vector<float> weights(2 * kBlock);
  for (int t = 0; t < 100; ++t) optimizer.step(sparse({0}, ones()), settings, weights);
  optimizer.step(sparse({1}, ones()), settings, weights);
  // With a constant gradient every corrected step is lr.
  EXPECT_NEAR(weights[0], -12.5f, 1e-3f);
  EXPECT_NEAR(weights[kBlock], -0.125f, 1e-6f);
  EXPECT_EQ(optimizer.steps()[0], 100u);
  EXPECT_EQ(optimizer.steps()[1], 1u);
}

TEST(Adam, ACountThatCanGrowNoMoreStaysAndTheStepsGoOn) {
  const GroupSettings settings{.kind = OptimizerKind::adam, .lr = 0.125, .eps = 0};
  SparseAdam optimizer(settings, 2);
  std::vector<float> weights(2 * kBlock);
  // Moments of a constant gradient, as after that many steps of it.
  for (const StateTensor& moment : optimizer.state()) std::ranges::fill(moment.values, 1.0f);
  const std::uint32_t last = std::numeric_limits<std::uint32_t>::max();
  optimizer.steps()[0] = last - 1;
  optimizer.steps()[1] = 4'000'000'000;
  for (int t = 0; t < 3; ++t)
    optimizer.step(sparse({0, 1}, std::vector<float>(2 * kBlock, 1.0f)), settings, weights);
  EXPECT_EQ(optimizer.steps()[0], last);
  EXPECT_EQ(optimizer.steps()[1], 4'000'000'003);
  for (const float weight : weights) EXPECT_NEAR(weight, -0.375f, 1e-6f);
}

TEST(Adam, ChangedBetasAreFollowed) {
  GroupSettings settings{.kind = OptimizerKind::adam, .lr = 0.125, .eps = 0};
  SparseAdam optimizer(settings, 1);
  std::vector<float> weights(kBlock);
  optimizer.step(sparse({0}, ones()), settings, weights);
  settings.beta1 = 0.5;
  settings.beta2 = 0.75;
  optimizer.step(sparse({0}, ones()), settings, weights);
  const double m = 0.5 * 0.1 + 0.5;
  const double v = 0.75 * 0.001 + 0.25;
  const double second = 0.125 * m / (1 - 0.25) / std::sqrt(v / (1 - 0.5625));
  EXPECT_NEAR(weights[0], -0.125 - second, 1e-6);
}

// Tables of corrections are those of the settings of the moment.
TEST(Adam, EveryBlockIsCorrectedByTheSettingsOfItsOwnSteps) {
  const GroupSettings first{.kind = OptimizerKind::adam, .lr = 0.125};
  GroupSettings other_lr = first, other_betas = first;
  other_lr.lr = 0.5;
  other_betas.beta1 = 0.5;
  other_betas.beta2 = 0.75;
  for (const GroupSettings& second : {other_lr, other_betas}) {
    SparseAdam optimizer(first, 3);
    std::vector<float> weights(3 * kBlock);
    optimizer.step(sparse({0}, ones()), first, weights);
    optimizer.step(sparse({1}, ones()), second, weights);  // its first step, too
    optimizer.step(sparse({2}, ones()), first, weights);
    SparseAdam fresh(second, 3);
    std::vector<float> expected(3 * kBlock);
    fresh.step(sparse({1}, ones()), second, expected);
    EXPECT_EQ(weights[kBlock], expected[kBlock]);
    EXPECT_EQ(weights[2 * kBlock], weights[0]);
  }
}

// Where no table of corrections is long enough. One block alone is all of its bucket: that step is a dense
// one.
TEST(Adam, BlocksFarBehindAMillionStepsAreCorrectedToo) {
  const GroupSettings settings{
      .kind = OptimizerKind::adam, .lr = 0.125, .beta1 = 1 - 1e-9, .beta2 = 1 - 1e-8};
  const std::uint32_t late = (1u << 20) + 5, early = 3;
  std::vector<float> two = ones(), both_weights(3 * kBlock);
  two.resize(2 * kBlock, 1.0f);
  SparseAdam both(settings, 3);
  both.steps()[0] = late;
  both.steps()[2] = early;
  both.step(sparse({0, 2}, two), settings, both_weights);
  std::vector<float> expected(3 * kBlock);
  for (const auto& [steps, block] : {std::pair{late, 0u}, std::pair{early, 2u}}) {
    SparseAdam alone(settings, 1);
    alone.steps()[0] = steps;
    alone.step(sparse({0}, ones()), settings, std::span(expected).subspan(block * kBlock, kBlock));
  }
  EXPECT_EQ(both_weights, expected);
  EXPECT_NE(expected[0], expected[2 * kBlock]);
  EXPECT_EQ(both.steps()[0], late + 1);
  EXPECT_EQ(both.steps()[1], 0u);
  EXPECT_EQ(both.steps()[2], early + 1);
}

// Steps that were dense count, too, when a sparse one comes; and nothing depends on who looked at the counts.
TEST(Adam, ASparseStepAfterDenseOnesIsCorrectedForAllOfThem) {
  const GroupSettings settings{.kind = OptimizerKind::adam, .lr = 0.125};
  std::vector<float> two = ones();
  two.resize(2 * kBlock, 1.0f);
  for (const bool look : {false, true}) {
    SparseAdam optimizer(settings, 2), alone(settings, 1);
    std::vector<float> weights(2 * kBlock), expected(kBlock);
    for (int t = 0; t < 20; ++t) {
      optimizer.step(sparse({0, 1}, two), settings, weights);
      alone.step(sparse({0}, ones()), settings, expected);
    }
    if (look) {
      EXPECT_EQ(optimizer.steps()[1], 20u);
    }
    optimizer.step(sparse({1}, ones()), settings, weights);
    alone.step(sparse({0}, ones()), settings, expected);
    EXPECT_TRUE(std::equal(expected.begin(), expected.end(), weights.begin() + kBlock));
  }
}

// By tables that reach as far as the old ones did.
TEST(Adam, ChangedBetasAreFollowedByBlocksThatMadeManySteps) {
  const GroupSettings before{.kind = OptimizerKind::adam, .lr = 0.125};
  for (const auto& [beta1, beta2] : {std::pair{0.5, 0.999}, std::pair{0.9, 0.75}}) {
    GroupSettings after = before;
    after.beta1 = beta1;
    after.beta2 = beta2;
    SparseAdam sparse_one(before, 2), dense_one(before, 1);
    std::vector<float> weights(2 * kBlock), expected(kBlock);
    for (int t = 0; t < 8; ++t) {
      sparse_one.step(sparse({0}, ones()), t < 5 ? before : after, weights);
      dense_one.step(sparse({0}, ones()), t < 5 ? before : after, expected);
    }
    EXPECT_TRUE(std::equal(expected.begin(), expected.end(), weights.begin()));
  }
}

TEST(Adam, AmsgradSwitchedOnLaterGetsItsArrayThen) {
  GroupSettings settings{.kind = OptimizerKind::adamw};
  SparseAdam optimizer(settings, 3);
  std::vector<float> weights(3 * kBlock);
  optimizer.step(sparse({1}, ones()), settings, weights);
  EXPECT_EQ(optimizer.state().size(), 2u);
  settings.amsgrad = true;
  optimizer.step(sparse({1}, ones()), settings, weights);
  ASSERT_EQ(optimizer.state().size(), 3u);
  EXPECT_EQ(optimizer.state()[2].values[kBlock], optimizer.state()[1].values[kBlock]);
  EXPECT_EQ(optimizer.state()[2].values[0], 0);
}

TEST(Adam, DecoupledWeightDecayShrinksOnlyWhatWasSent) {
  const GroupSettings settings{.kind = OptimizerKind::adamw, .lr = 0.5, .weight_decay = 0.5};
  SparseAdam optimizer(settings, 2);
  std::vector<float> weights(2 * kBlock, 8.0f);
  optimizer.step(sparse({0}, std::vector<float>(kBlock, 0.0f)), settings, weights);
  EXPECT_EQ(weights[0], 6);
  EXPECT_EQ(weights[kBlock], 8);
}

}  // namespace
}  // namespace stella
