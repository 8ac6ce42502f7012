// What a checkpoint must hold: the arrays of state(), the parameters as the trainer sees them, the iteration.
#include <gtest/gtest.h>

#include <cstring>

#include "engine/members.hpp"
#include "kernels/block.hpp"
#include "kernels/kernel_testing.hpp"
#include "net/test_thread.hpp"

namespace stella::testing {
namespace {

const std::vector<std::int64_t> kSizes{1, 700, 33, 2000};

struct Saved {
  Iteration iteration = 0;
  std::vector<std::vector<std::byte>> arrays;  // in the order of state()
  SelectorState selectors;
  std::vector<std::vector<float>> parameters;
  std::uint64_t digest = 0;
};

std::span<std::byte> bytes_of(const StateArray& array) {
  const std::size_t values = array.name == "steps" ? (array.numel + kBlock - 1) / kBlock : array.numel;
  return {static_cast<std::byte*>(array.data), values * sizeof(float)};
}

Saved save(Engine& engine, const Model& model) {
  Saved saved{engine.iteration(), {}, engine.selector_state(), model.weights, engine.digest()};
  for (const StateArray& array : engine.state()) {
    const auto bytes = bytes_of(array);
    saved.arrays.emplace_back(bytes.begin(), bytes.end());
  }
  return saved;
}

void load(Engine& engine, Model& model, const Saved& saved) {
  const auto arrays = engine.state();
  ASSERT_EQ(arrays.size(), saved.arrays.size());
  for (std::size_t i = 0; i < arrays.size(); ++i) {
    const auto bytes = bytes_of(arrays[i]);
    ASSERT_EQ(bytes.size(), saved.arrays[i].size());
    std::memcpy(bytes.data(), saved.arrays[i].data(), bytes.size());
  }
  for (std::size_t i = 0; i < model.weights.size(); ++i) {
    std::copy(saved.parameters[i].begin(), saved.parameters[i].end(), model.weights[i].begin());
  }
  ASSERT_TRUE(engine.set_selector_state(saved.selectors));
  engine.state_loaded(saved.iteration, model.weight_pointers);
}

// Iteration t of member `rank`, the same whenever it is asked for. In every other one all gradients are
// equal, so that blocks compete for the last place.
void train(Engine& engine, Model& model, std::span<const GroupSettings> groups, std::uint32_t rank,
           Iteration t) {
  Random random(seed() + 1000 * t + rank);
  if (t % 2 == 0) {
    model.fill_gradients(0.5f);
  } else {
    model.fill_gradients(random);
  }
  engine.step(model.input(groups));
}

GroupSettings settings_of(OptimizerKind kind) {
  GroupSettings settings;
  settings.kind = kind;
  settings.lr = 0.01;
  settings.momentum = kind == OptimizerKind::sgd ? 0.9 : 0;
  settings.amsgrad = kind == OptimizerKind::adam;
  return settings;
}

using Trajectory = std::vector<std::vector<std::vector<float>>>;  // parameters after each step

// Steps after the checkpoint, and the digest at the end.
std::pair<Trajectory, std::uint64_t> go_on(Engine& engine, Model& model,
                                           std::span<const GroupSettings> groups, std::uint32_t rank) {
  Trajectory trajectory;
  for (Iteration t = 8; t <= 12; ++t) {
    train(engine, model, groups, rank, t);
    trajectory.push_back(model.weights);
  }
  engine.drain(Level::finished, model.weight_pointers, groups);
  trajectory.push_back(model.weights);
  return {trajectory, engine.digest()};
}

class Checkpoint : public ::testing::TestWithParam<std::tuple<unsigned, OptimizerKind, const char*>> {};
INSTANTIATE_TEST_SUITE_P(OfOptimizersAndSelectors, Checkpoint,
                         ::testing::Combine(::testing::Values(0u, 1u),
                                            ::testing::Values(OptimizerKind::sgd, OptimizerKind::adam,
                                                              OptimizerKind::adamw),
                                            ::testing::Values("blocks", "threshold", "random")));

TEST_P(Checkpoint, AFreshEngineWithTheSavedStateGoesOnBitForBit) {
  const auto [staleness, kind, selector] = GetParam();
  const std::vector<GroupSettings> groups{settings_of(kind)};
  EngineOptions options = small_buckets(0.6, staleness);
  options.selector = selector;
  std::vector<Saved> saved(2);
  std::vector<std::pair<Trajectory, std::uint64_t>> unbroken(2);
  run_members(2, [&](Session& session, std::uint32_t rank) {
    Model model(kSizes);
    auto engine = session.distribute(model.specs, groups, options, model.weight_pointers);
    for (Iteration t = 1; t <= 7; ++t) train(*engine, model, groups, rank, t);
    saved[rank] = save(*engine, model);
    unbroken[rank] = go_on(*engine, model, groups, rank);
    engine.reset();
    session.leave();
  });
  run_members(2, [&](Session& session, std::uint32_t rank) {
    Model model(kSizes);
    for (auto& tensor : model.weights) std::fill(tensor.begin(), tensor.end(), 5.0f);
    auto engine = session.distribute(model.specs, groups, options, model.weight_pointers);
    load(*engine, model, saved[rank]);
    EXPECT_EQ(engine->iteration(), 7u);
    EXPECT_EQ(engine->digest(), saved[rank].digest);
    EXPECT_EQ(go_on(*engine, model, groups, rank), unbroken[rank]);
    engine.reset();
    session.leave();
  });
}

TEST(CheckpointOfOneEngine, ARunCanGoBackToAnEarlierState) {
  const std::vector<GroupSettings> groups{settings_of(OptimizerKind::adamw)};
  run_members(2, [&](Session& session, std::uint32_t rank) {
    Model model(kSizes);
    auto engine = session.distribute(model.specs, groups, small_buckets(0.1, 1), model.weight_pointers);
    for (Iteration t = 1; t <= 7; ++t) train(*engine, model, groups, rank, t);
    const Saved saved = save(*engine, model);
    const auto first = go_on(*engine, model, groups, rank);
    load(*engine, model, saved);
    EXPECT_EQ(go_on(*engine, model, groups, rank), first);
    engine.reset();
    session.leave();
  });
}

TEST(CheckpointOfOneEngine, TheStateOfAnotherSelectorOrOfOtherBucketsIsLeftAlone) {
  run_members(1, [&](Session& session, std::uint32_t) {
    Model model(kSizes);
    const std::vector<GroupSettings> groups{sgd(0.1)};
    auto engine = session.distribute(model.specs, groups, small_buckets(0.1, 1), model.weight_pointers);
    const SelectorState before = engine->selector_state();
    SelectorState other = before;
    for (auto& word : other.words) word += 7;
    other.selector = "threshold";
    EXPECT_FALSE(engine->set_selector_state(other));
    other.selector = before.selector;
    other.words.pop_back();
    EXPECT_FALSE(engine->set_selector_state(other));
    EXPECT_EQ(engine->selector_state().words, before.words);
    engine.reset();
    session.leave();
  });
}

TEST(CheckpointOfOneEngine, MembersThatLoadDifferentStatesAreTold) {
  const auto outcomes = outcomes_of_members(2, [&](Session& session, std::uint32_t rank) {
    Model model(kSizes);
    const std::vector<GroupSettings> groups{sgd(0.1)};
    auto engine = session.distribute(model.specs, groups, small_buckets(0.1, 1), model.weight_pointers);
    engine->state_loaded(10 + rank, model.weight_pointers);
  });
  for (const auto& outcome : outcomes) {
    EXPECT_TRUE(contains(sentence_of(outcome), "different states were loaded")) << sentence_of(outcome);
  }
}

}  // namespace
}  // namespace stella::testing
