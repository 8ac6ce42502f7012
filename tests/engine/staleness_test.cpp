// Which update a step returns with, whatever the speed of members and threads.
#include <gtest/gtest.h>

#include <cfenv>
#include <mutex>

#include "engine/members.hpp"
#include "kernels/kernel_testing.hpp"

namespace stella::testing {
namespace {

// Small integers: their sums are exact.
float gradient_of(Iteration t) { return static_cast<float>(t % 7 + 1); }

// Work of varying length, so that now one member and now another comes first.
void dawdle(Random& random) {
  volatile std::uint64_t sink = 0;
  for (auto rounds = random() % 8 == 0 ? random() % 300'000 : 0; rounds > 0; --rounds) sink = sink + rounds;
}

// At density 1 with learning rate 1 the weights are minus the sum of all gradients applied.
void expect_exactly_update(const Model& model, float sum, Iteration t) {
  for (const auto& tensor : model.weights) {
    for (const float weight : tensor) ASSERT_EQ(weight, -sum) << "after step " << t;
  }
}

class Staleness : public ::testing::TestWithParam<std::tuple<unsigned, std::size_t>> {};
INSTANTIATE_TEST_SUITE_P(WithThreads, Staleness,
                         ::testing::Combine(::testing::Values(0u, 1u), ::testing::Values(1u, 2u, 4u)));

TEST_P(Staleness, AStepReturnsWithTheUpdateOfStalenessIterationsAgoAndNoLaterOne) {
  const auto [staleness, threads] = GetParam();
  run_members(3, [&, staleness = staleness, threads = threads](Session& session, std::uint32_t rank) {
    Model model({1, 3000, 40, 1000});
    Random random(seed() + rank);
    const std::vector<GroupSettings> groups{sgd(1)};
    EngineOptions options = small_buckets(1, staleness);
    options.threads = threads;
    auto engine = session.distribute(model.specs, groups, options, model.weight_pointers);
    float sum = 0;
    for (Iteration t = 1; t <= 150; ++t) {
      model.fill_gradients(gradient_of(t));
      dawdle(random);
      engine->step(model.input(groups));
      if (t > staleness) sum += gradient_of(t - staleness);
      expect_exactly_update(model, sum, t);
      if (::testing::Test::HasFatalFailure()) break;
      model.fill_gradients(1e30f);  // the step is done with them
    }
    engine->drain(Level::finished, model.weight_pointers, groups);
    if (staleness > 0) sum += gradient_of(150);
    expect_exactly_update(model, sum, 151);
    engine.reset();
    session.leave();
  });
}

GroupSettings adamw() {
  GroupSettings settings;
  settings.kind = OptimizerKind::adamw;
  settings.weight_decay = 0.01;
  return settings;
}

// The digest after some iterations of three members with random gradients; an error if they disagree.
//   rounding   how the trainer's thread rounds while it makes the engine
std::uint64_t digest_of_a_run(EngineOptions options, int rounding = FE_TONEAREST) {
  std::mutex mutex;
  std::vector<std::uint64_t> digests;
  run_members(3, [&](Session& session, std::uint32_t rank) {
    Model model({3000, 17, 500});
    Random random(seed() + rank);
    const std::vector<GroupSettings> groups{adamw()};
    std::fesetround(rounding);
    auto engine = session.distribute(model.specs, groups, options, model.weight_pointers);
    std::fesetround(FE_TONEAREST);
    for (int step = 0; step < 20; ++step) {
      model.fill_gradients(random);
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
  return digests.front();
}

EngineOptions with(double density, unsigned staleness, std::size_t threads) {
  EngineOptions options = small_buckets(density, staleness);
  options.threads = threads;
  return options;
}

void expect_one_digest(const std::string& what, EngineOptions options) {
  options.threads = 1;
  const std::uint64_t reference = digest_of_a_run(options);
  for (const std::size_t threads : {2u, 4u}) {
    options.threads = threads;
    EXPECT_EQ(digest_of_a_run(options), reference);
  }
  options.threads = 2;
  on_every_target([&] {
    const std::uint64_t digest = digest_of_a_run(options);
    EXPECT_EQ(digest, reference);
    std::printf("digest of %s on %s: %016llx\n", what.c_str(), chosen_target().c_str(),
                static_cast<unsigned long long>(digest));
  });
}

TEST(BitIdentity, ThreadsAndInstructionSetsDoNotChangeABit) {
  expect_one_digest("staleness 0", with(0.1, 0, 1));
  expect_one_digest("staleness 1", with(0.1, 1, 1));
}

TEST(BitIdentity, NorWhenEverythingIsSent) { expect_one_digest("density 1", with(1, 1, 1)); }

TEST(BitIdentity, NorWithCodesAndLargerBlocks) {
  EngineOptions options = with(0.1, 1, 1);
  for (const auto& [wire, block] :
       {std::pair{"bf16", 32}, std::pair{"int8", 16}, std::pair{"int4", 64}, std::pair{"int1", 32}}) {
    options.wire = wire;
    options.block = static_cast<std::size_t>(block);
    expect_one_digest(wire + (" in blocks of " + std::to_string(block)), options);
  }
}

TEST(BitIdentity, TheFloatingPointEnvironmentOfTheTrainerDoesNotReachTheEngine) {
  EXPECT_EQ(digest_of_a_run(with(0.1, 1, 2), FE_UPWARD), digest_of_a_run(with(0.1, 1, 2)));
}

}  // namespace
}  // namespace stella::testing
