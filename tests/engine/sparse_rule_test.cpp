// The rule called directly, as the pipeline calls it: several members' rules in one thread.
#include "engine/sparse_rule.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

#include "engine/members.hpp"
#include "kernels/half_testing.hpp"
#include "kernels/kernel_testing.hpp"
#include "net/test_thread.hpp"
#include "stella/error.hpp"

namespace stella::testing {
namespace {

GroupSettings plain_sgd(double lr) {
  GroupSettings settings;
  settings.lr = lr;
  return settings;
}

EngineOptions options_of(double density, const std::string& wire = "fp32",
                         const std::string& selector = "blocks") {
  EngineOptions options;
  options.density = density;
  options.wire = wire;
  options.selector = selector;
  options.bucket_bytes = 4096;
  return options;
}

// A member without a network.
struct RuleMember {
  RuleMember(Rank which, const std::vector<std::int64_t>& sizes, const std::vector<GroupSettings>& with,
             const EngineOptions& options)
      : model(sizes), groups(with) {
    std::vector<std::string> names;
    for (const TensorSpec& spec : model.specs) names.push_back(spec.name);
    rule = std::make_unique<SparseRule>(plan_buckets(model.specs, options.bucket_bytes, options.block), names,
                                        groups, options, which,
                                        [](Rank rank) { return "member " + std::to_string(rank); });
    rule->state_loaded(0, model.weight_pointers);
  }

  std::vector<PayloadPtr> contribute(Iteration t) {
    StepInput input = model.input(groups);
    input.samples = samples;
    Step step(t, Level::active, input, rule->buckets());
    std::vector<PayloadPtr> payloads;
    for (BucketId bucket = 0; bucket < rule->buckets(); ++bucket) {
      if (rule->copy(bucket, step.input)) step.skip = true;
      payloads.push_back(rule->contribute(bucket, step));
    }
    return payloads;
  }
  // all[bucket]: by member
  void apply(Iteration t, std::span<const std::vector<PayloadPtr>> all) {
    for (BucketId bucket = 0; bucket < rule->buckets(); ++bucket) {
      rule->apply(bucket, rule->merge(bucket, all[bucket]));
      rule->publish(bucket, t, model.weight_pointers);
    }
  }

  Model model;
  std::vector<GroupSettings> groups;
  double samples = 1;
  std::unique_ptr<SparseRule> rule;
};

struct World {
  World(std::uint32_t world_size, const std::vector<std::int64_t>& sizes, double lr,
        const EngineOptions& options) {
    for (Rank rank = 0; rank < world_size; ++rank) {
      members.push_back(
          std::make_unique<RuleMember>(rank, sizes, std::vector<GroupSettings>{plain_sgd(lr)}, options));
    }
  }

  // By bucket, then by member.
  std::vector<std::vector<PayloadPtr>> contributions(Iteration t) {
    std::vector<std::vector<PayloadPtr>> all(members[0]->rule->buckets());
    for (auto& member : members) {
      const auto theirs = member->contribute(t);
      for (std::size_t bucket = 0; bucket < all.size(); ++bucket) all[bucket].push_back(theirs[bucket]);
    }
    return all;
  }
  void step(Iteration t) {
    const auto all = contributions(t);
    for (auto& member : members) member->apply(t, all);
  }
  RuleMember& operator[](Rank rank) { return *members[rank]; }

  std::vector<std::unique_ptr<RuleMember>> members;
};

using Sums = std::vector<std::vector<double>>;  // by tensor and element

Sums zeros_like(const Model& model) {
  Sums sums;
  for (const auto& tensor : model.weights) sums.emplace_back(tensor.size());
  return sums;
}

void fill_with_integers(Model& model, Random& random, Sums& produced) {
  for (std::size_t tensor = 0; tensor < model.gradients.size(); ++tensor) {
    for (std::size_t i = 0; i < model.gradients[tensor].size(); ++i) {
      const int value = static_cast<int>(random() % 2001) - 1000;
      model.gradients[tensor][i] = static_cast<float>(value);
      produced[tensor][i] += value;
    }
  }
}

void add_residual(RuleMember& member, Sums& sums) {
  for (const StateArray& array : member.rule->state()) {
    if (array.name != "residual") continue;
    for (std::size_t i = 0; i < array.numel; ++i) {
      sums[array.tensor][array.begin + i] += static_cast<const float*>(array.data)[i];
    }
  }
}

std::vector<std::int64_t> random_sizes(Random& random) {
  std::vector<std::int64_t> sizes{1};
  for (auto count = 1 + random() % 6; count > 0; --count) {
    sizes.push_back(static_cast<std::int64_t>(random() % (random() % 2 == 0 ? 40 : 3000)));
  }
  return sizes;
}

// What lies behind a tensor's last element, up to its block's end.
void expect_no_padding(RuleMember& member, std::size_t block) {
  for (const StateArray& array : member.rule->state()) {
    if (array.name == "steps") continue;
    const auto* values = static_cast<const float*>(array.data);
    for (std::size_t i = array.numel; i % block != 0; ++i)
      ASSERT_EQ(std::bit_cast<std::uint32_t>(values[i]), 0u) << array.name;
  }
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

TEST(SparseRule, NothingGathersInThePaddingWhateverTheOptimizer) {
  GroupSettings momentum = plain_sgd(0.1);
  momentum.momentum = 0.9;
  momentum.maximize = true;
  GroupSettings adam;
  adam.kind = OptimizerKind::adamw;
  adam.weight_decay = 0.1;
  adam.eps = 0;
  adam.amsgrad = true;
  Random random(seed());
  for (const GroupSettings& settings : {momentum, adam}) {
    for (const double density : {0.3, 1.0}) {
      for (const auto& [wire, block] :
           std::vector<std::pair<std::string, std::size_t>>{{"fp32", 16}, {"int1", 16}, {"int1", 64}}) {
        EngineOptions options = options_of(density, wire);
        options.block = block;
        RuleMember member(0, {5, 100, 1, 700}, {settings}, options);
        for (Iteration t = 1; t <= 5; ++t) {
          member.model.fill_gradients(random);
          std::vector<std::vector<PayloadPtr>> all;
          for (auto& payload : member.contribute(t)) all.push_back({payload});
          member.apply(t, all);
        }
        expect_no_padding(member, block);
      }
    }
  }
}

template <class Half>
std::vector<std::vector<Half>> halves_of(Model& model, Random& random, GradientType type) {
  std::vector<std::vector<Half>> halves;
  for (std::size_t tensor = 0; tensor < model.gradients.size(); ++tensor) {
    auto& values = halves.emplace_back();
    for (float& value : model.gradients[tensor]) {
      values.push_back(finite_half<Half>(random));
      value = std::fabs(value_of(values.back())) < 1e6f ? value_of(values.back()) : 0;
      if (value == 0) values.back() = Half{0};
    }
    model.gradient_views[tensor] = {values.data(), type};
  }
  return halves;
}

template <class Half>
void expect_halves_to_be_their_values(GradientType type) {
  Random random(seed());
  const std::vector<std::int64_t> sizes = {3000, 17, 1};
  RuleMember narrow(0, sizes, {plain_sgd(0.1)}, options_of(0.2));
  RuleMember wide(0, sizes, {plain_sgd(0.1)}, options_of(0.2));
  for (Iteration t = 1; t <= 5; ++t) {
    const auto halves = halves_of<Half>(narrow.model, random, type);
    wide.model.gradients = narrow.model.gradients;
    for (std::size_t i = 0; i < sizes.size(); ++i)
      wide.model.gradient_views[i] = {wide.model.gradients[i].data()};
    std::vector<std::vector<PayloadPtr>> all;
    const auto expected = wide.contribute(t);
    for (auto& payload : narrow.contribute(t)) all.push_back({payload});
    for (std::size_t bucket = 0; bucket < all.size(); ++bucket)
      ASSERT_EQ(all[bucket][0]->bytes(), expected[bucket]->bytes());
    narrow.apply(t, all);
    wide.apply(t, all);
  }
}

TEST(SparseRule, GradientsOfSixteenBitsAreTheirValues) {
  expect_halves_to_be_their_values<Bf16>(GradientType::bf16);
  expect_halves_to_be_their_values<Fp16>(GradientType::fp16);
}

TEST(SparseRule, AnInfinityOfSixteenBitsIsNamed) {
  for (const auto& [type, infinity] : {std::pair{GradientType::bf16, std::uint16_t{0x7f80}},
                                       std::pair{GradientType::fp16, std::uint16_t{0x7c00}}}) {
    RuleMember member(0, {40, 100}, {plain_sgd(0.1)}, options_of(0.2));
    std::vector<std::uint16_t> bits(100);
    bits[90] = infinity;
    member.model.gradient_views[1] = {bits.data(), type};
    StepInput input = member.model.input(member.groups);
    EXPECT_EQ(member.rule->copy(0, input), std::optional<std::uint32_t>(1));
  }
}

TEST(SparseRule, PaddingIsAtTheStepOfItsTensorAfterALoad) {
  GroupSettings adam;
  adam.kind = OptimizerKind::adamw;
  EngineOptions options = options_of(1);
  options.block = 64;
  RuleMember member(0, {1000, 5, 64}, {adam}, options);
  for (const StateArray& array : member.rule->state()) {
    if (array.name != "steps") continue;
    auto* steps = static_cast<std::uint32_t*>(array.data);
    std::fill_n(steps, (array.numel + kBlock - 1) / kBlock, array.tensor + 7);
  }
  member.rule->state_loaded(7, member.model.weight_pointers);
  for (const StateArray& array : member.rule->state()) {
    if (array.name != "steps") continue;
    const auto* steps = static_cast<const std::uint32_t*>(array.data);
    const std::size_t blocks = (array.numel + 63) / 64 * 4;
    for (std::size_t i = 0; i < blocks; ++i) EXPECT_EQ(steps[i], array.tensor + 7) << i;
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
  std::vector<std::vector<Bytes>> sent;
  std::vector<std::vector<std::uint64_t>> digests;
  on_every_target([&] {
    std::vector<Bytes> payloads;
    std::vector<std::uint64_t> own;
    for (const std::string wire : {"fp32", "bf16", "int8", "int4", "int2", "int1"}) {
      Random random(seed());
      World world(2, {3000, 17}, 0.1, options_of(0.1, wire));
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
  EXPECT_NAMES(error, "lr is 1 here, 2 there, where here is member 0 and there is member 1;");
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
  EXPECT_NAMES(error, "lr is 0.3 here, 0.3000000000003");
}

// The first contributor, not member 0: it may have nothing to contribute.
TEST(SparseRule, OfRoundedLearningRatesThatOfTheFirstWhoContributesIsApplied) {
  World world(3, {64}, 0.3, options_of(1));
  world[0].samples = 0;
  world[1].groups[0].lr = 0.3 * (1 + 0.9e-12);
  const auto all = world.contributions(1);
  for (auto& member : world.members) {
    EXPECT_EQ(member->rule->merge(0, all[0]).settings.lr, world[1].groups[0].lr);
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

// Its square does not fit into fp32, itself it does.
TEST(SparseRule, AHugeFiniteGradientIsSentFirst) {
  World world(1, {16, 64}, 1, options_of(0.01));
  world[0].model.gradients[0].assign(16, 1.0f);
  world[0].model.gradients[1][40] = 1e25f;
  world.step(1);
  EXPECT_EQ(world[0].model.weights[0][3], 0);
  EXPECT_EQ(world[0].model.weights[1][40], -1e25f);
}

TEST(SparseRule, AResidualThatOverflowsIsNamed) {
  World world(1, {16, 64}, 1, options_of(0.01));
  world[0].model.gradients[1][40] = std::numeric_limits<float>::max();
  world[0].samples = 10;
  const Error error = error_of([&] { world.step(1); });
  EXPECT_EQ(error.code(), ErrorCode::nonfinite);
  EXPECT_NAMES(error, "'tensor1' overflowed at iteration 1");
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

TEST(SparseRule, AParameterWithoutAGradientStaysAsItIs) {
  World world(1, {40, 40}, 1, options_of(1));
  RuleMember& member = world[0];
  member.groups[0].weight_decay = 0.5;
  for (auto& tensor : member.model.weights) tensor.assign(40, 1.0f);
  member.rule->read_parameters(member.model.weight_pointers);
  member.rule->state_loaded(0, member.model.weight_pointers);
  member.model.gradient_views[1] = {};
  world.step(1);
  EXPECT_EQ(member.model.weights[0], std::vector<float>(40, 0.5f));  // decayed, though its gradient is zero
  EXPECT_EQ(member.model.weights[1], std::vector<float>(40, 1.0f));
}

TEST(SparseRule, AStepOfNoSamplesContributesNothingAndKeepsTheResidual) {
  World world(2, {640}, 1, options_of(0.1));
  for (auto& member : world.members) member->model.gradients[0].assign(640, 1.0f);
  world.step(1);
  Sums before = zeros_like(world[0].model), after = before;
  add_residual(world[0], before);
  world[0].samples = 0;
  world[0].model.gradients[0].assign(640, std::numeric_limits<float>::quiet_NaN());  // the mean over nothing
  world.step(2);
  add_residual(world[0], after);
  EXPECT_EQ(before, after);
  EXPECT_EQ(world[0].rule->digest(), world[1].rule->digest());
}

}  // namespace
}  // namespace stella::testing
