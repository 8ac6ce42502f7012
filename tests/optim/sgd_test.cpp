#include "optim/sgd.hpp"

#include <limits>

#include "optim/sparse_gradients.hpp"

namespace stella {
namespace {

using namespace testing;

std::vector<float> ones() { return std::vector<float>(kBlock, 1.0f); }

TEST(Sgd, TheFirstTouchOfABlockTakesTheWholeGradientIntoItsMomentumLaterOnesAreDampened) {
  const GroupSettings settings{.lr = 1, .momentum = 0.5, .dampening = 0.75};
  SparseSgd optimizer(settings, 2);
  std::vector<float> weights(2 * kBlock);
  optimizer.step(sparse({0}, ones()), settings, weights);
  EXPECT_EQ(optimizer.state()[0].values[0], 1);
  optimizer.step(sparse({0}, ones()), settings, weights);
  EXPECT_EQ(optimizer.state()[0].values[0], 0.75);  // 0.5 * 1 + 0.25 * 1
  optimizer.step(sparse({1}, ones()), settings, weights);
  EXPECT_EQ(optimizer.state()[0].values[kBlock], 1);
  EXPECT_EQ(weights[0], -1.75);
  EXPECT_EQ(weights[kBlock], -1);
}

TEST(Sgd, ACountThatCanGrowNoMoreStaysAndLaterGradientsAreDampenedStill) {
  const GroupSettings settings{.lr = 1, .momentum = 0.5, .dampening = 0.75};
  SparseSgd optimizer(settings, 1);
  std::vector<float> weights(kBlock);
  const std::uint32_t last = std::numeric_limits<std::uint32_t>::max();
  optimizer.steps()[0] = last;
  for (int t = 0; t < 2; ++t) optimizer.step(sparse({0}, ones()), settings, weights);
  EXPECT_EQ(optimizer.steps()[0], last);
  EXPECT_EQ(optimizer.state()[0].values[0], 0.375);  // 0.25 * 1, then 0.5 * 0.25 + 0.25 * 1
}

TEST(Sgd, MomentumSwitchedOnLaterStartsThenAsInTorch) {
  GroupSettings settings{.lr = 1};
  SparseSgd optimizer(settings, 1);
  std::vector<float> weights(kBlock);
  optimizer.step(sparse({0}, ones()), settings, weights);
  EXPECT_TRUE(optimizer.state().empty());
  EXPECT_EQ(optimizer.steps()[0], 0u);
  settings.momentum = 0.5;
  settings.dampening = 0.5;
  optimizer.step(sparse({0}, ones()), settings, weights);
  ASSERT_EQ(optimizer.state().size(), 1u);
  EXPECT_EQ(optimizer.state()[0].values[0], 1);
  EXPECT_EQ(optimizer.steps()[0], 1u);
}

TEST(Sgd, MomentumSwitchedOffLeavesItsBufferAlone) {
  GroupSettings settings{.lr = 1, .momentum = 0.5};
  SparseSgd optimizer(settings, 1);
  std::vector<float> weights(kBlock);
  optimizer.step(sparse({0}, ones()), settings, weights);
  settings.momentum = 0;
  optimizer.step(sparse({0}, ones()), settings, weights);
  EXPECT_EQ(optimizer.state()[0].values[0], 1);
  EXPECT_EQ(weights[0], -2);
}

TEST(Sgd, ALearningRateThatChangesFromStepToStepIsFollowed) {
  SparseSgd optimizer({}, 1);
  std::vector<float> weights(kBlock);
  for (const double lr : {1.0, 0.5, 0.25}) optimizer.step(sparse({0}, ones()), {.lr = lr}, weights);
  EXPECT_EQ(weights[0], -1.75);
}

}  // namespace
}  // namespace stella
