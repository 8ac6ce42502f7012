// The rule called directly, as the pipeline calls it: several members' rules in one thread.
#include "engine/sparse_rule.hpp"

#include <gtest/gtest.h>

#include <limits>

#include "engine/rule_members.hpp"
#include "net/test_thread.hpp"
#include "stella/error.hpp"

namespace stella::testing {
namespace {

std::vector<std::int64_t> random_sizes(Random& random) {
  std::vector<std::int64_t> sizes{1};
  for (auto count = 1 + random() % 6; count > 0; --count) {
    sizes.push_back(static_cast<std::int64_t>(random() % (random() % 2 == 0 ? 40 : 3000)));
  }
  return sizes;
}

// Learning rate = members undoes the mean (1 or 2 or 4: exactly), so the weights lose the plain sum of what
// was sent. Codes leave what an fp32 subtraction rounds off.
void expect_conserved(Random& random, const EngineOptions& options) {
  const std::uint32_t world_size = 1u << random() % 3;
  World world(world_size, random_sizes(random), world_size, options);
  Sums produced = zeros_like(world[0].model);
  for (Iteration t = 1; t <= 6; ++t) {
    for (auto& member : world.members) fill_with_integers(member->model, random, produced);
    world.step(t);
  }
  Sums there = zeros_like(world[0].model);
  for (auto& member : world.members) add_residual(*member, there);
  for (std::size_t tensor = 0; tensor < there.size(); ++tensor) {
    for (std::size_t i = 0; i < there[tensor].size(); ++i)
      there[tensor][i] -= world[0].model.weights[tensor][i];
  }
  const double allowed = options.wire.starts_with("int") ? 0.05 : 0;
  for (std::size_t tensor = 0; tensor < there.size(); ++tensor) {
    for (std::size_t i = 0; i < there[tensor].size(); ++i)
      ASSERT_NEAR(there[tensor][i], produced[tensor][i], allowed) << i << " of tensor " << tensor;
  }
  for (auto& member : world.members) expect_no_padding(*member, options.block);
}

TEST(SparseRule, WhatWasProducedIsAppliedOrStillHeld) {
  Random random(seed());
  const std::vector<std::string> wires = {"fp32", "bf16", "int8", "int4", "int2", "int1"};
  for (int round = 0; round < 120; ++round) {
    const double density = std::vector{0.001, 0.05, 0.5, 1.0}[random() % 4];
    const std::string wire = wires[static_cast<std::size_t>(round) % wires.size()];
    const std::string selector = std::vector<std::string>{"blocks", "threshold", "random"}[random() % 3];
    EngineOptions options = options_of(density, wire, selector);
    options.block = std::size_t{16} << random() % 3;
    SCOPED_TRACE("round " + std::to_string(round) + ": " + selector + " at " + std::to_string(density) +
                 ", " + wire + " in blocks of " + std::to_string(options.block));
    expect_conserved(random, options);
    if (HasFailure()) return;
  }
}

TEST(SparseRule, EverybodyHoldsTheSameWeightsAndDigests) {
  Random random(seed());
  World world(3, {700, 33}, 0.1, options_of(0.2));
  for (Iteration t = 1; t <= 10; ++t) {
    for (auto& member : world.members) member->model.fill_gradients(random);
    world.step(t);
  }
  for (auto& member : world.members) {
    EXPECT_EQ(member->rule->digest(), world[0].rule->digest());
    EXPECT_EQ(member->model.weights, world[0].model.weights);
  }
}

TEST(SparseRule, SelectionPayloadsAndWeightsAreTheSameBitsOnEveryTarget) {
  const std::pair<const char*, std::size_t> coded[] = {{"fp32", 16}, {"bf16", 16}, {"int8", 16}, {"int4", 16},
                                                       {"int4", 64}, {"int2", 32}, {"int1", 64}};
  std::vector<std::vector<Bytes>> sent;
  std::vector<std::vector<std::uint64_t>> digests;
  on_every_target([&] {
    std::vector<Bytes> payloads;
    std::vector<std::uint64_t> own;
    for (const auto& [wire, block] : coded) {
      Random random(seed());
      EngineOptions options = options_of(0.1, wire);
      options.block = block;
      World world(2, {3000, 17}, 0.1, options);
      for (Iteration t = 1; t <= 5; ++t) {
        for (auto& member : world.members) member->model.fill_gradients(random);
        const auto all = world.contributions(t);
        for (const auto& bucket : all) {
          for (const auto& payload : bucket) payloads.push_back(payload->bytes());
        }
        for (auto& member : world.members) member->apply(t, all);
      }
      own.push_back(world[0].rule->digest());
    }
    sent.push_back(payloads);
    digests.push_back(own);
  });
  for (std::size_t target = 1; target < sent.size(); ++target) {
    EXPECT_EQ(sent[target], sent[0]);
    EXPECT_EQ(digests[target], digests[0]);
  }
}

// The payload with another body or header.
PayloadPtr changed(const Payload& payload, const std::function<void(PayloadHeader&, Bytes&)>& change) {
  PayloadHeader header = payload.header();
  Bytes body(payload.body().begin(), payload.body().end());
  change(header, body);
  return std::make_shared<const Payload>(header, body);
}

// What member 0 says of an iteration in which member 1's payload was changed on its way.
Error error_after(const std::function<void(PayloadHeader&, Bytes&)>& change) {
  World world(3, {640}, 1, options_of(1));
  for (auto& member : world.members) member->model.gradients[0].assign(640, 1.0f);
  auto all = world.contributions(1);
  all[0][1] = changed(*all[0][1], change);
  return error_of([&] { world[0].apply(1, all); });
}

TEST(SparseRule, APayloadWithANanIsRefusedAndItsMemberNamed) {
  const Error error = error_after([](PayloadHeader&, Bytes& body) {
    const float nan = std::numeric_limits<float>::quiet_NaN();
    std::memcpy(body.data() + body.size() - sizeof nan, &nan, sizeof nan);
  });
  EXPECT_EQ(error.code(), ErrorCode::protocol);
  EXPECT_NAMES(error, "member 1 at iteration 1, bucket 0");
}

TEST(SparseRule, ABodyThatIsCutOffIsRefusedAndItsMemberNamed) {
  const Error error = error_after([](PayloadHeader&, Bytes& body) { body.resize(body.size() / 2); });
  EXPECT_EQ(error.code(), ErrorCode::protocol);
  EXPECT_NAMES(error, "member 1 at iteration 1, bucket 0");
}

TEST(SparseRule, AnotherDigestIsNamedWithTheParameterTheBucketAndTheMember) {
  const Error error = error_after([](PayloadHeader& header, Bytes&) { ++header.digest.value; });
  EXPECT_EQ(error.code(), ErrorCode::mismatch);
  EXPECT_NAMES(error, "bucket 0 (from 'tensor0')");
  EXPECT_NAMES(error, "member 1");
}

TEST(SparseRule, ADigestOfAnIterationThatCannotBeIsRefused) {
  const Error error = error_after([](PayloadHeader& header, Bytes&) { header.digest.iteration = 7; });
  EXPECT_EQ(error.code(), ErrorCode::protocol);
  EXPECT_NAMES(error, "member 1 reports a digest of iteration 7");
}

TEST(SparseRule, AnotherLearningRateIsNamedWithBothMembers) {
  const Error error = error_after([](PayloadHeader& header, Bytes&) { header.settings.lr = 2; });
  EXPECT_EQ(error.code(), ErrorCode::mismatch);
  EXPECT_NAMES(error, "lr is 1 on member 0, 2 on member 1;");
}

// The weights of all members after an iteration in which member 1's learning rate was this.
std::vector<std::vector<float>> weights_after_learning_rate(double lr_of_member_1) {
  World world(3, {640}, 0.3, options_of(1));
  for (auto& member : world.members) member->model.gradients[0].assign(640, 1.0f);
  world[1].groups[0].lr = lr_of_member_1;
  world.step(1);
  std::vector<std::vector<float>> weights;
  for (auto& member : world.members) weights.push_back(member->model.weights[0]);
  return weights;
}

TEST(SparseRule, ALearningRateThatDiffersByRoundingIsTheFirstContributorsForAll) {
  const auto equal = weights_after_learning_rate(0.3);
  const auto rounded = weights_after_learning_rate(0.3 * (1 + 0.9e-12));
  EXPECT_EQ(rounded, equal);
  EXPECT_EQ(rounded[2], rounded[0]);
  const Error error = error_of([] { weights_after_learning_rate(0.3 * (1 + 1.2e-12)); });
  EXPECT_EQ(error.code(), ErrorCode::mismatch);
  EXPECT_NAMES(error, "lr is 0.3 on member 0, 0.3000000000003");
}

// The first contributor, not member 0: it may have nothing to contribute.
TEST(SparseRule, OfRoundedLearningRatesThatOfTheFirstWhoContributesIsApplied) {
  World world(3, {64}, 0.3, options_of(1));
  world[0].samples = 0;
  world[1].groups[0].lr = 0.3 * (1 + 0.9e-12);
  const auto all = world.contributions(1);
  for (auto& member : world.members) {
    EXPECT_EQ(member->rule->merge(0, {all[0][0]->header().iteration, all[0], {}}).settings.lr,
              world[1].groups[0].lr);
  }
}

TEST(SparseRule, SettingsThatMakeNoSenseAreRefusedAndTheirMemberNamed) {
  const Error error = error_after([](PayloadHeader& header, Bytes&) { header.settings.lr = std::nan(""); });
  EXPECT_NAMES(error, "member 1 at iteration 1, bucket 0");
  EXPECT_NAMES(error, "lr is nan");
}

TEST(SparseRule, AnOnlyContributorWithAnotherOptimizerIsNamed) {
  World world(2, {640}, 1, options_of(1));
  world[0].samples = 0;
  auto all = world.contributions(1);
  all[0][1] =
      changed(*all[0][1], [](PayloadHeader& header, Bytes&) { header.settings.kind = OptimizerKind::adamw; });
  const Error error = error_of([&] { world[0].apply(1, all); });
  EXPECT_EQ(error.code(), ErrorCode::mismatch);
  EXPECT_NAMES(error, "member 1 at iteration 1, bucket 0: param group 0");
  EXPECT_NAMES(error, "adamw");
}

TEST(SparseRule, AWeightThatChangesByItselfIsNoticedWithinAThousandIterations) {
  World world(1, {64, 64}, 0.5, options_of(0.01));
  const auto run_until = [&](Iteration last) {
    for (Iteration t = 1; t <= last; ++t) {
      world[0].model.gradients[0][0] = 1;
      world.step(t);
      if (t == 500) world[0].rule->weights(0)[100] += 1;  // in the other tensor, that nothing is sent of
    }
  };
  const Error error = error_of([&] { run_until(1000); });
  EXPECT_EQ(error.code(), ErrorCode::mismatch);
  EXPECT_NAMES(error, "bucket 0 of this member changed outside of the optimizer");
  EXPECT_NAMES(error, "iteration 1000");
}

}  // namespace
}  // namespace stella::testing
