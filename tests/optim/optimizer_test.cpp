// What every optimizer promises (optim/optimizer.hpp).
#include "optim/optimizer.hpp"

#include "optim/sparse_gradients.hpp"
#include "stella/error.hpp"

namespace stella {
namespace {

using namespace testing;

struct Case {
  const char* name;
  GroupSettings settings;
  std::vector<std::string> state;
};

const Case kCases[] = {
    {"sgd", {.lr = 0.1}, {}},
    {"sgd_weight_decay", {.lr = 0.1, .weight_decay = 0.01, .maximize = true}, {}},
    {"sgd_momentum", {.lr = 0.1, .momentum = 0.9, .dampening = 0.5}, {"momentum_buffer"}},
    {"sgd_nesterov",
     {.lr = 0.1, .weight_decay = 0.01, .momentum = 0.9, .nesterov = true},
     {"momentum_buffer"}},
    {"adam", {.kind = OptimizerKind::adam, .lr = 0.01, .weight_decay = 0.1}, {"exp_avg", "exp_avg_sq"}},
    {"adam_amsgrad",
     {.kind = OptimizerKind::adam, .lr = 0.01, .beta1 = 0.3, .amsgrad = true},
     {"exp_avg", "exp_avg_sq", "max_exp_avg_sq"}},
    {"adamw", {.kind = OptimizerKind::adamw, .lr = 0.01, .weight_decay = 0.1}, {"exp_avg", "exp_avg_sq"}}};

// All that an optimizer and its weights hold.
struct Snapshot {
  std::vector<float> weights;
  std::vector<std::vector<float>> state;
  std::vector<std::uint32_t> steps;
};

class EveryOptimizer : public ::testing::TestWithParam<Case> {
 protected:
  static constexpr std::size_t kBlocks = 40;

  std::unique_ptr<SparseOptimizer> make(std::size_t blocks = kBlocks) const {
    return make_optimizer(GetParam().settings, blocks);
  }
  static Snapshot snapshot(SparseOptimizer& optimizer, std::span<const float> weights) {
    Snapshot all{{weights.begin(), weights.end()}, {}, {optimizer.steps().begin(), optimizer.steps().end()}};
    for (const auto& tensor : optimizer.state())
      all.state.emplace_back(tensor.values.begin(), tensor.values.end());
    return all;
  }
  static void expect_equal(const Snapshot& a, const Snapshot& b) {
    EXPECT_TRUE(same_bits(a.weights, b.weights));
    ASSERT_EQ(a.state.size(), b.state.size());
    for (std::size_t i = 0; i < a.state.size(); ++i) EXPECT_TRUE(same_bits(a.state[i], b.state[i]));
    EXPECT_EQ(a.steps, b.steps);
  }
  Snapshot after_some_steps() {
    Random own(seed());
    auto optimizer = make();
    auto weights = normal(own, kBlocks * kBlock);
    for (int t = 0; t < 10; ++t)
      optimizer->step(random_gradient(own, kBlocks, 0.3), GetParam().settings, weights);
    return snapshot(*optimizer, weights);
  }

  Random random{seed()};
};

TEST_P(EveryOptimizer, HasTheStateOfTorchsAndNoMore) {
  auto optimizer = make();
  const auto state = optimizer->state();
  ASSERT_EQ(state.size(), GetParam().state.size());
  for (std::size_t i = 0; i < state.size(); ++i) {
    EXPECT_EQ(state[i].name, GetParam().state[i]);
    EXPECT_EQ(state[i].values.size(), kBlocks * kBlock);
  }
  EXPECT_EQ(optimizer->steps().size(), kBlocks);
}

// A checkpoint may hold moments that the settings of this moment do not need.
TEST_P(EveryOptimizer, AllocatedStateIsZeroAndChangesNoStep) {
  const Snapshot expected = after_some_steps();
  Random own(seed());
  auto optimizer = make();
  const bool is_sgd = GetParam().settings.kind == OptimizerKind::sgd;
  EXPECT_EQ(optimizer->allocate("momentum_buffer"), is_sgd);
  EXPECT_EQ(optimizer->allocate("exp_avg"), !is_sgd);
  EXPECT_EQ(optimizer->allocate("max_exp_avg_sq"), !is_sgd);
  EXPECT_FALSE(optimizer->allocate("exp"));
  EXPECT_EQ(optimizer->state().size(), is_sgd ? 1 : 3);
  for (const auto& tensor : optimizer->state()) {
    for (const float value : tensor.values) ASSERT_EQ(value, 0) << tensor.name;
  }
  auto weights = normal(own, kBlocks * kBlock);
  for (int t = 0; t < 10; ++t)
    optimizer->step(random_gradient(own, kBlocks, 0.3), GetParam().settings, weights);
  EXPECT_TRUE(same_bits(weights, expected.weights));
}

TEST_P(EveryOptimizer, AllocatingWhatIsThereKeepsIt) {
  auto optimizer = make();
  auto weights = normal(random, kBlocks * kBlock);
  optimizer->step(random_gradient(random, kBlocks, 0.3), GetParam().settings, weights);
  const Snapshot before = snapshot(*optimizer, weights);
  for (const std::string& name : GetParam().state) EXPECT_TRUE(optimizer->allocate(name));
  expect_equal(snapshot(*optimizer, weights), before);
}

TEST_P(EveryOptimizer, BlocksThatWereNotSentKeepEveryBit) {
  auto optimizer = make();
  auto weights = normal(random, kBlocks * kBlock);
  for (int t = 0; t < 20; ++t) {
    const auto before = snapshot(*optimizer, weights);
    const auto gradient = random_gradient(random, kBlocks, 0.2);
    optimizer->step(gradient, GetParam().settings, weights);
    auto after = snapshot(*optimizer, weights);
    for (const BlockId block : gradient.blocks) {
      const auto undo = [block](std::vector<float>& now, const std::vector<float>& then) {
        std::copy_n(then.begin() + block * kBlock, kBlock, now.begin() + block * kBlock);
      };
      undo(after.weights, before.weights);
      for (std::size_t i = 0; i < after.state.size(); ++i) undo(after.state[i], before.state[i]);
      after.steps[block] = before.steps[block];
    }
    expect_equal(after, before);
  }
}

// While all blocks are at the same step, the first is another kernel: the dense one.
TEST_P(EveryOptimizer, AStepOfEveryBlockIsTheStepsOfItsParts) {
  on_every_target([&] {
    auto whole = make();
    auto parts = make();
    auto weights = normal(random, kBlocks * kBlock);
    auto weights_of_parts = weights;
    for (int t = 0; t < 30; ++t) {
      // In the end now and then only some, so that the counts differ from then on.
      const auto gradient = random_gradient(random, kBlocks, t == 20 || t == 25 ? 0.5 : 1);
      whole->step(gradient, GetParam().settings, weights);
      for (const std::size_t odd : {0, 1}) {
        std::vector<BlockId> blocks;
        std::vector<float> values;
        for (std::size_t k = 0; k < gradient.blocks.size(); ++k) {
          if (gradient.blocks[k] % 2 != odd) continue;
          blocks.push_back(gradient.blocks[k]);
          const auto own = gradient.values.span().subspan(k * kBlock, kBlock);
          values.insert(values.end(), own.begin(), own.end());
        }
        parts->step(sparse(blocks, values), GetParam().settings, weights_of_parts);
      }
      expect_equal(snapshot(*whole, weights), snapshot(*parts, weights_of_parts));
    }
  });
}

TEST_P(EveryOptimizer, ABlockDoesNotFeelTheOthers) {
  auto all = make();
  auto alone = make(1);
  auto weights = normal(random, kBlocks * kBlock);
  const std::size_t begin = 7 * kBlock;
  std::vector<float> own(weights.begin() + begin, weights.begin() + begin + kBlock);
  for (int t = 0; t < 20; ++t) {
    const auto gradient = random_gradient(random, kBlocks, 0.5);
    all->step(gradient, GetParam().settings, weights);
    for (std::size_t k = 0; k < gradient.blocks.size(); ++k) {
      if (gradient.blocks[k] != 7) continue;
      alone->step(sparse({0}, gradient.values.span().subspan(k * kBlock, kBlock)), GetParam().settings, own);
    }
  }
  EXPECT_TRUE(same_bits(own, std::span(weights).subspan(begin, kBlock)));
}

TEST_P(EveryOptimizer, EveryTargetGivesTheSameBits) {
  const auto expected = after_some_steps();
  on_every_target([&] { expect_equal(after_some_steps(), expected); });
}

TEST_P(EveryOptimizer, GoesOnExactlyFromStateAndStepsThatWereSaved) {
  auto optimizer = make();
  auto weights = normal(random, kBlocks * kBlock);
  for (int t = 0; t < 5; ++t)
    optimizer->step(random_gradient(random, kBlocks, 0.5), GetParam().settings, weights);
  const auto saved = snapshot(*optimizer, weights);

  auto restored = make();
  auto restored_weights = saved.weights;
  auto state = restored->state();
  for (std::size_t i = 0; i < state.size(); ++i) {
    std::copy(saved.state[i].begin(), saved.state[i].end(), state[i].values.begin());
  }
  std::copy(saved.steps.begin(), saved.steps.end(), restored->steps().begin());
  for (int t = 0; t < 5; ++t) {
    const auto gradient = random_gradient(random, kBlocks, 0.5);
    optimizer->step(gradient, GetParam().settings, weights);
    restored->step(gradient, GetParam().settings, restored_weights);
  }
  expect_equal(snapshot(*restored, restored_weights), snapshot(*optimizer, weights));
}

TEST_P(EveryOptimizer, ALearningRateOfZeroMovesNothing) {
  auto optimizer = make();
  auto settings = GetParam().settings;
  settings.lr = 0;
  auto weights = normal(random, kBlocks * kBlock);
  const auto before = weights;
  optimizer->step(random_gradient(random, kBlocks, 1), settings, weights);
  EXPECT_TRUE(same_bits(weights, before));
}

TEST_P(EveryOptimizer, AnEmptyGradientAndAnEmptyBucketAreFine) {
  auto optimizer = make();
  auto weights = normal(random, kBlocks * kBlock);
  const auto before = snapshot(*optimizer, weights);
  optimizer->step({}, GetParam().settings, weights);
  expect_equal(snapshot(*optimizer, weights), before);
  make(0)->step({}, GetParam().settings, {});
}

TEST_P(EveryOptimizer, NonsenseAndSettingsOfAnotherOptimizerAreRefusedAndChangeNothing) {
  auto optimizer = make();
  auto weights = normal(random, kBlocks * kBlock);
  const auto gradient = random_gradient(random, kBlocks, 1);
  optimizer->step(gradient, GetParam().settings, weights);
  const auto before = snapshot(*optimizer, weights);
  auto nonsense = GetParam().settings;
  nonsense.lr = -1;
  EXPECT_THROW(optimizer->step(gradient, nonsense, weights), Error);
  EXPECT_THROW(make_optimizer(nonsense, 1), Error);
  auto other = GetParam().settings;
  other.kind = other.kind == OptimizerKind::sgd ? OptimizerKind::adam : OptimizerKind::sgd;
  EXPECT_THROW(optimizer->step(gradient, other, weights), Error);
  expect_equal(snapshot(*optimizer, weights), before);
}

INSTANTIATE_TEST_SUITE_P(Contract, EveryOptimizer, ::testing::ValuesIn(kCases),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace stella
