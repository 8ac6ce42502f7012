// The engine as a trainer sees it: several members in one process, real connections on the loopback.
#include <gtest/gtest.h>
#include <malloc.h>
#include <sys/resource.h>

#include <chrono>
#include <functional>
#include <limits>
#include <map>
#include <mutex>
#include <random>

#include "engine/members.hpp"
#include "stella/error.hpp"

namespace stella {
namespace {

using testing::Model;
using testing::outcomes_of_members;
using testing::run_members;
using testing::sentence_of;
using testing::sgd;
using testing::small_buckets;

// Small integers, so that every sum in fp32 is exact.
void fill_with_integers(std::vector<std::vector<float>>& tensors, std::mt19937& random) {
  std::uniform_int_distribution<int> value(-8, 8);
  for (auto& tensor : tensors) {
    for (float& element : tensor) element = static_cast<float>(value(random));
  }
}

class EngineWorlds : public ::testing::TestWithParam<std::uint32_t> {};
INSTANTIATE_TEST_SUITE_P(OneToFourMembers, EngineWorlds, ::testing::Values(1, 2, 3, 4));

// I4 of docs/membership: what was produced is applied or still held, exactly.
TEST_P(EngineWorlds, WhatWasProducedIsAppliedOrStillInAResidual) {
  const std::uint32_t world_size = GetParam();
  for (const unsigned staleness : {0u, 1u}) {
    for (const double density : {0.05, 0.5, 1.0}) {
      std::mutex mutex;
      std::map<std::string, double> produced, held;  // by "tensor:element", over all members
      std::map<std::string, double> applied;
      run_members(world_size, [&](Session& session, std::uint32_t rank) {
        Model model({1, 15, 16, 17, 1000, 5000});
        std::mt19937 random(rank);
        // An lr of all samples undoes the mean over them: the weights lose the plain sum. All samples are a
        // power of two, so that dividing by them is exact.
        const double samples = world_size == 3 && rank == 2 ? 2 : 1;
        const std::vector<GroupSettings> groups{sgd(world_size == 3 ? 4 : world_size)};
        auto engine =
            session.distribute(model.specs, groups, small_buckets(density, staleness), model.weight_pointers);
        std::map<std::string, double> mine;
        for (int step = 0; step < 12; ++step) {
          fill_with_integers(model.gradients, random);
          for (std::size_t tensor = 0; tensor < model.gradients.size(); ++tensor) {
            for (std::size_t i = 0; i < model.gradients[tensor].size(); ++i) {
              mine[std::to_string(tensor) + ":" + std::to_string(i)] += samples * model.gradients[tensor][i];
            }
          }
          StepInput input = model.input(groups);
          input.samples = samples;
          engine->step(input);
        }
        engine->drain(Level::finished, model.weight_pointers, groups);
        std::lock_guard lock(mutex);
        for (const auto& [key, value] : mine) produced[key] += value;
        for (const StateArray& array : engine->state()) {
          if (array.name != "residual") continue;
          for (std::size_t i = 0; i < array.numel; ++i) {
            held[std::to_string(array.tensor) + ":" + std::to_string(array.begin + i)] +=
                static_cast<const float*>(array.data)[i];
          }
        }
        for (std::size_t tensor = 0; tensor < model.weights.size(); ++tensor) {
          for (std::size_t i = 0; i < model.weights[tensor].size(); ++i) {
            applied[std::to_string(tensor) + ":" + std::to_string(i)] = -model.weights[tensor][i];
          }
        }
        engine.reset();
        session.leave();
      });
      for (const auto& [key, value] : produced) {
        ASSERT_EQ(applied[key] + held[key], value)
            << key << " at density " << density << ", staleness " << staleness;
      }
    }
  }
}

TEST_P(EngineWorlds, EverybodyStartsFromMember0AndEndsWithEqualWeights) {
  std::mutex mutex;
  std::vector<std::vector<std::vector<float>>> ends;
  run_members(GetParam(), [&](Session& session, std::uint32_t rank) {
    Model model({33, 700, 64});
    for (auto& tensor : model.weights) std::fill(tensor.begin(), tensor.end(), static_cast<float>(rank + 1));
    const std::vector<GroupSettings> groups{sgd(0.1)};
    auto engine = session.distribute(model.specs, groups, small_buckets(0.3, 1), model.weight_pointers);
    std::mt19937 random(rank);
    for (int step = 0; step < 5; ++step) {
      fill_with_integers(model.gradients, random);
      engine->step(model.input(groups));
    }
    engine->drain(Level::finished, model.weight_pointers, groups);
    engine.reset();
    session.leave();
    std::lock_guard lock(mutex);
    ends.push_back(model.weights);
  });
  for (const auto& end : ends) EXPECT_EQ(end, ends.front());
}

TEST(Engine, AMemberWhoseDataEndsEarlierWaitsForTheOthersWithEmptyContributions) {
  run_members(3, [&](Session& session, std::uint32_t rank) {
    Model model({100});
    const std::vector<GroupSettings> groups{sgd(1)};
    auto engine = session.distribute(model.specs, groups, small_buckets(1, 1), model.weight_pointers);
    std::fill(model.gradients[0].begin(), model.gradients[0].end(), 1.0f);
    for (std::uint32_t step = 0; step < 5 + rank; ++step) engine->step(model.input(groups));
    engine->drain(Level::epoch_ended, model.weight_pointers, groups);
    EXPECT_FLOAT_EQ(model.weights[0][0],
                    -7.0f);  // the last one's steps count in full: the mean of what there was
    engine->step(model.input(groups));
    engine->drain(Level::finished, model.weight_pointers, groups);
    EXPECT_FLOAT_EQ(model.weights[0][99], -8.0f);
    engine.reset();
    session.leave();
  });
}

TEST(Engine, ANonFiniteGradientIsNamedAndNothingOfItIsApplied) {
  run_members(2, [&](Session& session, std::uint32_t rank) {
    Model model({40, 40});
    const std::vector<GroupSettings> groups{sgd(1)};
    auto engine = session.distribute(model.specs, groups, small_buckets(1, 0), model.weight_pointers);
    const bool bad = rank == 0;
    for (auto& tensor : model.gradients) std::fill(tensor.begin(), tensor.end(), 2.0f);
    if (bad) model.gradients[1][7] = std::numeric_limits<float>::quiet_NaN();
    if (bad) {
      try {
        engine->step(model.input(groups));
        FAIL() << "no error";
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::nonfinite);
        EXPECT_NE(std::string(error.what()).find("tensor1"), std::string::npos) << error.what();
      }
    } else {
      engine->step(model.input(groups));
    }
    EXPECT_FLOAT_EQ(model.weights[1][7], -2.0f);  // the other member's gradient alone
    model.fill_gradients(2.0f);
    engine->step(model.input(groups));
    EXPECT_FLOAT_EQ(model.weights[0][3], -4.0f);  // nothing was left of the dropped iteration
    EXPECT_FLOAT_EQ(model.weights[1][7], -4.0f);
    engine->drain(Level::finished, model.weight_pointers, groups);
    engine.reset();
    session.leave();
  });
}

TEST(Engine, AnotherModelShapeIsAnErrorOnBothSidesThatNamesTheParameter) {
  const auto outcomes = outcomes_of_members(2, [&](Session& session, std::uint32_t rank) {
    Model model({40, rank == 0 ? 16 : 17});
    const std::vector<GroupSettings> groups{sgd(1)};
    session.distribute(model.specs, groups, small_buckets(1, 0), model.weight_pointers);
  });
  for (const auto& outcome : outcomes) {
    const std::string sentence = sentence_of(outcome);
    EXPECT_NE(sentence.find("mismatch"), std::string::npos) << sentence;
    EXPECT_NE(sentence.find("'tensor1' (16,)"), std::string::npos) << sentence;
    EXPECT_NE(sentence.find("'tensor1' (17,)"), std::string::npos) << sentence;
  }
}

TEST(Engine, ALearningRateThatDiffersBetweenMembersIsNamed) {
  const auto outcomes = outcomes_of_members(2, [&](Session& session, std::uint32_t rank) {
    Model model({64});
    std::vector<GroupSettings> groups{sgd(1)};
    auto engine = session.distribute(model.specs, groups, small_buckets(1, 0), model.weight_pointers);
    groups[0].lr = rank == 0 ? 0.5 : 0.25;
    engine->step(model.input(groups));
  });
  for (const auto& outcome : outcomes) {
    const std::string sentence = sentence_of(outcome);
    EXPECT_NE(sentence.find("lr is 0."), std::string::npos) << sentence;
  }
}

TEST(Engine, AMemberThatEndsWithoutFinishIsNamedByAllSurvivors) {
  const auto outcomes = outcomes_of_members(4, [&](Session& session, std::uint32_t rank) {
    Model model({640});
    const std::vector<GroupSettings> groups{sgd(1)};
    auto engine = session.distribute(model.specs, groups, small_buckets(0.5, 1), model.weight_pointers);
    const bool quits = rank == 0;
    for (int step = 0; step < 1000; ++step) {
      if (quits && step == 5) return;
      engine->step(model.input(groups));
    }
  });
  int named = 0;
  for (const auto& outcome : outcomes) {
    const std::string sentence = sentence_of(outcome);
    if (sentence.empty()) continue;
    EXPECT_NE(sentence.find("it ended without finish()"), std::string::npos) << sentence;
    ++named;
  }
  EXPECT_EQ(named, 3);
}

TEST(Engine, ManyBucketsOfFourMembersStayEqualOverHundredsOfIterations) {
  std::mutex mutex;
  std::vector<std::uint64_t> digests;
  run_members(4, [&](Session& session, std::uint32_t rank) {
    Model model({5000, 17, 3000, 64, 900});
    const std::vector<GroupSettings> groups{sgd(0.01)};
    auto engine = session.distribute(model.specs, groups, small_buckets(0.1, 1), model.weight_pointers);
    std::mt19937 random(rank);
    for (int step = 0; step < 300; ++step) {
      fill_with_integers(model.gradients, random);
      engine->step(model.input(groups));
    }
    engine->drain(Level::finished, model.weight_pointers, groups);
    const std::uint64_t digest = engine->digest();
    engine.reset();
    session.leave();
    std::lock_guard lock(mutex);
    digests.push_back(digest);
  });
  for (const auto digest : digests) EXPECT_EQ(digest, digests.front());
}

TEST(Engine, GradientsAreWeightedBySamples) {
  run_members(2, [&](Session& session, std::uint32_t rank) {
    Model model({50});
    const std::vector<GroupSettings> groups{sgd(1)};
    auto engine = session.distribute(model.specs, groups, small_buckets(1, 0), model.weight_pointers);
    model.fill_gradients(rank == 0 ? 4.0f : 8.0f);
    StepInput input = model.input(groups);
    input.samples = rank == 0 ? 1 : 3;
    engine->step(input);
    EXPECT_EQ(model.weights[0], std::vector<float>(50, -(1 * 4.0f + 3 * 8.0f) / 4));
    input.samples = rank == 0 ? 0 : 3;  // a batch of nothing
    engine->step(input);
    EXPECT_EQ(model.weights[0], std::vector<float>(50, -7.0f - 8.0f));
    engine->drain(Level::finished, model.weight_pointers, groups);
    engine.reset();
    session.leave();
  });
}

TEST(Engine, AGradientScaleAndASkippedStepAreWhatAGradScalerNeeds) {
  run_members(2, [&](Session& session, std::uint32_t rank) {
    Model model({50});
    const std::vector<GroupSettings> groups{sgd(1)};
    auto engine = session.distribute(model.specs, groups, small_buckets(1, 0), model.weight_pointers);
    model.fill_gradients(1024.0f);
    StepInput input = model.input(groups);
    input.gradient_scale = 1.0f / 512;
    engine->step(input);
    EXPECT_EQ(model.weights[0][49], -2.0f);
    input.skip = rank == 1;
    if (input.skip) model.fill_gradients(std::numeric_limits<float>::infinity());
    engine->step(input);
    EXPECT_EQ(model.weights[0][49], -4.0f);
    engine->drain(Level::finished, model.weight_pointers, groups);
    engine.reset();
    session.leave();
  });
}

TEST(Engine, AMemberMayFinishWhileAnotherStillEndsItsEpochs) {
  run_members(2, [&](Session& session, std::uint32_t rank) {
    Model model({50});
    const std::vector<GroupSettings> groups{sgd(1)};
    auto engine = session.distribute(model.specs, groups, small_buckets(1, 1), model.weight_pointers);
    model.fill_gradients(1.0f);
    engine->step(model.input(groups));
    if (rank == 0) {
      for (int epoch = 0; epoch < 3; ++epoch) {
        engine->drain(Level::epoch_ended, model.weight_pointers, groups);
        engine->step(model.input(groups));
      }
    }
    engine->drain(Level::finished, model.weight_pointers, groups);
    EXPECT_EQ(model.weights[0], std::vector<float>(50, -4.0f));
    engine.reset();
    session.leave();
  });
}

TEST(Engine, DensityMayChangeBetweenSteps) {
  run_members(2, [&](Session& session, std::uint32_t rank) {
    Model model({6400});
    const std::vector<GroupSettings> groups{sgd(1)};
    auto engine = session.distribute(model.specs, groups, small_buckets(0.25, 0), model.weight_pointers);
    model.fill_gradients(1.0f);
    engine->step(model.input(groups));
    EXPECT_EQ(engine->stats().blocks_sent, 100u);
    if (rank == 0) engine->set_density(1);
    engine->step(model.input(groups));
    EXPECT_EQ(engine->stats().blocks_sent, rank == 0 ? 500u : 200u);
    for (const double wrong : {0.0, -0.5, 1.5, std::numeric_limits<double>::quiet_NaN()}) {
      EXPECT_THROW(engine->set_density(wrong), Error);
    }
    engine->drain(Level::finished, model.weight_pointers, groups);
    engine.reset();
    session.leave();
  });
}

TEST(Engine, WhatAStepCannotUseIsRefusedBeforeAnythingIsContributed) {
  run_members(1, [&](Session& session, std::uint32_t) {
    Model model({50, 50});
    const std::vector<GroupSettings> groups{sgd(1)};
    auto engine = session.distribute(model.specs, groups, small_buckets(1, 0), model.weight_pointers);
    model.fill_gradients(1.0f);
    const auto refused = [&](const std::function<void(StepInput&)>& change) {
      StepInput input = model.input(groups);
      change(input);
      EXPECT_THROW(engine->step(input), Error);
    };
    const std::vector<GroupSettings> bad_groups{sgd(std::numeric_limits<double>::infinity())};
    std::vector<float*> with_null = model.weight_pointers;
    with_null[1] = nullptr;
    refused([](StepInput& input) { input.samples = -1; });
    refused([](StepInput& input) { input.samples = 1e300; });
    refused([](StepInput& input) { input.gradient_scale = std::numeric_limits<float>::infinity(); });
    refused([](StepInput& input) { input.gradients = input.gradients.first(1); });
    std::vector<Gradient> of_another_type = model.gradient_views;
    of_another_type[1].type = static_cast<GradientType>(3);
    refused([&](StepInput& input) { input.gradients = of_another_type; });
    refused([](StepInput& input) { input.parameters = input.parameters.first(1); });
    refused([&](StepInput& input) { input.parameters = with_null; });
    refused([](StepInput& input) { input.groups = {}; });
    refused([&](StepInput& input) { input.groups = bad_groups; });
    EXPECT_EQ(engine->iteration(), 0u);
    engine->step(model.input(groups));
    EXPECT_EQ(model.weights[1][0], -1.0f);
  });
}

std::size_t heap_in_use() {
  const auto info = ::mallinfo2();
  return info.uordblks + info.hblkhd;
}

TEST(Engine, MemoryStaysFlatOverThousandsOfIterations) {
  run_members(2, [&](Session& session, std::uint32_t rank) {
    Model model({500, 1000});
    const std::vector<GroupSettings> groups{sgd(0.1)};
    auto engine = session.distribute(model.specs, groups, small_buckets(0.1, 1), model.weight_pointers);
    model.fill_gradients(1.0f);
    std::size_t early = 0;
    for (int step = 0; step < 2500; ++step) {
      engine->step(model.input(groups));
      if (step == 500) early = heap_in_use();
    }
    // A hundred bytes per iteration would show.
    if (rank == 0) {
      EXPECT_LT(heap_in_use(), early + 200'000);
    }
    engine->drain(Level::finished, model.weight_pointers, groups);
    engine.reset();
    session.leave();
  });
}

double cpu_seconds() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) { return time.tv_sec + time.tv_usec * 1e-6; };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

TEST(Engine, AnIdleEngineUsesLessThanAHundredthOfACore) {
  run_members(2, [&](Session& session, std::uint32_t rank) {
    Model model({5000});
    const std::vector<GroupSettings> groups{sgd(0.1)};
    auto engine = session.distribute(model.specs, groups, small_buckets(0.1, 1), model.weight_pointers);
    engine->step(model.input(groups));
    engine->quiesce();
    session.all_gather("idle", {});
    const double before = cpu_seconds();
    std::this_thread::sleep_for(std::chrono::seconds(2));
    if (rank == 0) {
      EXPECT_LT(cpu_seconds() - before, 2 * 2 * 0.01);  // seconds x engines of this process
    }
    session.all_gather("awake", {});
    engine->drain(Level::finished, model.weight_pointers, groups);
    engine.reset();
    session.leave();
  });
}

}  // namespace
}  // namespace stella
