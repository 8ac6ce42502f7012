// rule="local" over real connections: members on threads, each with a session.
#include "engine/local_engine.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <future>
#include <string>
#include <thread>
#include <vector>

#include "engine/members.hpp"
#include "net/test_thread.hpp"

namespace stella {
namespace {

using namespace testing;

EngineOptions local(std::size_t fragment_bytes = 4096) {
  EngineOptions options;
  options.rule = "local";
  options.wire = "auto";
  options.bucket_bytes = fragment_bytes;
  options.threads = 1;
  return options;
}

// Each member pulls its weights to a place of its own: the consensus to their mean.
void learn(Model& model, std::uint32_t rank) {
  for (auto& tensor : model.weights) {
    for (std::size_t i = 0; i < tensor.size(); ++i) {
      const float aim = std::sin(static_cast<float>(i)) + static_cast<float>(rank);
      tensor[i] += 0.05f * (aim - tensor[i]);
    }
  }
}

void step(Engine& engine, Model& model, std::uint32_t rank) {
  learn(model, rank);
  StepInput input;
  input.parameters = model.weight_pointers;
  engine.step(input);
}

class LocalWorlds : public ::testing::TestWithParam<std::uint32_t> {};
INSTANTIATE_TEST_SUITE_P(OfOneToFour, LocalWorlds, ::testing::Values(1u, 2u, 3u, 4u));

TEST_P(LocalWorlds, EndWithEqualWeightsWhateverTheirStepsWere) {
  const std::uint32_t world_size = GetParam();
  std::vector<Model> models;
  for (Rank rank = 0; rank < world_size; ++rank) models.emplace_back(std::vector<std::int64_t>{5000, 3, 777});
  run_members(world_size, [&](Session& session, std::uint32_t rank) {
    Model& model = models[rank];
    if (rank > 0) std::fill(model.weights[0].begin(), model.weights[0].end(), 9.0f);  // member 0's count
    auto engine = session.distribute(model.specs, {}, local(), model.weight_pointers);
    EXPECT_EQ(model.weights[0][0], 0);
    for (std::uint32_t made = 0; made < 200 + 30 * rank; ++made) step(*engine, model, rank);
    engine->drain(Level::finished, model.weight_pointers, {});
    EXPECT_EQ(engine->iteration(), 200 + 30 * rank);
    engine.reset();
    session.leave();
  });
  for (const Model& model : models) EXPECT_EQ(model.weights, models[0].weights);
}

// Also where each round tells of one value in 64 only, and hides a part of the rest; and where one member
// alone does that.
TEST(LocalEngine, ConsensusSettlesBetweenWhatItsMembersPullTo) {
  for (const std::string wire : {"auto", "signs", "fp32 and signs"}) {
    std::vector<Model> models;
    for (Rank rank = 0; rank < 2; ++rank) models.emplace_back(std::vector<std::int64_t>{2000});
    run_members(2, [&](Session& session, std::uint32_t rank) {
      EngineOptions options = local();
      options.wire = wire != "fp32 and signs" ? wire : rank == 0 ? "signs" : "fp32";
      auto engine = session.distribute(models[rank].specs, {}, options, models[rank].weight_pointers);
      for (int made = 0; made < 2000; ++made) {
        step(*engine, models[rank], rank);
        if (made % 20 == 0)
          session.all_gather("pace", {});  // who stopped learning would only be dragged along
      }
      engine->drain(Level::finished, models[rank].weight_pointers, {});
      engine.reset();
      session.leave();
    });
    double error = 0;
    for (std::size_t i = 0; i < 2000; ++i)
      error += std::abs(models[0].weights[0][i] - (std::sin(static_cast<double>(i)) + 0.5));
    EXPECT_LT(error / 2000, 0.25) << wire;  // each member alone would be 0.5 away
  }
}

// x_i - W grows with every step, so speed counts once by itself: three times the steps, three times the pull.
// To weigh members by their steps or samples on top would count it twice, and end at 0.9.
// (Little in a step: where a round takes many, both come near to where they pull, whatever their speed.)
TEST(LocalEngine, AMemberOfThreeTimesTheSpeedPullsThreeTimesAsMuch) {
  std::vector<Model> models;
  for (Rank rank = 0; rank < 2; ++rank) models.emplace_back(std::vector<std::int64_t>{2000});
  run_members(2, [&](Session& session, std::uint32_t rank) {
    Model& model = models[rank];
    EngineOptions options = local();
    options.wire = "int8";
    auto engine = session.distribute(model.specs, {}, options, model.weight_pointers);
    for (int period = 0; period < 4500; ++period) {
      for (int made = 0; made < (rank == 0 ? 1 : 3); ++made) {
        for (float& weight : model.weights[0]) weight += 0.001f * (static_cast<float>(rank) - weight);
        StepInput input;
        input.parameters = model.weight_pointers;
        engine->step(input);
      }
      session.all_gather("pace", {});
    }
    engine->drain(Level::finished, model.weight_pointers, {});
    engine.reset();
    session.leave();
  });
  double mean = 0;
  for (const float weight : models[0].weights[0]) mean += weight / 2000;
  EXPECT_NEAR(mean, 0.75, 0.04);
}

TEST(LocalEngine, TheEndBringsTogetherWhatWasNeverTold) {
  std::vector<Model> models;
  for (Rank rank = 0; rank < 2; ++rank) models.emplace_back(std::vector<std::int64_t>{40'000});
  run_members(2, [&](Session& session, std::uint32_t rank) {
    Model& model = models[rank];
    auto engine = session.distribute(model.specs, {}, local(), model.weight_pointers);
    for (std::size_t i = 0; i < 40'000; ++i)
      model.weights[0][i] = std::sin(static_cast<float>(i * (rank + 1)));
    engine->drain(Level::finished, model.weight_pointers, {});  // without a step before
    engine.reset();
    session.leave();
  });
  double error = 0;
  for (std::size_t i = 0; i < 40'000; ++i) {
    const double mean = (std::sin(static_cast<float>(i)) + std::sin(static_cast<float>(2 * i))) / 2;
    error += std::abs(models[0].weights[0][i] - mean);
  }
  EXPECT_LT(error / 40'000, 0.005);  // the values are about 0.6; 8 bits of them
}

// A step that would wait for a member that waits for this one, in another call, goes on.
TEST(LocalEngine, PastTheDriftBoundNobodyWaitsForWhoWaitsInACall) {
  run_members(2, [&](Session& session, std::uint32_t rank) {
    Model model({3000});
    EngineOptions options = local();
    options.max_drift_seconds = 0.05;
    auto engine = session.distribute(model.specs, {}, options, model.weight_pointers);
    if (rank == 0) {
      const auto begin = std::chrono::steady_clock::now();
      while (std::chrono::steady_clock::now() - begin < std::chrono::milliseconds(400))
        step(*engine, model, rank);
    }
    session.all_gather("mean", {});
    engine->drain(Level::finished, model.weight_pointers, {});
    engine.reset();
    session.leave();
  });
}

// The others' rounds wait for it, their steps do not.
TEST(LocalEngine, StepsGoOnWhileAMemberMakesNone) {
  std::promise<void> released;
  const auto release = released.get_future().share();
  run_members(2, [&](Session& session, std::uint32_t rank) {
    Model model({3000});
    auto engine = session.distribute(model.specs, {}, local(), model.weight_pointers);
    if (rank == 1) release.wait();
    for (int made = 0; made < 50; ++made) step(*engine, model, rank);
    if (rank == 0) released.set_value();
    engine->drain(Level::finished, model.weight_pointers, {});
    engine.reset();
    session.leave();
  });
}

// What a member learned while it was out, with the rest of what it has not told.
void expect_equal(const std::vector<Model>& models) {
  for (const Model& model : models) EXPECT_EQ(model.weights, models[0].weights);
}

// Makes steps until `done`.
template <class Done>
void step_until(Engine& engine, Model& model, std::uint32_t rank, Done done) {
  while (!done()) {
    step(engine, model, rank);
    std::this_thread::sleep_for(std::chrono::milliseconds(2));  // what a step takes
  }
}

class LeftOut : public ::testing::TestWithParam<std::uint32_t> {};
INSTANTIATE_TEST_SUITE_P(TheCoordinatorOrAnother, LeftOut, ::testing::Values(0u, 1u, 2u));

// A member whose trainer does something else for long is as good as silent.
TEST_P(LeftOut, AMemberThatMakesNoStepsIsLeftOutOfRoundsAndComesBackWithWhatItLearned) {
  const std::uint32_t paused = GetParam();
  SessionOptions quick;
  quick.peer_timeout_seconds = 0.3;
  std::vector<Model> models;
  for (Rank rank = 0; rank < 3; ++rank) models.emplace_back(std::vector<std::int64_t>{20'000, 3, 777});
  std::promise<void> went_on, returned;
  const auto others_went_on = went_on.get_future().share();
  std::atomic<bool> back = false;
  const auto outcomes = outcomes_of_members(
      3,
      [&](Session& session, std::uint32_t rank) {
        Model& model = models[rank];
        auto engine = session.distribute(model.specs, {}, local(), model.weight_pointers);
        for (int made = 0; made < 20; ++made) step(*engine, model, rank);
        if (rank == paused) {
          others_went_on.wait();
          const auto before = engine->stats().blocks_applied;
          step_until(*engine, model, rank, [&] { return engine->stats().blocks_applied > before + 500; });
          back = true;
        } else {
          // Far more than what can be under way when the other one pauses.
          const auto before = engine->stats().blocks_applied;
          step_until(*engine, model, rank, [&] { return engine->stats().blocks_applied > before + 5'000; });
          if (rank == (paused == 2 ? 1u : 2u)) went_on.set_value();
          step_until(*engine, model, rank, [&] { return back.load(); });
        }
        engine->drain(Level::finished, model.weight_pointers, {});
        engine.reset();
        session.leave();
      },
      quick);
  for (const auto& outcome : outcomes) EXPECT_EQ(sentence_of(outcome), "");
  expect_equal(models);
}

TEST(LocalEngine, PastTheDriftBoundAStepWaits) {
  std::promise<void> waited;
  const auto over = waited.get_future().share();
  run_members(2, [&](Session& session, std::uint32_t rank) {
    Model model({3000});
    EngineOptions options = local();
    options.max_drift_seconds = 0.1;
    auto engine = session.distribute(model.specs, {}, options, model.weight_pointers);
    if (rank == 0) {
      const auto begin = std::chrono::steady_clock::now();
      while (std::chrono::steady_clock::now() - begin < std::chrono::milliseconds(150))
        step(*engine, model, rank);
      waited.set_value();
    } else {
      EXPECT_EQ(over.wait_for(std::chrono::milliseconds(600)), std::future_status::timeout);
    }
    engine->drain(Level::finished, model.weight_pointers, {});
    engine.reset();
    session.leave();
  });
}

TEST(LocalEngine, AParameterThatIsNotFiniteIsNamedAndTheOthersGoOn) {
  const auto outcomes = outcomes_of_members(2, [&](Session& session, std::uint32_t rank) {
    Model model({100, 100});
    auto engine = session.distribute(model.specs, {}, local(), model.weight_pointers);
    for (int made = 0; made < 20; ++made) {
      if (rank == 1 && made == 10) model.weights[1][3] = std::nanf("");
      try {
        step(*engine, model, rank);
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::nonfinite);
        EXPECT_TRUE(contains(error.what(), "the parameter 'tensor1' holds NaN or infinity")) << error.what();
        EXPECT_EQ(rank, 1u);
      }
    }
    engine->drain(Level::finished, model.weight_pointers, {});
    EXPECT_TRUE(std::isfinite(model.weights[1][3]));
    engine.reset();
    session.leave();
  });
  for (const auto& outcome : outcomes) EXPECT_EQ(sentence_of(outcome), "");
}

TEST(LocalEngine, MembersOfDifferentRulesAreTold) {
  const auto outcomes = outcomes_of_members(2, [&](Session& session, std::uint32_t rank) {
    Model model({100});
    EngineOptions options = local();
    if (rank == 1) options.rule = "sparse", options.wire = "fp32";
    const std::vector<GroupSettings> groups{sgd(1)};
    session.distribute(model.specs, groups, options, model.weight_pointers);
  });
  EXPECT_TRUE(
      contains(sentence_of(outcomes[0]), "rule differs between members: here it is local, on member 1"))
      << sentence_of(outcomes[0]);
}

}  // namespace
}  // namespace stella
